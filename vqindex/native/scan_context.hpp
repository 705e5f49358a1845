// What every scan of one thread works with: the request, its queries, the rows, their scores and bounds, and the
// results.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "exact_scorer.hpp"
#include "int8_prefilter.hpp"
#include "row_view.hpp"
#include "scan_queries.hpp"
#include "sign_bound.hpp"
#include "top_k_collector.hpp"

namespace vqindex {

constexpr std::size_t kGroupRows = kGroupBlocks * kBlockRows;
// Polls once this much work has been announced, in coordinates. A batch tile may be several times as much: 2048 rows
// for 1024 queries at d = 768 are six times. Seeding announces none.
constexpr std::size_t kPollWork = std::size_t{1} << 28;

class ScanContext {
 public:
  const SearchRequest& request;
  const Kernels& kernels;
  const PreparedQueries& queries;
  const std::size_t dim;
  const std::size_t stride;  // of levels and queries: the dimension padded to 64
  const std::size_t units;   // of 24 coordinates in a row of sign bits
  RowView rows;
  ExactScorer scorer;
  Int8Prefilter prefilter;
  SignBound sign_bound;
  TopKCollector top_k;
  std::vector<std::size_t> candidates;  // for each query, how many rows the sign bound did not drop

  ScanContext(const SearchRequest& request, const Kernels& kernels, const PreparedQueries& queries,
              const std::atomic<bool>& stop, SharedThresholds* shared)
      : request(request),
        kernels(kernels),
        queries(queries),
        dim(request.code.fields.dim),
        stride(queries.stride),
        units(padded((dim + 7) / 8, kUnitBytes) / kUnitBytes),
        rows(kernels, dim),
        scorer(request, kernels, queries, rows),
        prefilter(request, kernels, queries, rows),
        sign_bound(request, kernels, queries, rows),
        top_k(request, rows, shared),
        candidates(request.queries.count),
        stop_(stop) {}
  ScanContext(const ScanContext&) = delete;
  ScanContext& operator=(const ScanContext&) = delete;

  // Whether to go on. Announces `work` coordinates that come next, and polls if that makes more than kPollWork since
  // the last poll.
  bool keep_going(const Poll& poll, std::size_t work) {
    work_ += work;
    if (work_ > kPollWork) {
      work_ = 0;
      if (poll && !poll()) return false;
    }
    return !stop_.load(std::memory_order_relaxed);
  }

 private:
  const std::atomic<bool>& stop_;
  std::size_t work_ = 0;
};

}  // namespace vqindex
