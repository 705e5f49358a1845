// Exact scores of rows from their codes, operation for operation those of estimator.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "buffer.hpp"
#include "exact_sums.hpp"
#include "row_view.hpp"
#include "scan_queries.hpp"

namespace vqindex {

class ExactScorer {
 public:
  ExactScorer(const SearchRequest& request, const Kernels& kernels, const PreparedQueries& queries, const RowView& rows)
      : request_(request),
        kernels_(kernels),
        queries_(queries),
        rows_(rows),
        exact_sums_(request.code, kernels),
        signs_(kAtOnce * rows.sign_row_bytes) {}

  // Scores rows. It is fastest if rows of a block follow each other, because their sign bits are then copied together.
  void score_rows(std::size_t q, const std::size_t* rows, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; i += kAtOnce) {
      const std::size_t some = std::min(kAtOnce, count - i);
      if (request_.code.fields.tops) copy_signs(rows + i, some);
      score_some(q, rows + i, signs_.data(), some, scores + i);
    }
  }

  // The same if the rows' sign bits are copied already.
  void score_rows(std::size_t q, const std::size_t* rows, const std::uint8_t* signs, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; i += kAtOnce)
      score_some(q, rows + i, signs + i * rows_.sign_row_bytes, std::min(kAtOnce, count - i), scores + i);
  }

  // Scores a row that is decoded already. Codes with wider levels than int8 decode it again.
  float score_decoded(std::size_t q, std::size_t row, const std::int8_t* levels) {
    if (!request_.code.wide)
      return score_of(q, row, kernels_.dot_s8s16(levels, queries_.code_query_of(q), queries_.stride));
    float score;
    score_rows(q, &row, 1, &score);
    return score;
  }

 private:
  static constexpr std::size_t kAtOnce = 64;  // rows whose sign bits and sums are kept at once

  float score_of(std::size_t q, std::size_t row, std::int64_t sum) const {
    const bool distance = request_.code.distance;
    return exact_score(sum, request_.queries.scale[q], rows_.rescale_of(row), distance,
                       distance ? rows_.segment().norm[row] : 0.0f, request_.queries.norm[q]);
  }

  void score_some(std::size_t q, const std::size_t* rows, const std::uint8_t* signs, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; ++i) codes_[i] = rows_.code_of(rows[i]);
    exact_sums_(queries_.code_query_of(q), codes_, rows_.segment().row_bytes, signs, count, sums_);
    for (std::size_t i = 0; i < count; ++i) scores[i] = score_of(q, rows[i], sums_[i]);
  }

  void copy_signs(const std::size_t* rows, std::size_t count) {
    for (std::size_t i = 0, next; i < count; i = next) {
      const std::size_t block = rows[i] / kBlockRows * kBlockRows;
      std::uint64_t mask = 0;
      // Takes ascending rows of one block.
      for (next = i; next < count && rows[next] - block < kBlockRows && !(mask >> (rows[next] - block)); ++next)
        mask |= std::uint64_t{1} << (rows[next] - block);
      rows_.copy_signs(block, mask, signs_.data() + i * rows_.sign_row_bytes);
    }
  }

  const SearchRequest& request_;
  const Kernels& kernels_;
  const PreparedQueries& queries_;
  const RowView& rows_;
  ExactSums exact_sums_;
  Buffer<std::uint8_t> signs_;  // of the rows of score_some
  const std::uint8_t* codes_[kAtOnce];
  std::int64_t sums_[kAtOnce];
};

}  // namespace vqindex
