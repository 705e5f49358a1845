// The scan for one query at a time, with a sign bound.
//
// A query's time is mostly that of reading the sign bits from memory, so each byte is read once, as one stream:
//
//   sum the agreement of the first rows, the deferred rows, without scoring them
//   seed the threshold from those of them that agree most
//   for each row tile of the other rows
//     sum its agreement
//     for each slice of the tile: rows whose bound is above the threshold become candidates; score earlier candidates
//   revisit the deferred rows, now with the threshold that the other rows reached
//
// A candidate's code comes from memory. It is prefetched when the row becomes a candidate, and scored about 16
// candidates later, together with others.
#pragma once

#include <algorithm>

#include "threshold_seeder.hpp"

namespace vqindex {

// A row tile has 384 KB of sign bits. They stay in the second-level cache until its candidates' bits are copied.
constexpr std::size_t kRowTileSignBytes = std::size_t{3} << 17;
constexpr std::size_t kRowTileMaxRows = std::size_t{1} << 15;

inline std::size_t row_tile_rows(std::size_t sign_bytes) {
  return std::clamp(kRowTileSignBytes / sign_bytes / kGroupRows * kGroupRows, kGroupRows, kRowTileMaxRows);
}

// How many rows are deferred. More of them make a better seed threshold. But their sign bits have left the cache when
// they are revisited, and each that is a candidate then reads its bits again: one cache line for each byte, because a
// block stores 64 rows side by side. So the number of deferred rows falls with the square of their bytes of sign bits:
// 2^27 / bytes^2, which is 58,000 rows at d = 384 and 14,500 at d = 768. It is one row in 16 if that is more, and 65536
// at most.
constexpr std::size_t kDeferredRowBytes2 = std::size_t{1} << 27;
constexpr std::size_t kDeferredShare = 16, kDeferredMaxRows = std::size_t{1} << 16;

constexpr std::size_t kRowsPerSeed = 4;         // seeding needs so many deferred rows per seed row, of 2 k
constexpr std::size_t kPendingCandidates = 16;  // candidates are scored when so many newer ones have been prefetched

// A slice of a row tile: rows that are compared with one value of the threshold.
constexpr std::size_t kSliceBytes = std::size_t{3} << 13, kSliceMaxRows = 4 * kGroupRows;

class SignScan {
 public:
  explicit SignScan(ScanContext& context) : c_(context), seeder_(context) {}

  // Scans the rows from `first`, a multiple of 64, to `last`.
  void scan(std::size_t first, std::size_t last, const Poll& poll) {
    tile_rows_ = row_tile_rows(c_.rows.sign_bytes);
    slice_rows_ = std::clamp(kSliceBytes / c_.rows.sign_bytes / kGroupRows * kGroupRows, kGroupRows, kSliceMaxRows);
    signs_.resize((kPendingCandidates + 2 * slice_rows_) * c_.rows.sign_row_bytes);
    for (std::size_t q = 0; q < c_.request.queries.count; ++q) {
      const std::uint8_t* const tables = tables_of(q);
      c_.top_k.pull_threshold(q);
      const std::size_t deferred_end = c_.top_k.has_threshold(q) ? first : first + count_deferred(last - first);
      if (!sum_signs(q, tables, first, deferred_end, deferred_sums_, poll)) return;
      if (deferred_end > first && deferred_end - first >= kRowsPerSeed * 2 * c_.request.k)
        seeder_.seed_threshold(q, {{first, deferred_end, deferred_sums_.data()}});
      for (std::size_t at = deferred_end, stop; at < last; at = stop) {
        stop = std::min(last, at + tile_rows_);
        if (!sum_signs(q, tables, at, stop, sums_, poll)) return;
        c_.top_k.pull_threshold(q);
        collect(q, at, stop, sums_, false);
      }
      c_.top_k.pull_threshold(q);
      collect(q, first, deferred_end, deferred_sums_, true);
      score(q, count_);
    }
  }

 private:
  static constexpr std::size_t kMaxCandidates = kPendingCandidates + 2 * kSliceMaxRows;

  // The tables of all queries are kept, because their rows may come in many row ranges.
  const std::uint8_t* tables_of(std::size_t q) {
    const std::size_t bytes = c_.units * kUnitTable;
    tables_.resize(c_.request.queries.count * bytes);
    std::uint8_t* const tables = tables_.data() + q * bytes;
    if (q == made_) c_.kernels.sign_tables_s8u8(c_.queries.sign_query_of(made_++), c_.units, tables);
    return tables;
  }

  std::size_t count_deferred(std::size_t rows) const {
    const std::size_t bytes = c_.rows.sign_bytes;
    const std::size_t count = std::max(kDeferredRowBytes2 / (bytes * bytes), rows / kDeferredShare);
    return std::min(rows, std::min(kDeferredMaxRows, padded(count, kGroupRows)));
  }

