// A certain upper bound of the exact score, from the int8 levels of a row and the query rounded to int8.
//
// A score is (sum of level * code query) * scale * rescale. With
//   level = m * narrow level + s      (m is the multiplier; s = 0 if m is 1)
//   code query = n * narrow query + r      (n is PreparedQueries::narrow_step, 512 or 256)
// the int8 sum less its offset gives n m <narrow levels, narrow query>. It leaves out m <narrow levels, r> + <s, code
// query>. By the Cauchy-Schwarz inequality this is at most m |narrow levels| |r| + |s| |code query|. Each |s| of a
// level is at most 255. The query's slack is at least |code query| / 128 where m > 1, so that one product, slack *
// error, covers both terms.
#pragma once

#include <cfloat>
#include <cmath>

#include "row_view.hpp"
#include "scan_queries.hpp"

namespace vqindex {

// A row's terms in UpperBoundTest: what one unit of its int8 sum is worth, what the sum leaves out at most per unit of
// the query's slack, and its squared norm for distances.
struct RowTerms {
  float weight, error, norm2;
};

class Int8Prefilter {
 public:
  Int8Prefilter(const SearchRequest& request, const Kernels& kernels, const PreparedQueries& queries,
                const RowView& rows)
      : request_(request), kernels_(kernels), queries_(queries), rows_(rows) {}

  RowTerms terms_of(std::size_t row, const std::int8_t* levels) const {
    const float m = static_cast<float>(request_.code.multiplier), rescale = rows_.rescale_of(row);
    const float rest = m > 1 ? 128.0f * 255.0f * std::sqrt(static_cast<float>(request_.code.fields.dim)) : 0.0f;
    const float length = std::sqrt(static_cast<float>(kernels_.square_s8(levels, queries_.stride)));
    const float norm = request_.code.distance ? rows_.segment().norm[row] : 0.0f;
    return {static_cast<float>(queries_.narrow_step) * m * rescale, (m * length + rest) * rescale, norm * norm};
  }

  // The test for a query's threshold. kRoom and FLT_MIN leave room for the float32 roundings of scores and of the test.
  UpperBoundTest test_of(std::size_t q, float threshold) const {
    const float scale = request_.queries.scale[q];
    UpperBoundTest test{queries_.offset[q], scale, queries_.slack[q],
                        threshold - kRoom * std::fabs(threshold) - FLT_MIN, 0.0f};
    if (request_.code.distance) {
      const float query2 = request_.queries.norm[q] * request_.queries.norm[q];
      test.gain = 2.0f * scale;
      test.threshold = threshold + query2 - kRoom * (std::fabs(threshold) + query2) - FLT_MIN;
      test.norm2_weight = 1.0f - kRoom;
    }
    return test;
  }

 private:
  const SearchRequest& request_;
  const Kernels& kernels_;
  const PreparedQueries& queries_;
  const RowView& rows_;
};

}  // namespace vqindex
