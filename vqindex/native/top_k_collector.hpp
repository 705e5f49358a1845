// The best rows of each query that one thread has found, and their thresholds, which threads publish to each other.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "row_view.hpp"
#include "top_k.hpp"

namespace vqindex {

// For each query a rank score that k rows reach. All threads that scan for these queries share it.
using SharedThresholds = std::vector<std::atomic<float>>;

class TopKCollector {
 public:
  // `shared` is null if no other thread scans other rows for these queries. Range thresholds never move, so they are
  // not shared.
  TopKCollector(const SearchRequest& request, const RowView& rows, SharedThresholds* shared)
      : rows_(rows),
        is_range_search_(request.range_thresholds),
        shared_(request.range_thresholds ? nullptr : shared),
        top_k_(request.queries.count, TopK(request.k)) {
    if (is_range_search_)
      for (std::size_t q = 0; q < top_k_.size(); ++q) top_k_[q] = TopK::all_above(request.range_thresholds[q]);
  }

  std::vector<Hit>& finish(std::size_t q) { return top_k_[q].finish(); }

  float threshold(std::size_t q) const { return top_k_[q].threshold(); }

  // Whether rows can be dropped: k better ones are known, or this is a range search.
  bool has_threshold(std::size_t q) const {
    return is_range_search_ || threshold(q) > -std::numeric_limits<float>::infinity();
  }

  // The float just below the threshold, for rows that come out of order. A row whose bound equals the threshold may
  // then have a smaller number than the k-th best row, and wins the tie. Comparing with this float keeps such rows.
  float threshold_with_ties(std::size_t q) const {
    return std::nextafter(threshold(q), -std::numeric_limits<float>::infinity());
  }

  // Whether the k-th best row comes before `row`.
  bool last_is_before(std::size_t q, std::size_t row) const { return top_k_[q].last_row() < rows_.number_of(row); }

  void push(std::size_t q, std::size_t row, float score, float bound) {
    top_k_[q].push({std::min(score, bound), score, rows_.number_of(row)});
  }

  // Raises the threshold to a rank score that k rows reach, and publishes it. These rows may still be pushed
  // themselves.
  void raise_threshold(std::size_t q, float rank_score) {
    top_k_[q].raise_threshold(rank_score);
    publish_threshold(q);
  }

  // Takes over the shared threshold if it is higher, else publishes this thread's. Returns whether the threshold
  // changed.
  bool pull_threshold(std::size_t q) {
    if (!shared_) return false;
    const float known = (*shared_)[q].load(std::memory_order_relaxed), before = threshold(q);
    if (known > before)
      top_k_[q].raise_threshold(known);
    else
      publish_threshold(q);
    return threshold(q) != before;
  }

 private:
  void publish_threshold(std::size_t q) {
    if (!shared_) return;
    std::atomic<float>& known = (*shared_)[q];
    float current = known.load(std::memory_order_relaxed);
    while (current < threshold(q) && !known.compare_exchange_weak(current, threshold(q), std::memory_order_relaxed)) {
    }
  }

  const RowView& rows_;
  const bool is_range_search_;
  SharedThresholds* const shared_;
  std::vector<TopK> top_k_;
};

}  // namespace vqindex
