// Checks whether all numbers are finite, in one pass that stores nothing.
#pragma once

#include <algorithm>
#include <cstddef>

#include "lanes.hpp"

namespace vqindex {

inline bool all_finite(const float* values, std::size_t n) {
  constexpr std::int32_t kExponent = 0x7f800000;  // all of these bits are set in infinities and NaNs only
  constexpr std::size_t kStep = 4096;             // values between two checks of the result
  for (std::size_t begin = 0; begin < n; begin += kStep) {
    const float* step = values + begin;
    const int count = static_cast<int>(std::min(kStep, n - begin));
    std::int32_t found = 0;
#if defined(__GNUC__) || defined(__clang__)
#pragma omp simd reduction(| : found)
#endif
    for (int i = 0; i < count; ++i) found |= -static_cast<std::int32_t>((float_bits(step[i]) & kExponent) == kExponent);
    if (found) return false;
  }
  return true;
}

}  // namespace vqindex
