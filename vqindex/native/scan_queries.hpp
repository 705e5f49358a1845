// The narrow versions of a batch of queries that kernels meet first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "scan.hpp"

namespace vqindex {

constexpr float kRoom = 2e-6f;  // relative; a score is at most five float32 roundings away from the exact value

constexpr std::size_t kTogetherUnits = 8;  // most units whose entries are added as bytes; two always can be
static_assert(2 * 8 * kUnitBytes * kSignLimit <= 255);

// A query's int8 versions and what they leave out; the same for all threads.
struct Prepared {
  std::size_t stride;
  Buffer<std::int16_t> lead;         // with zeros up to the stride
  Buffer<std::int8_t> narrow;        // rint(lead / 512), for the full scan of levels
  std::vector<std::int32_t> offset;  // 128 * their sum
  std::vector<float> slack;          // norm of what the rounding left, in steps of lead, and room for float errors
  std::size_t sign_stride;
  Buffer<std::int8_t> sign;  // rint(lead * 5 / 32767), for the sign plane
  std::vector<SignBoundTerms> bound;
  std::vector<std::size_t> units_per_byte_sum;  // units of the sign plane whose entries add up to a byte
};

// The int8 versions for levels only of several queries: one alone meets its rows exactly at once.
Prepared prepare_queries(const Task& task);

}  // namespace vqindex
