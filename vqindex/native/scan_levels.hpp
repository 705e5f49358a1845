// The scan over all levels, for codes without sign bits and for searches without a sign bound.
//
// One or two queries are scored exactly while each row is decoded. For three or more, 128 rows at a time are decoded to
// int8 levels. All queries multiply them as int8 first. That sum gives an upper bound (int8_prefilter.hpp), and only
// rows whose bound is above the threshold get their exact score.
#pragma once

#include <cstring>
#include <limits>

#include "scan_context.hpp"

namespace vqindex {

constexpr std::size_t kPrefilterQueries = 3;  // with so many queries, arranging a dot tile and the prefilter pay

class LevelScan {
 public:
  explicit LevelScan(ScanContext& context) : c_(context) {}

  // Scans the rows from `first`, a multiple of 64, to `last`.
  void scan(std::size_t first, std::size_t last, const Poll& poll) {
    if (c_.request.queries.count < kPrefilterQueries)
      scan_blocks(first, last, poll);
    else
      scan_tiles(first, last, poll);
  }

 private:
  static constexpr float kNoBound = std::numeric_limits<float>::infinity();

  void scan_blocks(std::size_t first, std::size_t last, const Poll& poll) {
    const std::size_t nq = c_.request.queries.count;
    for (std::size_t at = first; at < last && c_.keep_going(poll, kBlockRows * nq * c_.dim); at += kBlockRows) {
      const std::size_t count = std::min(kBlockRows, last - at);
      if (!c_.rows.any_selected(0, nq, at, at + count)) continue;
      for (std::size_t q = 0; q < nq; ++q) {
        std::size_t rows[kBlockRows], found = 0;
        float scores[kBlockRows];
        for (std::uint64_t bits = c_.rows.selected(q, at) & first_bits(count); bits; bits &= bits - 1)
          rows[found++] = at + lowest_bit(bits);
        c_.scorer.score_rows(q, rows, found, scores);
        for (std::size_t i = 0; i < found; ++i)
          if (!(scores[i] < c_.top_k.threshold(q))) c_.top_k.push(q, rows[i], scores[i], kNoBound);
      }
    }
  }

  void scan_tiles(std::size_t first, std::size_t last, const Poll& poll) {
    sign_rows_.assign(kDotTileRows * c_.rows.sign_row_bytes, 0);
    levels_.resize(kDotTileRows * c_.stride);
    tile_.resize(kDotTileRows * c_.stride);
    sums_.resize(kDotTileQueries * kDotTileRows);
    const std::size_t nq = c_.request.queries.count, dim = padded(c_.dim, 4);
    for (std::size_t at = first; at < last && c_.keep_going(poll, kDotTileRows * nq * c_.dim); at += kDotTileRows) {
      const std::size_t count = std::min(kDotTileRows, last - at);
      if (!c_.rows.any_selected(0, nq, at, at + count)) continue;
      decode_tile(at, count);
      c_.kernels.arrange_tile_s8(levels_.data(), c_.stride, tile_.data());
      for (std::size_t q = 0; q < nq; q += kDotTileQueries) {
        const std::size_t some = std::min(kDotTileQueries, nq - q);
        c_.kernels.dot_tile_s8s8(tile_.data(), c_.stride, dim, c_.queries.narrow_query.data() + q * c_.stride, some,
                                 sums_.data());
        for (std::size_t i = 0; i < some; ++i) score_survivors(q + i, at, count, sums_.data() + i * kDotTileRows);
      }
    }
  }

  // Decodes `count` rows from `at` on, and fills the tile with zero rows.
  void decode_tile(std::size_t at, std::size_t count) {
    const SegmentView& segment = c_.rows.segment();
    c_.rows.prefetch_codes(at + count, std::min(kDotTileRows, segment.count - at - count));
    if (c_.request.code.fields.tops) c_.rows.copy_all_signs(at, at + count, sign_rows_.data());
    std::memset(levels_.data() + count * c_.stride, 0, (kDotTileRows - count) * c_.stride);
    for (std::size_t r = 0; r < kDotTileRows; ++r) {
      RowTerms terms{0, 0, 0};
      if (r < count) {
        c_.kernels.decode_s8(c_.request.code.fields, c_.rows.code_of(at + r), segment.row_bytes, signs_of(r),
                             levels_of(r));
        terms = c_.prefilter.terms_of(at + r, levels_of(r));
      }
      weight_[r] = terms.weight;
      error_[r] = terms.error;
      norm2_[r] = terms.norm2;
    }
  }

  void score_survivors(std::size_t q, std::size_t at, std::size_t count, const std::int32_t* sums) {
    for (std::size_t half = 0; half < count; half += kBlockRows) {
      const UpperBoundTest test = c_.prefilter.test_of(q, c_.top_k.threshold(q));
      std::uint64_t mask =
          c_.kernels.mask_upper_bound_gt(sums + half, test, weight_ + half, error_ + half, norm2_ + half);
      mask &= c_.rows.selected(q, at + half) & first_bits(count - half);
      for (; mask; mask &= mask - 1) {
        const std::size_t r = half + lowest_bit(mask), row = at + r;
        c_.top_k.push(q, row, c_.scorer.score_decoded(q, row, levels_of(r)), kNoBound);
      }
    }
  }

  std::int8_t* levels_of(std::size_t r) { return levels_.data() + r * c_.stride; }
  std::uint8_t* signs_of(std::size_t r) { return sign_rows_.data() + r * c_.rows.sign_row_bytes; }

  ScanContext& c_;
  Buffer<std::int8_t> levels_;
  Buffer<std::uint8_t> tile_, sign_rows_;
  Buffer<std::int32_t> sums_;
  alignas(64) float weight_[kDotTileRows], error_[kDotTileRows], norm2_[kDotTileRows];
};

}  // namespace vqindex
