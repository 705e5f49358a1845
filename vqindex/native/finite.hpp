// Whether numbers are finite, in one pass over them that stores nothing.
#pragma once

#include <algorithm>
#include <cstddef>

#include "lanes.hpp"

namespace vqindex {

inline bool all_finite(const float* values, std::size_t n) {
  constexpr std::int32_t kExponent = 0x7f800000;  // all ones: an infinity or a NaN
  constexpr std::size_t kPiece = 4096;            // values between looks at what was found
  for (std::size_t begin = 0; begin < n; begin += kPiece) {
    const float* piece = values + begin;
    const int count = static_cast<int>(std::min(kPiece, n - begin));
    std::int32_t found = 0;
#if defined(__GNUC__) || defined(__clang__)
#pragma omp simd reduction(| : found)
#endif
    for (int i = 0; i < count; ++i)
      found |= -static_cast<std::int32_t>((float_bits(piece[i]) & kExponent) == kExponent);
    if (found) return false;
  }
  return true;
}

}  // namespace vqindex
