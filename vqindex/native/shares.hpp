// Work on rows split over threads that live for one call: nothing to shut down, and safe after a fork.
#pragma once

#include <algorithm>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace vqindex {

// Rows of each share when n rows are dealt to `threads` threads in whole blocks.
inline std::size_t share_rows(std::size_t n, std::size_t threads, std::size_t block) {
  const std::size_t blocks = (n + block - 1) / block;
  return std::max<std::size_t>(1, (blocks + threads - 1) / threads) * block;
}

// Call work(number, begin, end) for every share of n rows, the first one on this thread.
template <typename Work>
void for_shares(std::size_t n, std::size_t share, const Work& work) {
  std::vector<std::thread> others;
  others.reserve(n / share + 1);
  for (std::size_t number = 1; number * share < n; ++number) {
    const std::size_t begin = number * share, end = std::min(n, begin + share);
    try {
      others.emplace_back(work, number, begin, end);
    } catch (const std::system_error&) {
      work(number, begin, end);  // the system has no thread to give
    }
  }
  work(0, 0, std::min(n, share));
  for (std::thread& other : others) other.join();
}

}  // namespace vqindex
