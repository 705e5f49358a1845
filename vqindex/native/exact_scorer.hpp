// Exact scores of rows from their codes, operation for operation those of estimator.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "buffer.hpp"
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
        levels_(queries.stride),
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

  // Larger is better: distances are negated.
  float score_of(std::size_t q, std::size_t row, std::int64_t sum) const {
    const float ip = static_cast<float>(sum) * request_.queries.scale[q] * rows_.rescale_of(row);
    if (!request_.code.distance) return ip;
    const float norm = rows_.segment().norm[row], query = request_.queries.norm[q];
    return 2.0f * ip - (norm * norm + query * query);
  }

  void score_some(std::size_t q, const std::size_t* rows, const std::uint8_t* signs, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; ++i) codes_[i] = rows_.code_of(rows[i]);
    if (!request_.code.wide)
      kernels_.decode_dot_s8s16(request_.code.fields, codes_, rows_.segment().row_bytes, signs, count,
                                queries_.code_query_of(q), levels_.data(), sums_);
    else
      for (std::size_t i = 0; i < count; ++i) sums_[i] = wide_dot(q, codes_[i], signs + i * rows_.sign_row_bytes);
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

  std::int64_t wide_dot(std::size_t q, const std::uint8_t* code, const std::uint8_t* signs) {
    kernels_.decode_s8(request_.code.index, code, rows_.segment().row_bytes, signs, levels_.data());
    const std::int16_t* query = queries_.code_query_of(q);
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < request_.code.fields.dim; ++i)
      sum += std::int32_t{request_.code.wide[static_cast<std::uint8_t>(levels_[i])]} * query[i];
    return sum;
  }

  const SearchRequest& request_;
  const Kernels& kernels_;
  const PreparedQueries& queries_;
  const RowView& rows_;
  Buffer<std::int8_t> levels_;  // of one row
  Buffer<std::uint8_t> signs_;  // of the rows of score_some
  const std::uint8_t* codes_[kAtOnce];
  std::int64_t sums_[kAtOnce];
};

}  // namespace vqindex
