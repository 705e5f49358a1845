// The steps for 16 vectors that all codes share: loading, scaling by a power of two, rotating, the stored scalars, and
// rounding to integers. Only encode.cpp includes this; it inlines the steps into one function per instruction set.
#pragma once

#include <algorithm>
#include <cmath>

#include "encode.hpp"

namespace vqindex {

// The lengths of each vector, before it is rotated.
struct Norms {
  alignas(kAlign) LaneDoubles norm2;  // of the scaled vector; 0 only for zero vectors
  alignas(kAlign) LaneDoubles norm;   // its root
  alignas(kAlign) LaneDoubles unit;   // 2^shift: x = x' * unit
};

// Raises `peak` to the bits of the largest magnitude of each lane.
VQ_INLINE void raise_peaks(const float* columns, std::size_t d, std::int32_t (&peak)[kLanes]) {
  for (std::size_t j = 0; j < d; ++j) {
    const float* column = columns + j * kLanes;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const std::int32_t bits = magnitude_bits(column[i]);
      peak[i] = bits > peak[i] ? bits : peak[i];
    }
  }
}

// The power of two that brings a vector's peak, whose bits are given, into [2, 4); 1 for a zero vector.
VQ_INLINE float scaling_power(std::int32_t peak) {
  // The peak is m 2^(exponent - 127) with m in [1, 2). It is scaled to 2m. Exponent 0 means a zero vector.
  const std::int32_t exponent = peak >> 23;
  const std::int32_t biased = exponent > 0 ? 255 - exponent : 127;
  return bits_float(biased << 23);
}

// The bits of the least magnitude that does not become 0.
VQ_INLINE std::int32_t scaling_limit(std::int32_t peak) {
  // Values that scale to less than 2^-31 become 0, and so do subnormal ones. Values of the first kind are 2^32 times
  // smaller than the peak's power of two. So one limit covers both rules.
  const std::int32_t exponent = peak >> 23;
  return exponent > 33 ? (exponent - 32) << 23 : kTiny;
}

// Multiplies a value by a power of two, and returns 0 if its magnitude is below the limit.
VQ_INLINE float scaled(float value, float power, std::int32_t limit) {
  const std::int32_t keep = -static_cast<std::int32_t>(magnitude_bits(value) >= limit);
  return bits_float(float_bits(value * power) & keep);
}

// Returns round(value * inverse), clipped to +-limit.
VQ_INLINE float clipped_integer(float value, float inverse, float limit) {
  value *= inverse;
  value = value > -limit ? value : -limit;
  value = value < limit ? value : limit;
  return round_even(value);
}

// Multiplies each lane by its power of two, sets values below the lane's limit to 0, and sums the squares.
VQ_INLINE void scale_columns(float* columns, std::size_t d, const float* power, const std::int32_t* limit,
                             LaneDoubles& norm2) {
  Sum64 sum;
  sum.clear();
  for (std::size_t j = 0; j < d; ++j) {
    float* column = columns + j * kLanes;
    double* partial = sum.partial[j % 32];
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const float value = scaled(column[i], power[i], limit[i]);
      const double wide = value;
      column[i] = value;
      partial[i] += wide * wide;
    }
  }
  std::copy_n(sum.total(), kLanes, norm2);
}

// Prefetches `count` cache lines of the next 16 rows, from line `line` on; they have one line for each coordinate. The
// last pass over a block does this, because earlier passes wait for lines of their own. It goes in order, so that the
// hardware prefetcher joins in.
VQ_INLINE void fetch_ahead(const float* next, std::size_t line, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) prefetch(next + (line + i) * kLanes);
}

// Returns the 16 rows after the first 16 of `remaining` rows, or `rows` itself if there are fewer.
VQ_INLINE const float* next_block(const float* rows, std::size_t remaining, std::size_t d) {
  return remaining >= 2 * kLanes ? rows + kLanes * d : rows;
}

