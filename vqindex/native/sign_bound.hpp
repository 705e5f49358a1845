// The sign bound of rows, from their agreement with a query (sign_bound.py), and which rows have bounds above a
// threshold.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "row_view.hpp"
#include "scan_queries.hpp"

namespace vqindex {

class SignBound {
 public:
  SignBound(const SearchRequest& request, const Kernels& kernels, const PreparedQueries& queries, const RowView& rows)
      : kernels_(kernels), queries_(queries), rows_(rows), integer_thresholds_(request.queries.count) {}

  float from_sum(std::size_t q, std::size_t row, std::int32_t sum) const {
    return sign_bound_from_sum(sum, queries_.sign_bound[q], rows_.norm_of(row));
  }

  float from_agreement(std::size_t q, std::size_t row, std::uint16_t agreement) const {
    return sign_bound_from_agreement(agreement, queries_.sign_bound[q], rows_.norm_of(row));
  }

  // Masks the rows from `at` (a multiple of 64) to `stop` that query q may find and whose bounds are above the
  // threshold. `sums` has their agreement. Returns whether there are any.
  bool mask_above(std::size_t q, std::size_t at, std::size_t stop, const std::uint16_t* sums, float threshold,
                  std::uint64_t* masks) {
    const std::size_t blocks = blocks_of(at, stop);
    if (rows_.has_norms()) {
      const float* first = norms_from(at, stop);
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t count = std::min(kBlockRows, stop - at - b * kBlockRows);
        const float* norms = first + b * kBlockRows;
        if (count < kBlockRows) norms = std::copy_n(norms, count, last_norms_) - count;
        masks[b] = kernels_.mask_sign_bound_gt(sums + b * kBlockRows, queries_.sign_bound[q], norms, threshold);
      }
    } else {
      const std::int32_t least = integer_threshold(q, threshold);
      if (least == 0)
        std::fill(masks, masks + blocks, ~std::uint64_t{0});
      else if (!kernels_.mask_gt_u16(sums, blocks, static_cast<std::uint16_t>(least - 1), masks))
        return false;
    }
    std::uint64_t any = 0;
    for (std::size_t b = 0; b < blocks; ++b)
      any |= masks[b] &= rows_.selected(q, at + b * kBlockRows) & first_bits(stop - at - b * kBlockRows);
    return any != 0;
  }

  // The threshold as an agreement: bounds of rows of norm 1 grow with the agreement alone. Returns the least agreement
  // whose bound is above the threshold, from 0 (all are) to 65536 (none is).
  std::int32_t integer_threshold(std::size_t q, float threshold) {
    Known& known = integer_thresholds_[q];
    if (!(known.threshold == threshold)) known = {threshold, find_integer_threshold(queries_.sign_bound[q], threshold)};
    return known.agreement;
  }

 private:
  struct Known {
    float threshold = std::numeric_limits<float>::quiet_NaN();
    std::int32_t agreement = 0;
  };

  // The norms of the rows from `at` to `stop`, side by side. Those of records are copied, once for queries that ask for
  // the same rows one after the other.
  const float* norms_from(std::size_t at, std::size_t stop) {
    const StridedFloats& norm = rows_.segment().norm;
    if (norm.stride == 1) return norm.first + at;
    if (norms_of_ != norm.first || norms_at_ != at || norms_.size() < stop - at) {
      norms_.resize(stop - at);
      for (std::size_t i = 0; i < stop - at; ++i) norms_[i] = norm[at + i];
      norms_of_ = norm.first;
      norms_at_ = at;
    }
    return norms_.data();
  }

  static std::int32_t find_integer_threshold(const SignBoundTerms& terms, float threshold) {
    constexpr std::int32_t none = 65536;
    const auto is_above = [&](std::int32_t agreement) {
      return sign_bound_from_agreement(agreement, terms, 1.0f) > threshold;
    };
    if (!(terms.scale > 0)) return sign_bound_from_sum(0, terms, 1.0f) > threshold ? 0 : none;
    // Solves the bound for the agreement. The float32 solution is off by a rounding or two at most.
    const float guess = ((threshold - terms.width) / terms.scale + static_cast<float>(terms.offset)) / 2;
    std::int32_t least = guess > 0 ? static_cast<std::int32_t>(std::min(guess, 65535.0f)) : 0;
    while (least < none && !is_above(least)) ++least;
    while (least > 0 && is_above(least - 1)) --least;
    return least;
  }

  const Kernels& kernels_;
  const PreparedQueries& queries_;
  const RowView& rows_;
  std::vector<Known> integer_thresholds_;          // the last answer for each query
  alignas(64) float last_norms_[kBlockRows] = {};  // of a block that is not full
  // The norms of some records, and which ones these are.
  std::vector<float> norms_;
  const float* norms_of_ = nullptr;
  std::size_t norms_at_ = 0;
};

}  // namespace vqindex
