// Divides rows evenly among threads, for work that takes the same time for every row.
#pragma once

#include <algorithm>
#include <cstddef>

#include "pool.hpp"

namespace vqindex {

// Returns how many rows each thread gets if n rows are divided among `threads` threads, in whole blocks.
inline std::size_t rows_per_thread(std::size_t n, std::size_t threads, std::size_t block_rows) {
  const std::size_t blocks = (n + block_rows - 1) / block_rows;
  return std::max<std::size_t>(1, (blocks + threads - 1) / threads) * block_rows;
}

// Calls work(thread, begin, end) for every `share` of n rows, the first one on the calling thread.
template <typename Work>
void parallel_rows(std::size_t n, std::size_t share, const Work& work) {
  on_threads(std::max<std::size_t>(1, (n + share - 1) / share),
             [&](std::size_t thread) { work(thread, thread * share, std::min(n, (thread + 1) * share)); });
}

}  // namespace vqindex
