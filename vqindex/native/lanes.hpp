// Floats of 16 vectors side by side. Column j has coordinate j of each vector, one vector per lane. Each step is a
// plain loop over lanes, which the compiler vectorizes for the target it is inlined into. Lanes never mix, so each
// vector has the same roundings in the same order whatever the register width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "isa.hpp"

#ifdef VQ_X86
#include <xmmintrin.h>  // part of the baseline
#elif defined(VQ_ARM)
#include <arm_neon.h>
#endif

// Says that the lanes of the following loop are independent, and keeps the compiler from unrolling the loop before it
// vectorizes it. Needs -fopenmp-simd but no OpenMP runtime.
#if defined(__GNUC__) || defined(__clang__)
#define VQ_LANES _Pragma("omp simd")
#else
#define VQ_LANES
#endif

namespace vqindex {

constexpr int kLanes = 16;
constexpr std::size_t kAlign = 64;  // bytes; a column of floats is one cache line

using LaneDoubles = double[kLanes];

VQ_INLINE std::int32_t float_bits(float value) {
  std::int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

VQ_INLINE float bits_float(std::int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The bits of |value|. Finite magnitudes compare like their bits, also where the processor takes subnormals for zero.
VQ_INLINE std::int32_t magnitude_bits(float value) { return float_bits(value) & 0x7fffffff; }

constexpr std::int32_t kTiny = 1 << 23;  // the bits of the smallest normal float

// Rounds to float, and subnormal results to 0.
VQ_INLINE float flush(double value) {
  const std::int32_t bits = float_bits(static_cast<float>(value));
  // A mask instead of a condition, because compilers don't vectorize branches.
  return bits_float(bits & -static_cast<std::int32_t>((bits & 0x7fffffff) >= kTiny));
}

// Rounds to the nearest integer, half to even, as np.rint does; |value| < 2^22. The baseline has no vector instruction
// for this. -ffast-math would cancel the two steps, and is not used.
VQ_INLINE float round_even(float value) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: floats around it are the integers
  return (value + kMagic) - kMagic;
}

// Transposes the 4 by 4 values that begin at rows[0..3] + at into columns.
VQ_INLINE void transpose_four(const float* const* rows, std::size_t at, float* columns) {
#ifdef VQ_X86
  __m128 a = _mm_loadu_ps(rows[0] + at), b = _mm_loadu_ps(rows[1] + at);
  __m128 c = _mm_loadu_ps(rows[2] + at), d = _mm_loadu_ps(rows[3] + at);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(columns, a);
  _mm_storeu_ps(columns + kLanes, b);
  _mm_storeu_ps(columns + 2 * kLanes, c);
  _mm_storeu_ps(columns + 3 * kLanes, d);
#elif defined(VQ_ARM)
  const float32x4_t a = vld1q_f32(rows[0] + at), b = vld1q_f32(rows[1] + at);
  const float32x4_t c = vld1q_f32(rows[2] + at), d = vld1q_f32(rows[3] + at);
  const float32x4x2_t even = vzipq_f32(a, c), odd = vzipq_f32(b, d);
  const float32x4x2_t low = vzipq_f32(even.val[0], odd.val[0]), high = vzipq_f32(even.val[1], odd.val[1]);
  vst1q_f32(columns, low.val[0]);
  vst1q_f32(columns + kLanes, low.val[1]);
  vst1q_f32(columns + 2 * kLanes, high.val[0]);
  vst1q_f32(columns + 3 * kLanes, high.val[1]);
#else
  for (int c = 0; c < 4; ++c)
    for (int r = 0; r < 4; ++r) columns[c * kLanes + r] = rows[r][at + c];
#endif
}

// Copies d coordinates of kLanes rows into columns.
VQ_INLINE void load_columns(const float* const (&rows)[kLanes], std::size_t d, float* columns) {
  std::size_t j = 0;
  for (; j + 4 <= d; j += 4)
    for (int lane = 0; lane < kLanes; lane += 4) transpose_four(rows + lane, j, columns + j * kLanes + lane);
  for (; j < d; ++j)
    for (int lane = 0; lane < kLanes; ++lane) columns[j * kLanes + lane] = rows[lane][j];
}

// A sum in the frozen order (sum64 of vqindex/codes/estimator.py): 32 partial sums, with term j in partial j % 32.
struct Sum64 {
  alignas(kAlign) LaneDoubles partial[32];

  VQ_INLINE void clear() {
    for (auto& lanes : partial) VQ_LANES
    for (int i = 0; i < kLanes; ++i) lanes[i] = 0.0;
  }

  // Adds up the partial sums in place and returns the total, partial[0].
  VQ_INLINE const LaneDoubles& total() {
    for (int half = 16; half > 0; half /= 2)
      for (int p = 0; p < half; ++p) VQ_LANES
    for (int i = 0; i < kLanes; ++i) partial[p][i] += partial[p + half][i];
    return partial[0];
  }
};

}  // namespace vqindex
