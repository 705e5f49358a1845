// Products of int16 queries and the exact levels of packed rows, and the scores that follow from them, operation for
// operation those of estimator.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "buffer.hpp"
#include "scan.hpp"

namespace vqindex {

// The score of a row with an exact sum. Larger is better: distances are negated.
inline float exact_score(std::int64_t sum, float scale, float rescale, bool distance, float norm, float query_norm) {
  const float ip = static_cast<float>(sum) * scale * rescale;
  return distance ? 2.0f * ip - (norm * norm + query_norm * query_norm) : ip;
}

class ExactSums {
 public:
  ExactSums(const Code& code, const Kernels& kernels)
      : code_(code), kernels_(kernels), levels_(padded(code.fields.dim, 64)) {}

  // sums[i] = <levels of the packed row codes[i], query>. The query has padded(dim, 64) values. The rows' sign bits
  // follow each other at `signs`, padded(dim, 64) / 8 bytes each.
  void operator()(const std::int16_t* query, const std::uint8_t* const* codes, std::size_t row_bytes,
                  const std::uint8_t* signs, std::size_t count, std::int64_t* sums) {
    if (!code_.wide)
      return kernels_.decode_dot_s8s16(code_.fields, codes, row_bytes, signs, count, query, levels_.data(), sums);
    for (std::size_t i = 0; i < count; ++i)
      sums[i] = wide_dot(query, codes[i], row_bytes, signs + i * (levels_.size() / 8));
  }

 private:
  std::int64_t wide_dot(const std::int16_t* query, const std::uint8_t* code, std::size_t row_bytes,
                        const std::uint8_t* signs) {
    kernels_.decode_s8(code_.index, code, row_bytes, signs, levels_.data());
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < code_.fields.dim; ++i)
      sum += std::int32_t{code_.wide[static_cast<std::uint8_t>(levels_[i])]} * query[i];
    return sum;
  }

  const Code& code_;
  const Kernels& kernels_;
  Buffer<std::int8_t> levels_;  // of one row
};

}  // namespace vqindex
