// Seeds a query's threshold before the scan. Of some rows it scores those that agree most with the query, and sets the
// threshold just below the k-th best of their rank scores. The rows themselves are scanned later like all others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "scan_context.hpp"

namespace vqindex {

// Rows from `at`, a multiple of 64, to `stop`, and their agreement with a query.
struct AgreementOfRows {
  std::size_t at, stop;
  const std::uint16_t* sums;
};

class ThresholdSeeder {
 public:
  explicit ThresholdSeeder(ScanContext& context) : c_(context) {}

  // Scores 2 * k to 4 * k of the rows that query q may find, those of the highest agreement whatever their norms. If
  // too many rows share one agreement, scores the first 4 * k of them. If a selection leaves fewer than k, does
  // nothing.
  void seed_threshold(std::size_t q, const std::vector<AgreementOfRows>& rows) {
    find_seed_rows(q, rows, 2 * c_.request.k);
    if (seeds_.size() < c_.request.k) return;  // a selection left too few
    rows_.clear();
    for (const SeedRow& seed : seeds_) {
      rows_.push_back(seed.row);
      c_.rows.prefetch_row(seed.row);
    }
    scores_.resize(rows_.size());
    c_.scorer.score_rows(q, rows_.data(), rows_.size(), scores_.data());
    TopK best(c_.request.k);
    for (std::size_t i = 0; i < rows_.size(); ++i)
      best.push({std::min(scores_[i], seeds_[i].bound), 0, static_cast<std::int64_t>(rows_[i])});
    float kth = std::numeric_limits<float>::infinity();
    for (const Hit& hit : best.finish()) kth = std::min(kth, hit.rank_score);
    c_.top_k.raise_threshold(q, kth);
  }

 private:
  // With so many blocks per row to find, looking at the largest agreement of each block first pays.
  static constexpr std::size_t kManyBlocks = 4;

  struct SeedRow {
    std::size_t row;
    float bound;
  };

  struct Block {
    std::size_t at;
    const std::uint16_t* sums;
    std::uint64_t selected, mask;  // rows that the query may find; rows above the limit
  };

  // Finds `count` to 2 * count rows of the highest agreement: searches by bisection for a limit that so many are above.
  void find_seed_rows(std::size_t q, const std::vector<AgreementOfRows>& rows, std::size_t count) {
    list_blocks(q, rows);
    most_ = c_.queries.sign_bound[q].offset;
    std::int32_t limit = most_ / 2 + most_ / 8;  // a first guess
    if (blocks_.size() > kManyBlocks * count) {
      // If `count` blocks have their largest agreement above a limit, at least so many rows are above it. All rows
      // above it are in these blocks, so the other blocks need no further look.
      find_largest(rows);
      limit = find_limit(limit, count, [this](std::int32_t x) { return count_blocks_above(x); });
      keep_masked_blocks();
    }
    find_limit(limit, count, [this](std::int32_t x) { return count_rows_above(x); });
    seeds_.clear();
    for (const Block& block : blocks_)
      for (std::uint64_t bits = block.mask; bits && seeds_.size() < 2 * count; bits &= bits - 1) {
        const std::size_t r = lowest_bit(bits), row = block.at + r;
        seeds_.push_back({row, c_.sign_bound.from_agreement(q, row, block.sums[r])});
      }
  }

  void list_blocks(std::size_t q, const std::vector<AgreementOfRows>& rows) {
    blocks_.clear();
    for (const AgreementOfRows& some : rows)
      for (std::size_t at = some.at; at < some.stop; at += kBlockRows)
        blocks_.push_back({at, some.sums + (at - some.at), c_.rows.selected(q, at) & first_bits(some.stop - at), 0});
  }

  // Finds a limit that `count` to 2 * count things are above, from a guess; count_above(limit) counts and masks them.
  template <typename CountAbove>
  std::int32_t find_limit(std::int32_t guess, std::size_t count, const CountAbove& count_above) const {
    std::int32_t low = 0, high = most_;  // too many are above `low`, too few above `high`
    for (std::int32_t limit = guess;; limit = (low + high) / 2) {
      const std::size_t above = count_above(limit);
      if ((above >= count && above <= 2 * count) || limit == low) return limit;
      (above < count ? high : low) = limit;
    }
  }

  void find_largest(const std::vector<AgreementOfRows>& rows) {
    selected_.clear();
    for (const Block& block : blocks_) selected_.push_back(block.selected);
    largest_.assign(padded(blocks_.size(), kBlockRows), 0);
    masks_.resize(largest_.size() / kBlockRows);
    std::size_t first = 0;
    for (const AgreementOfRows& some : rows) {
      const std::size_t blocks = blocks_of(some.at, some.stop);
      c_.kernels.block_max_u16(some.sums, blocks, selected_.data() + first, largest_.data() + first);
      first += blocks;
    }
  }

  std::size_t count_blocks_above(std::int32_t limit) {
    c_.kernels.mask_gt_u16(largest_.data(), masks_.size(), static_cast<std::uint16_t>(limit), masks_.data());
    std::size_t count = 0;
    for (const std::uint64_t bits : masks_) count += count_bits(bits);
    return count;
  }

  void keep_masked_blocks() {
    std::size_t kept = 0;
    for (std::size_t w = 0; w < masks_.size(); ++w)
      for (std::uint64_t bits = masks_[w]; bits; bits &= bits - 1)
        blocks_[kept++] = blocks_[w * kBlockRows + lowest_bit(bits)];
    blocks_.resize(kept);
  }

  std::size_t count_rows_above(std::int32_t limit) {
    std::size_t count = 0;
    for (Block& block : blocks_) {
      c_.kernels.mask_gt_u16(block.sums, 1, static_cast<std::uint16_t>(limit), &block.mask);
      count += count_bits(block.mask &= block.selected);
    }
    return count;
  }

  ScanContext& c_;
  std::int32_t most_ = 0;  // the sum of the query's magnitudes, which no agreement exceeds
  std::vector<Block> blocks_;
  std::vector<std::uint64_t> selected_, masks_;  // a word for each block; a bit for each block
  std::vector<std::uint16_t> largest_;           // agreement of each block
  std::vector<SeedRow> seeds_;
  std::vector<std::size_t> rows_;
  std::vector<float> scores_;
};

}  // namespace vqindex
