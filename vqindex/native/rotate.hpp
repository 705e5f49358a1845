// The Hadamard rotation of 16 vectors side by side, as columns (definition: vqindex/codes/rotation.py). Files that
// include this inline it into one function per instruction set.
#pragma once

#include <algorithm>
#include <cmath>

#include "lanes.hpp"

namespace vqindex {

constexpr int kRounds = 3;

// Views of the tables of one rotation.
struct Hadamard {
  std::size_t dim;
  const float* factors;         // [kRounds][dim], of round_factors
  const std::uint32_t* source;  // [dim]: coordinate i after a round is coordinate source[i] of its butterflies
};

// The scale of a chunk's butterflies. Chunks are the binary digits of the dimension, the largest first.
inline float chunk_scale(std::size_t size) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(size))); }

// Computes what coordinates are multiplied by at the start of each round: the round's signs, [kRounds][dim], times the
// scale that the round before left out, that of the chunk a coordinate comes from. A change of sign is exact, so both
// together round once, as in rotation.py. Only the last round ends with a multiplication.
inline void round_factors(std::size_t dim, const float* signs, const std::uint32_t* source, float* factors) {
  std::copy_n(signs, kRounds * dim, factors);
  std::size_t begin = 0;
  for (std::size_t size = std::size_t{1} << 31; size > 0; size /= 2) {
    if (!(dim & size)) continue;
    for (std::size_t j = 0; j < dim; ++j) {
      if (source[j] < begin || source[j] >= begin + size) continue;
      for (int round = 1; round < kRounds; ++round) factors[round * dim + j] *= chunk_scale(size);
    }
    begin += size;
  }
}

VQ_INLINE void cross(float& a, float& b) {
  const float difference = a - b;
  a += b;
  b = difference;
}

// Runs the stages of half-width below 16 on each 16 coordinates of a single vector.
VQ_INLINE void short_stages(float* values, std::size_t n) {
  for (std::size_t begin = 0; begin < n; begin += 16) {
    float* block = values + begin;
    VQ_UNROLL
    for (int half = 1; half < 16; half *= 2) {
      VQ_UNROLL
      for (int j = 0; j < 16; ++j)
        if (!(j & half)) cross(block[j], block[j + half]);
    }
  }
}

// Runs log2(Radix) stages of butterflies on one lane of Radix columns, then one multiplication. It uses eight names
// instead of an array because GCC does not vectorize a loop whose body has an array of its own. Names beyond Radix
// compile to nothing.
template <int Radix, bool Scaled>
VQ_INLINE void butterfly_lane(const float* const (&from)[8], const float (&factor)[8], float scale, float* to,
                              std::size_t stride, int lane) {
  float a = Scaled ? from[0][lane] * factor[0] : from[0][lane];
  float b = Radix < 2 ? 0.0f : Scaled ? from[1][lane] * factor[1] : from[1][lane];
  float c = Radix < 4 ? 0.0f : Scaled ? from[2][lane] * factor[2] : from[2][lane];
  float d = Radix < 4 ? 0.0f : Scaled ? from[3][lane] * factor[3] : from[3][lane];
  float e = Radix < 8 ? 0.0f : Scaled ? from[4][lane] * factor[4] : from[4][lane];
  float f = Radix < 8 ? 0.0f : Scaled ? from[5][lane] * factor[5] : from[5][lane];
  float g = Radix < 8 ? 0.0f : Scaled ? from[6][lane] * factor[6] : from[6][lane];
  float h = Radix < 8 ? 0.0f : Scaled ? from[7][lane] * factor[7] : from[7][lane];
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

template <int Radix, bool Scaled>
VQ_INLINE void butterfly(const float* const (&from)[8], const float (&factor)[8], float scale, float* to,
                         std::size_t stride) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) butterfly_lane<Radix, Scaled>(from, factor, scale, to, stride, i);
}

// Runs the first stages of a round. They read their columns in the order of the previous round's permutation (round 0
// has none before it) and multiply them by the round's factors.
template <int Radix>
VQ_INLINE void first_stages(const Hadamard& tables, int round, const float* in, std::size_t begin, std::size_t size,
                            float scale, float* out) {
  const float* factors = tables.factors + round * tables.dim;
  for (std::size_t j = begin; j < begin + size; j += Radix) {
    const float* from[8];
    float factor[8];
    for (int k = 0; k < Radix; ++k) {
      from[k] = in + (round == 0 ? j + k : tables.source[j + k]) * kLanes;
      factor[k] = factors[j + k];
    }
    butterfly<Radix, true>(from, factor, scale, out + j * kLanes, 1);
  }
}

// Runs the stages of half-width `half` and up, in place.
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

// Rotates one chunk in one round. The last stages of the last round multiply by the scale; for the other rounds see
// round_factors.
VQ_INLINE void rotate_chunk(const Hadamard& tables, int round, const float* in, std::size_t begin, std::size_t size,
                            float* out) {
  const float scale = round == kRounds - 1 ? chunk_scale(size) : 1.0f;
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

// Rotates `columns`, [dim][kLanes], in place but without the last permutation: coordinate j of the result is column
// source[j]. `other` is scratch of the same size. The first round reads no permuted columns, so it works in place.
VQ_INLINE void rotate(const Hadamard& tables, float* columns, float* other) {
  for (int round = 0; round < kRounds; ++round) {
    const float* in = round == 2 ? other : columns;
    float* out = round == 1 ? other : columns;
    std::size_t begin = 0;
    for (std::size_t size = std::size_t{1} << 31; size > 0; size /= 2) {
      if (!(tables.dim & size)) continue;
      rotate_chunk(tables, round, in, begin, size, out);
      begin += size;
    }
  }
}

}  // namespace vqindex
