// Work on rows split over threads.
#pragma once

#include <algorithm>
#include <cstddef>

#include "pool.hpp"

namespace vqindex {

// Rows of each share when n rows are dealt to `threads` threads in whole blocks.
inline std::size_t share_rows(std::size_t n, std::size_t threads, std::size_t block) {
  const std::size_t blocks = (n + block - 1) / block;
  return std::max<std::size_t>(1, (blocks + threads - 1) / threads) * block;
}

// Call work(number, begin, end) for every share of n rows, the first one on this thread.
template <typename Work>
void for_shares(std::size_t n, std::size_t share, const Work& work) {
  on_threads(std::max<std::size_t>(1, (n + share - 1) / share),
             [&](std::size_t number) { work(number, number * share, std::min(n, (number + 1) * share)); });
}

}  // namespace vqindex
