// One thread's part of a search: scans row ranges for the queries of its query group, by the scan that suits them.
#pragma once

#include <atomic>
#include <cstdint>

#include "gather.hpp"
#include "scan_batch.hpp"
#include "scan_context.hpp"
#include "scan_levels.hpp"
#include "scan_signs.hpp"
#include "scan_tiles.hpp"

namespace vqindex {

// Rows of a segment that a thread scans in one go. `first` is a multiple of 64, and so is `last` unless it is the end.
struct RowRange {
  const SegmentView& segment;
  std::size_t first, last;
  std::int64_t first_row;  // the number of the segment's first row in the whole search
};

class ScanWorker {
 public:
  ScanWorker(const SearchRequest& request, const Kernels& kernels, const PreparedQueries& queries,
             const std::atomic<bool>& stop, SharedThresholds* shared)
      : context_(request, kernels, queries, stop, shared),
        levels_(context_),
        signs_(context_),
        batch_(context_),
        tiles_(context_) {}
  ScanWorker(const ScanWorker&) = delete;
  ScanWorker& operator=(const ScanWorker&) = delete;

  std::vector<Hit>& hits(std::size_t q) { return context_.top_k.finish(q); }
  std::size_t candidates(std::size_t q) const { return context_.candidates[q]; }

  // Scans the rows in place, or gathers those that a selection for all queries leaves if that costs less.
  void scan(const RowRange& range, const Poll& poll) {
    const SegmentView& segment = range.segment;
    const std::size_t nq = context_.request.queries.count, rows = range.last - range.first;
    const std::size_t selected =
        has_common_selection(segment) ? count_selected(segment, 0, range.first, range.last) : rows;
    if (selected * (nq + kGatherCost) >= rows * nq)
      return scan(segment, range.first_row, range.first, range.last, poll);
    if (!selected) return;
    GatheredRows gathered(segment, context_.rows.sign_bytes, selected);
    for (std::size_t at = range.first; at < range.last && context_.keep_going({}, 0);) {
      at = gathered.fill(at, range.last);
      const SegmentView some = gathered.view();
      scan(some, range.first_row, 0, some.count, poll);
    }
  }

 private:
  void scan(const SegmentView& rows, std::int64_t first_row, std::size_t first, std::size_t last, const Poll& poll) {
    context_.rows.set(rows, first_row);
    switch (context_.queries.kind) {
      case ScanKind::levels:
        return levels_.scan(first, last, poll);
      case ScanKind::one_by_one:
        return signs_.scan(first, last, poll);
      case ScanKind::batch:
        return batch_.scan(first, last, poll);
      case ScanKind::tiles:
        return tiles_.scan(first, last, poll);
    }
  }

  ScanContext context_;
  LevelScan levels_;
  SignScan signs_;
  BatchScan batch_;
  TileScan tiles_;
};

}  // namespace vqindex