  // Sums the agreement of the rows from `first` to `last`. Returns false if the search is to stop.
  bool sum_signs(std::size_t q, const std::uint8_t* tables, std::size_t first, std::size_t last,
                 Buffer<std::uint16_t>& sums, const Poll& poll) {
    sums.resize(std::max(sums.size(), padded(last - first, kBlockRows)));
    for (std::size_t at = first, stop; at < last; at = stop) {
      stop = std::min(last, at + tile_rows_);
      if (!c_.keep_going(poll, (stop - at) * c_.dim)) return false;
      if (c_.rows.any_selected(q, 1, at, stop))
        c_.kernels.sign_blocks_u8u16(c_.rows.sign_block(at), c_.rows.sign_bytes, blocks_of(at, stop), tables,
                                     c_.queries.units_per_byte_sum[q], sums.data() + (at - first));
    }
    return true;
  }

  // Makes candidates of the rows whose bounds are above the threshold, and scores those of earlier steps. `revisit`
  // says that these are the deferred rows, which come after rows of higher numbers.
  void collect(std::size_t q, std::size_t at, std::size_t stop, const Buffer<std::uint16_t>& all_sums, bool revisit) {
    std::uint64_t masks[kSliceMaxRows / kBlockRows];
    const std::uint16_t* sums = all_sums.data();
    for (; at < stop; at += slice_rows_, sums += slice_rows_) {
      const std::size_t last = std::min(stop, at + slice_rows_);
      const float threshold = revisit ? c_.top_k.threshold_with_ties(q) : c_.top_k.threshold(q);
      if (!c_.sign_bound.mask_above(q, at, last, sums, threshold, masks)) continue;
      const std::size_t blocks = blocks_of(at, last), before = count_;
      for (std::size_t b = next_block(masks, 0, blocks), next; b < blocks; b = next) {
        next = next_block(masks, b + 1, blocks);
        if (revisit && next < blocks)
          prefetch_bytes(c_.rows.sign_block(at + next * kBlockRows), c_.rows.sign_bytes * kBlockRows);
        add_candidates(at + b * kBlockRows, masks[b], sums + b * kBlockRows);
      }
      if (before >= kPendingCandidates) score(q, before);
    }
  }

  // The next block with a candidate.
  static std::size_t next_block(const std::uint64_t* masks, std::size_t b, std::size_t blocks) {
    while (b < blocks && !masks[b]) ++b;
    return b;
  }

  // Copies the sign bits of the rows in `mask` while they are in the cache, and prefetches their codes.
  void add_candidates(std::size_t block, std::uint64_t mask, const std::uint16_t* sums) {
    if (c_.request.code.fields.tops) c_.rows.copy_signs(block, mask, signs_of(count_));
    for (; mask; mask &= mask - 1, ++count_) {
      const std::size_t r = lowest_bit(mask);
      c_.rows.prefetch_row(block + r);
      rows_[count_] = block + r;
      agreement_[count_] = sums[r];
    }
  }

  // Scores the first `some` candidates, all together so that their loads overlap, and then keeps the good ones.
  void score(std::size_t q, std::size_t some) {
    c_.scorer.score_rows(q, rows_, signs_of(0), some, scores_);
    c_.candidates[q] += some;
    for (std::size_t i = 0; i < some; ++i)
      if (!(scores_[i] < c_.top_k.threshold(q)))
        c_.top_k.push(q, rows_[i], scores_[i], c_.sign_bound.from_agreement(q, rows_[i], agreement_[i]));
    std::copy(rows_ + some, rows_ + count_, rows_);
    std::copy(agreement_ + some, agreement_ + count_, agreement_);
    if (c_.request.code.fields.tops) std::copy(signs_of(some), signs_of(count_), signs_of(0));
    count_ -= some;
  }

  std::uint8_t* signs_of(std::size_t i) { return signs_.data() + i * c_.rows.sign_row_bytes; }

  ScanContext& c_;
  ThresholdSeeder seeder_;
  Buffer<std::uint8_t> tables_;
  std::size_t made_ = 0;  // the tables of so many queries are made
  std::size_t tile_rows_ = 0, slice_rows_ = 0;
  Buffer<std::uint16_t> sums_, deferred_sums_;  // agreement of a row tile, and of the deferred rows
  // Candidates: fewer than kPendingCandidates of earlier slices, and those of two slices.
  std::size_t count_ = 0, rows_[kMaxCandidates];
  std::uint16_t agreement_[kMaxCandidates];
  Buffer<std::uint8_t> signs_;
  float scores_[kMaxCandidates];
};

}  // namespace vqindex
