#include "scan.hpp"

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <thread>

#include "gather.hpp"
#include "pool.hpp"
#include "scan_batch.hpp"
#include "scan_levels.hpp"
#include "scan_signs.hpp"
#include "scorer.hpp"

namespace vqindex {
namespace {

constexpr double kThreadWork = 2.5e6;        // coordinates met under which a thread costs more than it saves
constexpr std::size_t kThreadQueries = 128;  // queries of a thread that make up for what it does for every row

// One thread's part: some rows and some queries.
class Worker {
 public:
  Worker(const Task& task, const Kernels& kernels, const Prepared& prepared, const std::atomic<bool>& stop, Bars* bars)
      : scorer_(task, kernels, prepared, stop, bars), levels_(scorer_), signs_(scorer_), batch_(scorer_) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  std::vector<Best>& best() { return scorer_.best(); }
  std::size_t candidates(std::size_t q) { return *scorer_.candidates_of(q); }

  // `first` and `last` are multiples of 64, or last is the end.
  void run(const Rows& rows, std::size_t first, std::size_t last, std::int64_t first_row, const Poll& poll) {
    scorer_.count_from(first_row);
    const bool one_filter = rows.allowed && !rows.allowed_step;
    const std::size_t nq = scorer_.task.queries.count;
    std::size_t left = one_filter ? count_allowed(rows, first, last) : last - first;
    if (left * (nq + kGather) >= (last - first) * nq) return scan(rows, first, last, poll);
    Gathered gathered(rows, scorer_.sign_bytes, left);
    while (first < last && left && scorer_.go_on({}, 0)) {
      first = gathered.fill(first, last);
      const Rows some = gathered.rows();
      scan(some, 0, some.count, poll);
    }
  }

 private:
  void scan(const Rows& rows, std::size_t first, std::size_t last, const Poll& poll) {
    scorer_.meet(rows);
    if (!scorer_.task.coarse.on)
      levels_.run(first, last, poll);
    else if (scorer_.task.queries.count < 2)
      signs_.run(first, last, poll);
    else
      batch_.run(first, last, poll);
  }

  Scorer scorer_;
  LevelScan levels_;
  SignScan signs_;
  BatchScan batch_;
};

std::size_t useful_threads(const Task& task, std::size_t rows, std::size_t threads) {
  const double work = static_cast<double>(rows) * static_cast<double>(task.queries.count) *
                      static_cast<double>(task.code.fields.dim) / (task.coarse.on ? 4 : 1);
  return std::max<std::size_t>(1, std::min(threads, static_cast<std::size_t>(work / kThreadWork)));
}

bool by_score(const Hit& a, const Hit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; }

// Rows that query q may find.
std::size_t selected_rows(const Task& task, std::size_t q) {
  std::size_t count = 0;
  for (Rows rows : task.rows) {
    if (rows.allowed) rows.allowed += q * rows.allowed_step;
    count += rows.allowed ? count_allowed(rows, 0, rows.count) : rows.count;
  }
  return count;
}

void write(std::vector<Hit>& hits, const Task& task, float* scores, std::int64_t* rows, float* rank_scores) {
  const std::size_t kept = std::min(task.k, hits.size());
  std::partial_sort(hits.begin(), hits.begin() + kept, hits.end(), better);
  std::sort(hits.begin(), hits.begin() + kept, by_score);
  for (std::size_t i = 0; i < task.k; ++i) {
    const float score = i < kept ? hits[i].score : -std::numeric_limits<float>::infinity();
    scores[i] = task.code.distance ? 0.0f - score : score;  // no negative zero
    rows[i] = i < kept ? hits[i].row : -1;
    rank_scores[i] = i < kept ? hits[i].key : -std::numeric_limits<float>::infinity();
  }
}

// Rows of a part that a worker meets in one go.
struct Stretch {
  const Rows& part;
  std::size_t first, last;
  std::int64_t first_row;  // of the part
};

// How many rows there are for each that a filter for all queries leaves.
std::size_t sparse(const Rows& part) {
  if (!part.allowed || part.allowed_step) return 1;
  return part.count / std::max<std::size_t>(1, count_allowed(part, 0, part.count));
}

// Some of the queries, and workers that share the rows which meet them.
struct Team {
  std::size_t first;  // query
  Task task;
  Prepared prepared;
  Bars bars;
  std::vector<Stretch> stretches;
  std::atomic<std::size_t> next{0};  // stretch
  std::vector<std::unique_ptr<Worker>> workers;

  Team(const Task& whole, std::size_t from, std::size_t to, std::size_t shares, const Kernels& kernels,
       const std::atomic<bool>& stop)
      : first(from), task(some_queries(whole, from, to)), prepared(prepare_queries(task)), bars(to - from) {
    for (auto& bar : bars) bar = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < shares; ++i)
      workers.push_back(std::make_unique<Worker>(task, kernels, prepared, stop, shares > 1 ? &bars : nullptr));
    deal();
  }

