// Divides the queries among threads.
#include "graph_search.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "exact_sums.hpp"
#include "graph_lanes.hpp"
#include "pool.hpp"

namespace vqindex {
namespace {

// n_j = floor((x + 129) / 258): the code query as int8.
std::int8_t narrowed(std::int16_t x) {
  const int shifted = x + 129 + 258 * 128;  // positive
  return static_cast<std::int8_t>(shifted / 258 - 128);
}

// A query and its walk.
class Lane {
 public:
  Lane(const GraphRequest& request, const WalkGraph& graph)
      : request_(request), walk_(graph), narrow_(padded(request.code.fields.dim, 64)) {}

  std::size_t query() const { return query_; }
  const Walk& walk() const { return walk_; }
  bool step() { return walk_.step(); }

  void start(std::size_t q) {
    query_ = q;
    const std::size_t dim = request_.code.fields.dim;
    std::int32_t total = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      narrow_[i] = narrowed(request_.queries.code_query[q * dim + i]);
      total += narrow_[i];
    }
    const WalkScore score{request_.code.distance,
                          static_cast<float>(516 * request_.code.multiplier) * request_.queries.scale[q]};
    const std::uint64_t* selection = request_.selection;
    if (selection) selection += q * request_.selection_stride;
    // No walk finds more rows than there are.
    const std::size_t effort = std::min(request_.effort, request_.records.count());
    walk_query_ = {{narrow_.data(), 128 * total}, score, effort, selection, request_.limit};
    if (request_.hidden && request_.hidden[q] >= 0) walk_query_.hidden = static_cast<std::uint32_t>(request_.hidden[q]);
    walk_.start(walk_query_);
  }

 private:
  const GraphRequest& request_;
  Walk walk_;
  WalkQuery walk_query_{};
  Buffer<std::int8_t> narrow_;
  std::size_t query_ = 0;
};

// Scores the rows of a walk exactly, and writes the best of them.
class Finisher {
 public:
  Finisher(const GraphRequest& request, const Kernels& kernels, const GraphOutput& out)
      : request_(request),
        out_(out),
        exact_sums_(request.code, kernels),
        code_query_(padded(request.code.fields.dim, 64)),
        sign_row_bytes_(code_query_.size() / 8),
        signs_(kAtOnce * sign_row_bytes_) {}

  void finish(std::size_t q, const Walk& walk) {
    const std::size_t dim = request_.code.fields.dim, count = walk.found_count();
    std::copy_n(request_.queries.code_query + q * dim, dim, code_query_.data());
    hits_.clear();
    for (std::size_t at = 0; at < count; at += kAtOnce) score_some(q, walk, at, std::min(kAtOnce, count - at));
    const std::size_t kept = std::min(request_.k, count);
    std::partial_sort(hits_.begin(), hits_.begin() + static_cast<std::ptrdiff_t>(kept), hits_.end(), better);
    constexpr float worst = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < request_.k; ++i) {
      const Hit hit = i < kept ? hits_[i] : Hit{worst, worst, -1};
      out_.scores[q * request_.k + i] = request_.code.distance ? 0.0f - hit.score : hit.score;
      out_.rows[q * request_.k + i] = hit.row;
    }
    out_.scored[q] = static_cast<std::int64_t>(walk.scored());
    if (out_.gave_up) out_.gave_up[q] = walk.gave_up();
  }

 private:
  static constexpr std::size_t kAtOnce = 32;

  void score_some(std::size_t q, const Walk& walk, std::size_t at, std::size_t count) {
    const RecordLayout& layout = request_.records.layout();
    const std::uint8_t *records[kAtOnce], *codes[kAtOnce];
    std::int64_t sums[kAtOnce];
    for (std::size_t i = 0; i < count; ++i) {
      records[i] = request_.records.of(row_of(walk.found_key(at + i)));
      prefetch_lines(records[i], layout.size);
      codes[i] = records[i] + layout.code_at;
    }
    for (std::size_t i = 0; i < count && layout.sign_bytes; ++i)
      std::copy_n(records[i], layout.sign_bytes, signs_.data() + i * sign_row_bytes_);
    exact_sums_(code_query_.data(), codes, layout.code_bytes, signs_.data(), count, sums);
    const QueryBatch& queries = request_.queries;
    for (std::size_t i = 0; i < count; ++i) {
      const float score = exact_score(sums[i], queries.scale[q], layout.rescale_of(records[i]), request_.code.distance,
                                      layout.norm_of(records[i]), queries.norm[q]);
      hits_.push_back({score, score, static_cast<std::int64_t>(row_of(walk.found_key(at + i)))});
    }
  }

  const GraphRequest& request_;
  const GraphOutput& out_;
  ExactSums exact_sums_;
  Buffer<std::int16_t> code_query_;
  const std::size_t sign_row_bytes_;
  Buffer<std::uint8_t> signs_;
  std::vector<Hit> hits_;
};

}  // namespace

bool graph_search(const GraphRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  const GraphOutput& out) {
  const std::size_t nq = request.queries.count;
  const WalkGraph graph{kernels,       request.code.fields, request.records,
                        request.links, request.entries,     request.records.count()};
  std::atomic<std::size_t> next{0};  // query
  std::atomic<bool> stop{false};
  const Poll watch = [&] {
    if (poll && !poll()) stop = true;
    return !stop;
  };
  const auto caller = std::this_thread::get_id();
  threads = std::max<std::size_t>(1, std::min(threads, nq));
  const auto run = [&](std::size_t) {
    const bool polls = std::this_thread::get_id() == caller;
    KeepGoing keep_going;
    Finisher finisher(request, kernels, out);
    std::vector<std::unique_ptr<Lane>> lanes;
    for (std::size_t i = 0; i < lanes_for(nq, threads); ++i) lanes.push_back(std::make_unique<Lane>(request, graph));
    run_lanes(
        lanes, next, nq, [&](const Lane& lane) { finisher.finish(lane.query(), lane.walk()); },
        [&] { return keep_going(polls, stop, watch); });
  };
  on_threads(threads, run, watch);
  return watch();
}

}  // namespace vqindex
