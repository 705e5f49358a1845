// Divides a search among threads: queries into query groups first, then the rows of each group into row ranges.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "pool.hpp"
#include "scan_worker.hpp"

namespace vqindex {

constexpr double kThreadWork = 2.5e6;        // coordinates to scan; with less work a thread costs more than it saves
constexpr std::size_t kThreadQueries = 128;  // queries that make up for the work that a thread does for every row

// Returns how many threads a search is worth. `rows` counts selected rows; a filter for each query counts as all rows.
inline std::size_t useful_threads(const SearchRequest& request, std::size_t rows, std::size_t threads) {
  const double work = static_cast<double>(rows) * static_cast<double>(request.queries.count) *
                      static_cast<double>(request.code.fields.dim) / (request.sign_bound.enabled ? 4 : 1);
  return std::max<std::size_t>(1, std::min(threads, static_cast<std::size_t>(work / kThreadWork)));
}

// Some of the queries, and the workers that divide all rows among them.
class QueryGroup {
 public:
  // Queries `from` to `to` of `whole`.
  QueryGroup(const SearchRequest& whole, std::size_t from, std::size_t to, std::size_t workers, const Kernels& kernels,
             const std::atomic<bool>& stop)
      : first_query(from),
        request_(select_queries(whole, from, to)),
        queries_(prepare_queries(request_, choose_scan(request_, kernels))),
        thresholds_(to - from),
        stop_(stop) {
    for (auto& threshold : thresholds_) threshold = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < workers; ++i)
      workers_.push_back(
          std::make_unique<ScanWorker>(request_, kernels, queries_, stop, workers > 1 ? &thresholds_ : nullptr));
    partition_rows();
  }

  const std::size_t first_query;
  std::size_t query_count() const { return request_.queries.count; }

  // Worker `i` scans row ranges until all are taken.
  void run(std::size_t i, const Poll& poll) {
    for (std::size_t range; !stop_ && (range = next_++) < ranges_.size();) workers_[i]->scan(ranges_[range], poll);
  }

  // All hits of a query of the group. A worker's list has up to k of them, so there may be more than k.
  std::vector<Hit>& hits(std::size_t q) {
    auto& hits = workers_[0]->hits(q);
    for (std::size_t i = 1; i < workers_.size(); ++i) {
      auto& more = workers_[i]->hits(q);
      hits.insert(hits.end(), more.begin(), more.end());
      more = {};
    }
    return hits;
  }

  // How many rows the sign bound did not drop for a query.
  std::size_t candidates(std::size_t q) const {
    std::size_t count = 0;
    for (const auto& worker : workers_) count += worker->candidates(q);
    return count;
  }

 private:
  // Divides the rows into ranges. A batch scan starts anew with each range, so it gets one even share of each segment
  // per worker. Other scans get row tiles, and shorter ranges towards the end: a worker that starts late finds some
  // left, and all workers finish at about the same time. Ranges are longer where a selection leaves few rows. A worker
  // alone gets whole segments, but row tiles if it scans for several queries one after another: the sign bits of a row
  // tile stay in the second-level cache for all of them.
  void partition_rows() {
    const std::size_t count = workers_.size();
    const std::size_t tile_rows = row_tile_rows((request_.code.fields.dim + 7) / 8);
    const bool is_shared = queries_.kind == ScanKind::one_by_one && request_.queries.count > 1;
    const bool even_shares =
        count == 1 ? !is_shared : request_.sign_bound.enabled && queries_.kind != ScanKind::one_by_one;
    std::int64_t first_row = 0;
    for (const SegmentView& segment : request_.segments) {
      const std::size_t even = (segment.count + count - 1) / count;
      const std::size_t most = even_shares ? even : tile_rows * rows_per_selected_row(segment);
      const std::size_t least = even_shares ? even : most / 4;
      for (std::size_t at = 0, rows; at < segment.count; at += rows) {
        const std::size_t remaining = segment.count - at;
        rows = std::min(remaining, padded(std::clamp(remaining / (2 * count), least, most), kGroupRows));
        ranges_.push_back({segment, at, at + rows, first_row});
      }
      first_row += static_cast<std::int64_t>(segment.count);
    }
  }

  static std::size_t rows_per_selected_row(const SegmentView& segment) {
    if (!has_common_selection(segment)) return 1;
    return segment.count / std::max<std::size_t>(1, count_selected(segment, 0, 0, segment.count));
  }

  static SearchRequest select_queries(SearchRequest request, std::size_t from, std::size_t to) {
    QueryBatch& queries = request.queries;
    queries = {to - from, queries.code_query + from * request.code.fields.dim, queries.scale + from,
               queries.norm + from};
    if (request.range_thresholds) request.range_thresholds += from;
    for (SegmentView& segment : request.segments)
      if (segment.selection) segment.selection += from * segment.selection_stride;
    return request;
  }

  SearchRequest request_;
  PreparedQueries queries_;
  SharedThresholds thresholds_;
  std::vector<RowRange> ranges_;
  std::atomic<std::size_t> next_{0};  // range
  std::vector<std::unique_ptr<ScanWorker>> workers_;
  const std::atomic<bool>& stop_;
};

// Threads divide the queries as long as each gets kThreadQueries, because then only the work that every row needs is
// done more than once. If there are more threads than such query groups, several threads share a group and divide its
// rows.
inline std::vector<std::unique_ptr<QueryGroup>> make_query_groups(const SearchRequest& request, std::size_t threads,
                                                                  const Kernels& kernels,
                                                                  const std::atomic<bool>& stop) {
  const std::size_t nq = request.queries.count;
  const std::size_t count = std::min(threads, std::max<std::size_t>(1, nq / kThreadQueries));
  std::vector<std::unique_ptr<QueryGroup>> groups;
  for (std::size_t g = 0; g < count; ++g)
    groups.push_back(
        std::make_unique<QueryGroup>(request, g * nq / count, (g + 1) * nq / count, threads / count, kernels, stop));
  return groups;
}

// Scans all rows for all queries, then calls deliver(query, hits, candidates) for every query. Returns false, and
// delivers nothing, if `poll` stopped it. Only the calling thread polls.
template <typename Deliver>
bool scan_all(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
              const Deliver& deliver) {
  std::size_t total = 0;
  for (const SegmentView& segment : request.segments)
    total += has_common_selection(segment) ? count_selected(segment, 0, 0, segment.count) : segment.count;
  std::atomic<bool> stop{false};
  const Poll watch = [&] {
    if (poll && !poll()) stop = true;
    return !stop;
  };
  threads = useful_threads(request, total, threads);
  const auto groups = make_query_groups(request, threads, kernels, stop);
  const std::size_t workers = threads / groups.size();  // of each group
  const auto caller = std::this_thread::get_id();
  const auto run = [&](std::size_t t) {
    groups[t / workers]->run(t % workers, std::this_thread::get_id() == caller ? watch : Poll{});
  };
  on_threads(groups.size() * workers, run, watch);
  const bool finished = watch();
  for (const auto& group : groups)
    for (std::size_t q = 0; finished && q < group->query_count(); ++q)
      deliver(group->first_query + q, group->hits(q), group->candidates(q));
  return finished;
}

}  // namespace vqindex
