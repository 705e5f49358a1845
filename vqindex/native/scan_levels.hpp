// Scans that meet all levels of all rows: for codes without a sign plane, and for exact searches.
#pragma once

#include "scorer.hpp"

namespace vqindex {

constexpr std::size_t kArranged = 3;  // queries from which arranging a tile pays

class LevelScan {
 public:
  explicit LevelScan(Scorer& scorer) : s_(scorer) {}

  void run(std::size_t first, std::size_t last, const Poll& poll) {
    if (s_.task.queries.count < kArranged)
      by_rows(first, last, poll);
    else
      by_tiles(first, last, poll);
  }

 private:
  // So few queries that sharing levels gains nothing: decoded and scored in one go.
  void by_rows(std::size_t first, std::size_t last, const Poll& poll) {
    const std::size_t nq = s_.task.queries.count;
    for (std::size_t at = first; at < last && s_.go_on(poll, kBlockRows * nq * s_.dim); at += kBlockRows) {
      const std::size_t count = std::min(kBlockRows, last - at);
      if (!s_.any_allowed(0, nq, at, at + count)) continue;
      for (std::size_t q = 0; q < nq; ++q) {
        std::size_t rows[kBlockRows], found = 0;
        float scores[kBlockRows];
        for (std::uint64_t bits = s_.allowed_of(q, at) & first_bits(count); bits; bits &= bits - 1)
          rows[found++] = at + lowest_bit(bits);
        s_.score_rows(q, rows, found, scores);
        for (std::size_t i = 0; i < found; ++i)
          if (!(scores[i] < s_.bar(q))) s_.push(q, rows[i], scores[i], std::numeric_limits<float>::infinity());
      }
    }
  }

  // 128 rows at a time are decoded and met by every query.
  void by_tiles(std::size_t first, std::size_t last, const Poll& poll) {
    row_signs_.assign(kTileRows * s_.stride / 8, 0);
    levels_.resize(kTileRows * s_.stride);
    tile_.resize(kTileRows * s_.stride);
    sums_.resize(kTileQueries * kTileRows);
    const std::size_t nq = s_.task.queries.count, dim = padded(s_.dim, 4);
    for (std::size_t at = first; at < last && s_.go_on(poll, kTileRows * nq * s_.dim); at += kTileRows) {
      const std::size_t count = std::min(kTileRows, last - at);
      if (!s_.any_allowed(0, nq, at, at + count)) continue;
      decode(at, count);
      s_.kernels.arrange_tile(levels_.data(), s_.stride, tile_.data());
      for (std::size_t q = 0; q < nq; q += kTileQueries) {
        const std::size_t some = std::min(kTileQueries, nq - q);
        s_.kernels.dot_tile_s8s8(tile_.data(), s_.stride, dim, s_.prepared.narrow.data() + q * s_.stride, some,
                                 sums_.data());
        for (std::size_t i = 0; i < some; ++i) score_passing(q + i, at, count, sums_.data() + i * kTileRows);
      }
    }
  }

  void decode(std::size_t at, std::size_t count) {
    const Rows& rows = s_.rows();
    s_.fetch_codes(at + count, std::min(kTileRows, rows.count - at - count));
    if (s_.task.code.fields.tops) s_.sign_rows(at, at + count, row_signs_.data());
    std::memset(levels_.data() + count * s_.stride, 0, (kTileRows - count) * s_.stride);
    for (std::size_t r = 0; r < kTileRows; ++r) {
      Scorer::Weight of{0, 0, 0};
      if (r < count) {
        s_.kernels.decode(s_.task.code.fields, s_.code_of(at + r), rows.row_bytes, signs_of(r), levels_of(r));
        of = s_.weigh(at + r, levels_of(r));
      }
      weight_[r] = of.weight;
      error_[r] = of.error;
      size_[r] = of.size;
    }
  }

  void score_passing(std::size_t q, std::size_t at, std::size_t count, const std::int32_t* sums) {
    for (std::size_t half = 0; half < count; half += kBlockRows) {
      std::uint64_t hits =
          s_.kernels.mask_upper_bound_gt(sums + half, s_.test_of(q), weight_ + half, error_ + half, size_ + half);
      hits &= s_.allowed_of(q, at + half) & first_bits(count - half);
      for (; hits; hits &= hits - 1) {
        const std::size_t r = half + lowest_bit(hits), row = at + r;
        s_.push(q, row, s_.score_levels(q, row, levels_of(r)), std::numeric_limits<float>::infinity());
      }
    }
  }

  std::int8_t* levels_of(std::size_t r) { return levels_.data() + r * s_.stride; }
  std::uint8_t* signs_of(std::size_t r) { return row_signs_.data() + r * (s_.stride / 8); }

  Scorer& s_;
  Buffer<std::int8_t> levels_;
  Buffer<std::uint8_t> tile_, row_signs_;
  Buffer<std::int32_t> sums_;
  alignas(64) float weight_[kTileRows], error_[kTileRows], size_[kTileRows];
};

}  // namespace vqindex