// Loads, scales and rotates up to kLanes rows; `other` is scratch.
template <typename Steps>
VQ_INLINE void rotate_rows(const Hadamard& rotation, const float* rows, std::size_t lanes, float* columns, float* other,
                           Norms& norms) {
  const std::size_t d = rotation.dim;
  const float* lane[kLanes];
  // Lanes without a row repeat the first row. Nothing of them is stored.
  for (std::size_t i = 0; i < kLanes; ++i) lane[i] = rows + (i < lanes ? i * d : 0);
  alignas(kAlign) std::int32_t peak[kLanes] = {}, limit[kLanes];
  Steps::load(lane, d, columns, peak);

  alignas(kAlign) float power[kLanes];
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    power[i] = scaling_power(peak[i]);
    norms.unit[i] = 1.0 / static_cast<double>(power[i]);
    limit[i] = scaling_limit(peak[i]);
  }

  Steps::scale(columns, d, power, limit, norms.norm2);
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) norms.norm[i] = std::sqrt(norms.norm2[i]);
  Steps::rotate(rotation, columns, other);
}

// Converts lengths of scaled vectors to those of the metric: multiples of |x| for cosine, else the original lengths.
VQ_INLINE void metric_lengths(const double* values, const Norms& norms, bool cosine, float* out) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    const bool some = norms.norm2[i] > 0.0;
    const double relative = values[i] / (some ? norms.norm[i] : 1.0);
    out[i] = flush(cosine ? (some ? relative : 0.0) : values[i] * norms.unit[i]);
  }
}

// The standard deviation of a coordinate of each rotated vector.
VQ_INLINE void deviations(const Norms& norms, std::size_t d, float* scale) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) scale[i] = static_cast<float>(std::sqrt(norms.norm2[i] / static_cast<double>(d)));
}

// Writes the stored scalars. `dot` is <y, yhat>; only renormalized codecs use it.
VQ_INLINE void store_scalars(const EncodeTables& tables, const Norms& norms, const double* dot, std::size_t lanes,
                             float* rescale, float* norm) {
  alignas(kAlign) float rescales[kLanes], lengths[kLanes];
  if (tables.renormalized) {
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const bool positive = dot[i] > 0.0;
      const double ratio = (tables.cosine ? norms.norm[i] : norms.norm2[i]) / (positive ? dot[i] : 1.0);
      rescales[i] = flush(positive ? ratio * (tables.cosine ? 1.0 : norms.unit[i]) : 0.0);
    }
  } else {
    alignas(kAlign) LaneDoubles values;
    const double step = tables.cell_scale;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) values[i] = norms.norm[i] * step;
    metric_lengths(values, norms, tables.cosine, rescales);
  }
  std::copy_n(rescales, lanes, rescale);
  if (!norm) return;
  metric_lengths(norms.norm, norms, false, lengths);
  std::copy_n(lengths, lanes, norm);
}

// Writes round(y * inverse), clipped to +-limit, row by row. Prefetches the next 16 rows meanwhile.
VQ_INLINE void store_integers(const Hadamard& rotation, const float* rotated, const float* inverse, float limit,
                              std::size_t lanes, const float* next, std::int16_t* out) {
  const std::size_t d = rotation.dim;
  alignas(kAlign) float tile[kLanes][kLanes] = {}, turned[kLanes][kLanes];
  const float* tile_rows[kLanes];
  for (int c = 0; c < kLanes; ++c) tile_rows[c] = tile[c];
  for (std::size_t begin = 0; begin < d; begin += kLanes) {
    const std::size_t width = std::min<std::size_t>(kLanes, d - begin);
    fetch_ahead(next, begin, width);
    for (std::size_t c = 0; c < width; ++c) {
      const float* column = rotated + rotation.source[begin + c] * kLanes;
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) tile[c][i] = clipped_integer(column[i], inverse[i], limit);
    }
    load_columns(tile_rows, kLanes, turned[0]);
    for (std::size_t i = 0; i < lanes; ++i) {
      alignas(kAlign) std::int16_t whole[kLanes];
      VQ_LANES
      for (int c = 0; c < kLanes; ++c) whole[c] = static_cast<std::int16_t>(static_cast<std::int32_t>(turned[i][c]));
      if (width == kLanes)
        std::memcpy(out + i * d + begin, whole, sizeof whole);
      else
        std::copy_n(whole, width, out + i * d + begin);
    }
  }
}

}  // namespace vqindex
