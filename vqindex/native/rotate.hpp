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

// log2(Radix) stages of butterflies on Radix columns held in registers, then one multiplication.
template <int Radix, bool Signed>
VQ_INLINE void butterfly(const float* const (&from)[8], const float (&sign)[8], float scale, float* to,
                         std::size_t stride) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    float v[Radix];
    for (int k = 0; k < Radix; ++k) v[k] = Signed ? from[k][i] * sign[k] : from[k][i];
    for (int half = 1; half < Radix; half *= 2) {
      for (int k = 0; k < Radix; ++k) {
        if (k & half) continue;
        const float a = v[k], b = v[k | half];
        v[k] = a + b;
        v[k | half] = a - b;
      }
    }
    for (int k = 0; k < Radix; ++k) to[k * stride * kLanes + i] = v[k] * scale;
  }
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