  // Deals the rows out. The scan for batches begins anew with each stretch: they are even shares. Others are
  // short, what one query's signs keep in the cache, and the last ones shorter: who comes late finds some left, and all
  // are done at about the same time.
  void deal() {
    const std::size_t count = workers.size(), fit = rows_of_stretch((task.code.fields.dim + 7) / 8);
    const bool shares = count == 1 || (task.coarse.on && task.queries.count > 1);
    std::int64_t first_row = 0;
    for (const Rows& part : task.rows) {
      const std::size_t even = (part.count + count - 1) / count;
      const std::size_t most = shares ? even : fit * sparse(part), least = shares ? even : most / 4;
      for (std::size_t at = 0, rows; at < part.count; at += rows) {
        const std::size_t left = part.count - at;
        rows = std::min(left, padded(std::clamp(left / (2 * count), least, most), kGroupRows));
        stretches.push_back({part, at, at + rows, first_row});
      }
      first_row += static_cast<std::int64_t>(part.count);
    }
  }

  static Task some_queries(Task task, std::size_t from, std::size_t to) {
    QueryBlock& queries = task.queries;
    queries = {to - from, queries.lead + from * task.code.fields.dim, queries.scale + from, queries.norm + from};
    if (task.thresholds) task.thresholds += from;
    for (Rows& rows : task.rows)
      if (rows.allowed) rows.allowed += from * rows.allowed_step;
    return task;
  }

  // Worker `i` takes stretches as long as there are any, each behind the last. `poll` is asked now and then.
  void run(std::size_t i, const std::atomic<bool>& stop, const Poll& poll) {
    for (std::size_t s; !stop && (s = next++) < stretches.size();)
      workers[i]->run(stretches[s].part, stretches[s].first, stretches[s].last, stretches[s].first_row, poll);
  }

  // Rows that some worker scored for a query, or began to: those that the sign bound did not drop.
  std::size_t candidates(std::size_t q) const {
    std::size_t count = 0;
    for (const auto& worker : workers) count += worker->candidates(q);
    return count;
  }

  // What all workers have found for a query.
  std::vector<Hit>& hits(std::size_t q) {
    auto& hits = workers[0]->best()[q].finish();
    for (std::size_t i = 1; i < workers.size(); ++i) {
      auto& more = workers[i]->best()[q].finish();
      hits.insert(hits.end(), more.begin(), more.end());
      more = {};
    }
    return hits;
  }
};

// Threads share the queries if there are enough, for then nothing is done twice but what rows need; else, or the rest
// of the way, the rows.
std::vector<std::unique_ptr<Team>> make_teams(const Task& task, std::size_t threads, const Kernels& kernels,
                                              const std::atomic<bool>& stop) {
  const std::size_t nq = task.queries.count;
  const std::size_t count = std::min(threads, std::max<std::size_t>(1, nq / kThreadQueries));
  std::vector<std::unique_ptr<Team>> teams;
  for (std::size_t t = 0; t < count; ++t)
    teams.push_back(std::make_unique<Team>(task, t * nq / count, (t + 1) * nq / count, threads / count, kernels, stop));
  return teams;
}

// Runs the scan and calls found(query, hits, candidates) for every query; false if `poll` stopped it.
template <typename Found>
bool scan_all(const Task& task, const Kernels& kernels, std::size_t threads, const Poll& poll, const Found& found) {
  std::size_t total = 0;
  for (const Rows& part : task.rows)
    total += part.allowed && !part.allowed_step ? count_allowed(part, 0, part.count) : part.count;
  std::atomic<bool> stop{false};
  const Poll watch = [&] {
    if (poll && !poll()) stop = true;
    return !stop;
  };
  const auto teams = make_teams(task, useful_threads(task, total, threads), kernels, stop);
  const std::size_t shares = teams[0]->workers.size();
  const auto caller = std::this_thread::get_id();
  const auto run = [&](std::size_t t) {
    teams[t / shares]->run(t % shares, stop, std::this_thread::get_id() == caller ? watch : Poll{});
  };
  on_threads(teams.size() * shares, run, watch);
  const bool finished = watch();
  for (const auto& team : teams)
    for (std::size_t q = 0; finished && q < team->task.queries.count; ++q)
      found(team->first + q, team->hits(q), team->candidates(q));
  return finished;
}

}  // namespace

bool search(const Task& task, const Kernels& kernels, std::size_t threads, const Poll& poll, const SearchOutput& out) {
  const bool one_filter =
      std::all_of(task.rows.begin(), task.rows.end(), [](const Rows& r) { return !r.allowed_step; });
  const std::size_t selected = one_filter && task.coarse.on ? selected_rows(task, 0) : 0;
  return scan_all(task, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits, std::size_t candidates) {
    const std::size_t at = q * task.k;
    write(hits, task, out.scores + at, out.rows + at, out.rank_scores + at);
    const std::size_t rows = one_filter || !task.coarse.on ? selected : selected_rows(task, q);
    out.dropped[q] = task.coarse.on ? static_cast<std::int64_t>(rows - candidates) : 0;
  });
}

bool range_search(const Task& task, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  std::vector<std::vector<Hit>>& found) {
  found.resize(task.queries.count);
  return scan_all(task, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits, std::size_t) {
    std::sort(hits.begin(), hits.end(), by_score);
    if (task.code.distance)
      for (Hit& hit : hits) hit.score = 0.0f - hit.score;
    found[q] = std::move(hits);
  });
}

}  // namespace vqindex
