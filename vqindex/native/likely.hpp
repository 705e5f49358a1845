// The rows of some groups whose signs agree most with a query, whatever their norms: what a first bar is made of.
#pragma once

#include <vector>

#include "scorer.hpp"

namespace vqindex {

// Rows from a multiple of 64 on, and their agreement with a query.
struct Agreement {
  std::size_t at, stop;
  const std::uint16_t* sums;
};

class Likely {
 public:
  explicit Likely(Scorer& scorer) : s_(scorer) {}

  // Of the rows that the query may find `wanted` to twice as many, if no great number is equal, with their bounds.
  const std::vector<Hit>& find(std::size_t q, const std::vector<Agreement>& groups, std::size_t wanted) {
    list(q, groups);
    most_ = s_.prepared.bound[q].offset;
    std::int32_t limit = most_ / 2 + most_ / 8;
    if (blocks_.size() > kManyBlocks * wanted) {
      // What enough blocks have rows above, enough rows are above, and they are in those blocks.
      find_largest(groups);
      limit = find_limit(limit, wanted, [this](std::int32_t x) { return mark_blocks(x); });
      keep_marked();
    }
    find_limit(limit, wanted, [this](std::int32_t x) { return mark_rows(x); });
    found_.clear();
    for (const Block& block : blocks_)
      for (std::uint64_t bits = block.hits; bits && found_.size() < 2 * wanted; bits &= bits - 1) {
        const std::size_t r = lowest_bit(bits), row = block.at + r;
        found_.push_back({s_.bound_from(q, row, block.sums[r]), 0, static_cast<std::int64_t>(row)});
      }
    return found_;
  }

 private:
  static constexpr std::size_t kManyBlocks = 4;  // for each row wanted: to look at the largest of each first pays

  struct Block {
    std::size_t at;
    const std::uint16_t* sums;
    std::uint64_t allowed, hits;
  };

  void list(std::size_t q, const std::vector<Agreement>& groups) {
    blocks_.clear();
    for (const Agreement& group : groups)
      for (std::size_t at = group.at; at < group.stop; at += kBlockRows)
        blocks_.push_back({at, group.sums + (at - group.at), s_.allowed_of(q, at) & first_bits(group.stop - at), 0});
  }

  // Finds a limit that `wanted` to twice as many are above, and marks those; begins with a guess.
  template <typename Mark>
  std::int32_t find_limit(std::int32_t guess, std::size_t wanted, const Mark& mark) const {
    std::int32_t low = 0, high = most_;  // too many are above low, too few above high
    for (std::int32_t limit = guess;; limit = (low + high) / 2) {
      const std::size_t count = mark(limit);
      if ((count >= wanted && count <= 2 * wanted) || limit == low) return limit;
      (count < wanted ? high : low) = limit;
    }
  }

  void find_largest(const std::vector<Agreement>& groups) {
    allowed_.clear();
    for (const Block& block : blocks_) allowed_.push_back(block.allowed);
    largest_.assign(padded(blocks_.size(), kBlockRows), 0);
    marked_.resize(largest_.size() / kBlockRows);
    std::size_t first = 0;
    for (const Agreement& group : groups) {
      const std::size_t blocks = blocks_of(group.at, group.stop);
      s_.kernels.block_max_u16(group.sums, blocks, allowed_.data() + first, largest_.data() + first);
      first += blocks;
    }
  }

  std::size_t mark_blocks(std::int32_t limit) {
    s_.kernels.mask_gt_u16(largest_.data(), marked_.size(), static_cast<std::uint16_t>(limit), marked_.data());
    std::size_t count = 0;
    for (const std::uint64_t bits : marked_) count += count_bits(bits);
    return count;
  }

  void keep_marked() {
    std::size_t kept = 0;
    for (std::size_t w = 0; w < marked_.size(); ++w)
      for (std::uint64_t bits = marked_[w]; bits; bits &= bits - 1)
        blocks_[kept++] = blocks_[w * kBlockRows + lowest_bit(bits)];
    blocks_.resize(kept);
  }

  std::size_t mark_rows(std::int32_t limit) {
    std::size_t count = 0;
    for (Block& block : blocks_) {
      s_.kernels.mask_gt_u16(block.sums, 1, static_cast<std::uint16_t>(limit), &block.hits);
      count += count_bits(block.hits &= block.allowed);
    }
    return count;
  }

  Scorer& s_;
  std::int32_t most_ = 0;  // the sum of the query's magnitudes, which no agreement is above
  std::vector<Block> blocks_;
  std::vector<std::uint64_t> allowed_, marked_;  // words of blocks; a bit for every block
  std::vector<std::uint16_t> largest_;           // agreement of every block
  std::vector<Hit> found_;
};

}  // namespace vqindex
