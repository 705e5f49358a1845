// What a search keeps: the k best rows of a query so far.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace vqindex {

struct Hit {
  float key, score;
  std::int64_t row;
};

// Higher keys first, of equal ones the lower row.
inline bool better(const Hit& a, const Hit& b) { return a.key != b.key ? a.key > b.key : a.row < b.row; }

// The k best hits.
class Best {
 public:
  explicit Best(std::size_t k) : k_(k) {}

  // Keeps all hits whose keys are above the bar.
  static Best above(float bar) {
    Best best(kAll);
    best.last_ = {bar, 0, -1};
    return best;
  }

  // What is below the bar is out; what equals it may be in only if its row is lower than another's.
  float bar() const { return last_.key; }

  // The row of the k-th best key: of rows with that key only lower ones are in.
  std::int64_t last_row() const { return last_.row; }

  // The k-th best key is known to be at least this, from rows that are to come again.
  void expect(float key) {
    raise({std::nextafter(key, -std::numeric_limits<float>::infinity()), 0, std::numeric_limits<std::int64_t>::max()});
  }

  void push(const Hit& hit) {
    if (!better(hit, last_)) return;
    if (k_ <= kSorted) return insert(hit);
    hits_.push_back(hit);
    if (hits_.size() == k_ + std::max<std::size_t>(64, k_ / 2)) cut();
  }

  // Leaves the k best, or all if there are fewer, in no order.
  std::vector<Hit>& finish() {
    if (hits_.size() > k_) cut();
    return hits_;
  }

 private:
  static constexpr std::size_t kAll = std::size_t{1} << 48;
  static constexpr std::size_t kSorted = 32;  // up to here a sorted list is quickest, and its bar always the true one

  void insert(const Hit& hit) {
    if (hits_.size() == k_) hits_.pop_back();
    hits_.push_back(hit);
    std::size_t at = hits_.size() - 1;  // from behind, where most belong
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
