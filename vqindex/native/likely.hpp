// The rows of some groups whose signs agree most with a query, whatever their norms: what a first bar is made of.
#pragma once

#include <vector>

#include "scorer.hpp"

namespace vqindex {

// A group of rows and their agreement with a query.
struct Agreement {
  std::size_t at, stop;
  const std::uint16_t* sums;
};

class Likely {
 public:
  explicit Likely(Scorer& scorer) : s_(scorer) {}

  // Of the rows that the query may find `wanted` to twice as many, if no great number is equal, with their bounds.
  const std::vector<Hit>& find(std::size_t q, const std::vector<Agreement>& groups, std::size_t wanted) {
    const std::int32_t all = s_.prepared.bound[q].offset;
    std::int32_t low = 0, high = all;  // too many rows agree in more than low, too few in more than high
    for (std::int32_t limit = all / 2 + all / 8;; limit = (low + high) / 2) {
      const std::size_t count = mark(q, groups, limit);
      if ((count >= wanted && count <= 2 * wanted) || limit == low) break;
      (count < wanted ? high : low) = limit;
    }
    found_.clear();
    std::size_t next = 0;
    for (const Agreement& group : groups)
      for (std::size_t at = group.at; at < group.stop; at += kBlock)
        for (std::uint64_t bits = hits_[next++]; bits && found_.size() < 2 * wanted; bits &= bits - 1) {
          const std::size_t row = at + lowest_bit(bits);
          found_.push_back({s_.bound_from(q, row, group.sums[row - group.at]), 0, static_cast<std::int64_t>(row)});
        }
    return found_;
  }

 private:
  // Marks the rows whose agreement is above a limit; returns how many.
  std::size_t mark(std::size_t q, const std::vector<Agreement>& groups, std::int32_t limit) {
    std::size_t count = 0;
    hits_.clear();
    for (const Agreement& group : groups) {
      const std::size_t first = hits_.size();
      hits_.resize(first + blocks_of(group.at, group.stop));
      s_.kernels.above(group.sums, hits_.size() - first, static_cast<std::uint16_t>(limit), hits_.data() + first);
      for (std::size_t b = first, at = group.at; b < hits_.size(); ++b, at += kBlock) {
        hits_[b] &= s_.allowed_of(q, at) & first_bits(group.stop - at);
        count += count_bits(hits_[b]);
      }
    }
    return count;
  }

  Scorer& s_;
  std::vector<std::uint64_t> hits_;  // a word for every block of the groups
  std::vector<Hit> found_;
};

}  // namespace vqindex
