// The k best rows of one query so far.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace vqindex {

// A row that a search keeps. Rows are returned by score, but ranked by rank_score = min(score, sign bound), so that
// dropping rows by the bound cannot change the result. Both are larger for better rows: distances are negated.
struct Hit {
  float rank_score, score;
  std::int64_t row;
};

// The higher rank score is better; of equal ones, the row with the smaller number.
inline bool better(const Hit& a, const Hit& b) {
  return a.rank_score != b.rank_score ? a.rank_score > b.rank_score : a.row < b.row;
}

// Keeps the k best hits, or all hits above a fixed threshold.
class TopK {
 public:
  explicit TopK(std::size_t k) : k_(k) {}

  // Keeps every hit whose rank score is above the threshold, which never moves.
  static TopK all_above(float threshold) {
    TopK all(kAll);
    all.last_ = {threshold, 0, -1};
    return all;
  }

  // Hits below the threshold are out. A hit that equals it is in only if its row number is smaller than last_row().
  float threshold() const { return last_.rank_score; }

  // The row of the k-th best hit. If the threshold is not that of a hit, this is the largest number, so that hits equal
  // to the threshold are in; for a range threshold it is -1, so that they are out.
  std::int64_t last_row() const { return last_.row; }

  // Raises the threshold: k rows are known to have at least this rank score. They may still be pushed themselves, so
  // the threshold becomes the next float below.
  void raise_threshold(float rank_score) {
    raise({std::nextafter(rank_score, -std::numeric_limits<float>::infinity()), 0,
           std::numeric_limits<std::int64_t>::max()});
  }

  void push(const Hit& hit) {
    if (!better(hit, last_)) return;
    if (k_ <= kSorted) return insert(hit);
    hits_.push_back(hit);
    if (hits_.size() == k_ + std::max<std::size_t>(64, k_ / 2)) cut();
  }

  // Returns the k best hits, or all if there are fewer, in no order.
  std::vector<Hit>& finish() {
    if (hits_.size() > k_) cut();
    return hits_;
  }

 private:
  static constexpr std::size_t kAll = std::size_t{1} << 48;
  // Up to this k a sorted list is fastest, and its threshold is always exact. A longer list collects half as many more
  // before it is cut to the k best.
  static constexpr std::size_t kSorted = 32;

  void insert(const Hit& hit) {
    if (hits_.size() == k_) hits_.pop_back();
    hits_.push_back(hit);
    std::size_t at = hits_.size() - 1;  // from the end, where most hits belong
    for (; at && better(hit, hits_[at - 1]); --at) hits_[at] = hits_[at - 1];
    hits_[at] = hit;
    if (hits_.size() == k_) raise(hits_.back());
  }

  void cut() {
    std::nth_element(hits_.begin(), hits_.begin() + (k_ - 1), hits_.end(), better);
    hits_.resize(k_);
    raise(hits_.back());
  }

  void raise(const Hit& last) {
    if (better(last, last_)) last_ = last;
  }

  std::size_t k_;
  Hit last_{-std::numeric_limits<float>::infinity(), 0, std::numeric_limits<std::int64_t>::max()};
  std::vector<Hit> hits_;
};

}  // namespace vqindex
