// The seeded Hadamard rotation on a block of columns (definition: vqindex/rotation.py). Only for kernel files, which
// inline it into one function per instruction set.
#pragma once

#include <cmath>

#include "lanes.hpp"

namespace vqindex {

constexpr int kRounds = 3;

// Views of the tables of one rotation.
struct Hadamard {
  std::size_t dim;
  const float* signs;           // [kRounds][dim], each +1 or -1
  const std::uint32_t* source;  // [dim]: coordinate i after a round is coordinate source[i] of its butterflies
};

VQ_INLINE void cross(float& a, float& b) {
  const float difference = a - b;
  a += b;
  b = difference;
}

// log2(Radix) stages of butterflies on one lane of Radix columns, then one multiplication. Eight names instead of an
// array: GCC widens no loop whose body has an array of its own. What is beyond Radix folds away.
template <int Radix, bool Signed>
VQ_INLINE void butterfly_lane(const float* const (&from)[8], const float (&sign)[8], float scale, float* to,
                              std::size_t stride, int lane) {
  float a = Signed ? from[0][lane] * sign[0] : from[0][lane];
  float b = Radix < 2 ? 0.0f : Signed ? from[1][lane] * sign[1] : from[1][lane];
  float c = Radix < 4 ? 0.0f : Signed ? from[2][lane] * sign[2] : from[2][lane];
  float d = Radix < 4 ? 0.0f : Signed ? from[3][lane] * sign[3] : from[3][lane];
  float e = Radix < 8 ? 0.0f : Signed ? from[4][lane] * sign[4] : from[4][lane];
  float f = Radix < 8 ? 0.0f : Signed ? from[5][lane] * sign[5] : from[5][lane];
  float g = Radix < 8 ? 0.0f : Signed ? from[6][lane] * sign[6] : from[6][lane];
  float h = Radix < 8 ? 0.0f : Signed ? from[7][lane] * sign[7] : from[7][lane];
  if (Radix >= 2) cross(a, b), cross(c, d), cross(e, f), cross(g, h);
  if (Radix >= 4) cross(a, c), cross(b, d), cross(e, g), cross(f, h);
  if (Radix >= 8) cross(a, e), cross(b, f), cross(c, g), cross(d, h);
  float* out = to + lane;
  const std::size_t step = stride * kLanes;
  out[0] = a * scale;
  if (Radix >= 2) out[step] = b * scale;
  if (Radix >= 4) out[2 * step] = c * scale, out[3 * step] = d * scale;
  if (Radix >= 8) out[4 * step] = e * scale, out[5 * step] = f * scale;
  if (Radix >= 8) out[6 * step] = g * scale, out[7 * step] = h * scale;
}

template <int Radix, bool Signed>
VQ_INLINE void butterfly(const float* const (&from)[8], const float (&sign)[8], float scale, float* to,
                         std::size_t stride) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) butterfly_lane<Radix, Signed>(from, sign, scale, to, stride, i);
}

// The first stages of a round: they fetch their columns in the order of the last round's permutation (round 0 has
// none before it) and change the signs.
template <int Radix>
VQ_INLINE void first_stages(const Hadamard& tables, int round, const float* in, std::size_t begin, std::size_t size,
                            float scale, float* out) {
  const float* signs = tables.signs + round * tables.dim;
  for (std::size_t j = begin; j < begin + size; j += Radix) {
    const float* from[8];
    float sign[8];
    for (int k = 0; k < Radix; ++k) {
      from[k] = in + (round == 0 ? j + k : tables.source[j + k]) * kLanes;
      sign[k] = signs[j + k];
    }
    butterfly<Radix, true>(from, sign, scale, out + j * kLanes, 1);
  }
}

// Stages of half-width `half` and up, in place.
template <int Radix>
VQ_INLINE void later_stages(float* columns, std::size_t size, std::size_t half, float scale) {
  for (std::size_t block = 0; block < size; block += Radix * half) {
    for (std::size_t j = block; j < block + half; ++j) {
      const float* from[8];
      const float none[8] = {};
      for (int k = 0; k < Radix; ++k) from[k] = columns + (j + k * half) * kLanes;
      butterfly<Radix, false>(from, none, scale, columns + j * kLanes, half);
    }
  }
}

// One chunk of one round. Multiplying by 1 changes nothing, so only the last stages get the chunk's scale.
VQ_INLINE void rotate_chunk(const Hadamard& tables, int round, const float* in, std::size_t begin, std::size_t size,
                            float* out) {
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size)));
  switch (size) {
    case 1:
      return first_stages<1>(tables, round, in, begin, size, scale, out);
    case 2:
      return first_stages<2>(tables, round, in, begin, size, scale, out);
    case 4:
      return first_stages<4>(tables, round, in, begin, size, scale, out);
    case 8:
      return first_stages<8>(tables, round, in, begin, size, scale, out);
    default:
      first_stages<8>(tables, round, in, begin, size, 1.0f, out);
  }
  float* chunk = out + begin * kLanes;
  std::size_t half = 8;
  for (; half * 8 < size; half *= 8) later_stages<8>(chunk, size, half, 1.0f);
  if (half * 8 == size) return later_stages<8>(chunk, size, half, scale);
  if (half * 4 == size) return later_stages<4>(chunk, size, half, scale);
  later_stages<2>(chunk, size, half, scale);
}

// Rotate `columns`, [dim][kLanes], but for the last permutation: coordinate j of the result is column source[j] of
// `rotated`. Both arrays are written.
VQ_INLINE void rotate(const Hadamard& tables, float* columns, float* rotated) {
  for (int round = 0; round < kRounds; ++round) {
    const float* in = round % 2 ? rotated : columns;
    float* out = round % 2 ? columns : rotated;
    std::size_t begin = 0;
    // Chunks are the binary digits of dim, the largest first.
    for (std::size_t size = std::size_t{1} << 31; size > 0; size /= 2) {
      if (!(tables.dim & size)) continue;
      rotate_chunk(tables, round, in, begin, size, out);
      begin += size;
    }
  }
}

}  // namespace vqindex
