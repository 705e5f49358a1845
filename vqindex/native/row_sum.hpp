// The sum64 of vqindex/codes/estimator.py for a single vector: its 32 partial sums lie side by side, and the compiler
// keeps them in registers. lanes.hpp has the same for 16 vectors at a time.
#pragma once

#include <cstddef>

#include "lanes.hpp"

namespace vqindex {

constexpr std::size_t kPartials = 32;

// Adds the second half of the first 2 * kHalf partial sums to the first.
template <std::size_t kHalf>
VQ_INLINE void fold(double (&partial)[kPartials]) {
  VQ_LANES
  for (std::size_t p = 0; p < kHalf; ++p) partial[p] += partial[p + kHalf];
}

// Adds up the partial sums in place and returns the total.
VQ_INLINE double total(double (&partial)[kPartials]) {
  fold<16>(partial), fold<8>(partial), fold<4>(partial), fold<2>(partial), fold<1>(partial);
  return partial[0];
}

// Adds the squares of n coordinates, from a multiple of 32 on.
VQ_INLINE void add_squares(double (&partial)[kPartials], const float* values, std::size_t n) {
  std::size_t j = 0;
  for (; j + kPartials <= n; j += kPartials) {
    VQ_LANES
    for (std::size_t p = 0; p < kPartials; ++p) {
      const double wide = values[j + p];
      partial[p] += wide * wide;
    }
  }
  for (std::size_t p = 0; j + p < n; ++p) {
    const double wide = values[j + p];
    partial[p] += wide * wide;
  }
}

}  // namespace vqindex
