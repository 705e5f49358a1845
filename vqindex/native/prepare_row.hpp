// Prepares a single query. It has the roundings of rotate.hpp and encode_block.hpp in the same order, but 16
// coordinates are side by side instead of 16 vectors, most of which a short batch doesn't have. Only encode.cpp
// includes this.
#pragma once

#include <algorithm>
#include <cmath>

#include "encode_block.hpp"
#include "row_sum.hpp"

namespace vqindex {

constexpr float kQueryLimit = 32767.0f;

// The bits of the largest magnitude of n values.
VQ_INLINE std::int32_t peak_bits(const float* values, std::size_t n) {
  std::int32_t peak = 0;
#if defined(__GNUC__) || defined(__clang__)
#pragma omp simd reduction(max : peak)
#endif
  for (std::size_t j = 0; j < n; ++j) peak = std::max(peak, magnitude_bits(values[j]));
  return peak;
}

// Runs all stages on a chunk, whose size is a power of two.
template <typename Steps>
VQ_INLINE void stages_of_row(float* values, std::size_t size) {
  std::size_t half = 1;
  if (size >= 16) {
    Steps::short_stages(values, size);
    half = 16;
  }
  for (; half < size; half *= 2)
    for (std::size_t begin = 0; begin < size; begin += 2 * half) {
      float *low = values + begin, *high = low + half;
      VQ_LANES
      for (std::size_t j = 0; j < half; ++j) cross(low[j], high[j]);
    }
}

// Rotates a row in place but without the last permutation, as `rotate` does; `other` is scratch of the same size.
template <typename Steps>
VQ_INLINE void rotate_row(const Hadamard& tables, float* values, float* other) {
  const std::size_t d = tables.dim;
  for (int round = 0; round < kRounds; ++round) {
    const float* factors = tables.factors + round * d;
    float* out = round == 1 ? other : values;
    const float* in = round == 2 ? other : values;
    if (round == 0)
      for (std::size_t j = 0; j < d; ++j) out[j] *= factors[j];
    else
      for (std::size_t j = 0; j < d; ++j) out[j] = in[tables.source[j]] * factors[j];
    std::size_t begin = 0;
    for (std::size_t size = std::size_t{1} << 31; size > 0; size /= 2) {
      if (!(d & size)) continue;
      stages_of_row<Steps>(out + begin, size);
      if (round == kRounds - 1) {
        const float scale = chunk_scale(size);
        for (std::size_t j = begin; j < begin + size; ++j) out[j] *= scale;
      }
      begin += size;
    }
  }
}

// Prepares one finite query; `scratch` has room for 2 * dim floats.
template <typename Steps>
VQ_INLINE void prepare_row(const EncodeTables& tables, const float* row, float* scratch, std::int16_t* code_query,
                           float* code_scale, float* norm) {
  const Hadamard& rotation = tables.rotation;
  const std::size_t d = rotation.dim;
  float *values = scratch, *other = scratch + d;
  const std::int32_t row_peak = peak_bits(row, d), limit = scaling_limit(row_peak);
  const float power = scaling_power(row_peak);
  for (std::size_t j = 0; j < d; ++j) values[j] = scaled(row[j], power, limit);
  alignas(kAlign) double partial[kPartials] = {};
  add_squares(partial, values, d);
  Norms norms{};  // of which only the first lane is used
  norms.norm2[0] = total(partial);
  norms.norm[0] = std::sqrt(norms.norm2[0]);
  norms.unit[0] = 1.0 / static_cast<double>(power);
  rotate_row<Steps>(rotation, values, other);

  const std::int32_t peak = peak_bits(values, d);
  const float largest = bits_float(peak), inverse = kQueryLimit / (peak > 0 ? largest : 1.0f);
  for (std::size_t j = 0; j < d; ++j) {
    const float whole = clipped_integer(values[rotation.source[j]], inverse, kQueryLimit);
    code_query[j] = static_cast<std::int16_t>(static_cast<std::int32_t>(whole));
  }
  alignas(kAlign) LaneDoubles step = {static_cast<double>(largest) / static_cast<double>(kQueryLimit)};
  alignas(kAlign) float scalars[kLanes];
  metric_lengths(step, norms, tables.cosine, scalars);
  *code_scale = scalars[0];
  metric_lengths(norms.norm, norms, tables.cosine, scalars);
  *norm = scalars[0];
}

}  // namespace vqindex
