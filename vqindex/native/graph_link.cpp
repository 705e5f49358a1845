// Links rows in batches. No thread writes what another one reads: first every row of a batch finds and chooses its
// links while the graph before the batch stays as it is; then every row that they link to gets its links back.
#include "graph_link.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "graph_lanes.hpp"
#include "graph_select.hpp"
#include "graph_walk.hpp"
#include "pool.hpp"

namespace vqindex {
namespace {

constexpr std::size_t kMinEntries = 16;
constexpr std::size_t kSeen = 32;       // nearest rows of the batch among a row's candidates
constexpr std::size_t kRepaired = 128;  // candidates of a row that gets new links
constexpr std::size_t kTargets = 16;    // rows that a thread claims at a time

// The few of entry_rows of codes/graph.py.
EntryRows entry_rows(std::size_t rows) {
  std::size_t root = static_cast<std::size_t>(std::sqrt(static_cast<double>(rows)));
  while (root * root > rows) --root;
  while ((root + 1) * (root + 1) <= rows) ++root;
  const std::size_t count = std::min({std::max(kMinEntries, root / 8 + 1), kFewEntries, rows});
  std::vector<std::uint32_t> entries;
  for (std::size_t i = 0; i < count; ++i) entries.push_back(static_cast<std::uint32_t>(i * rows / count));
  return EntryRows(std::move(entries));
}

// The decoded rows of a batch.
struct Batch {
  std::size_t first = 0;  // row
  Buffer<std::int8_t> levels;
  std::vector<const std::int8_t*> rows;
  std::vector<NarrowQuery> queries;

  void decode(const RowDecoder& decoder, std::size_t from) {
    first = from;
    levels.resize(kLinkBatch * decoder.stride);
    rows.clear();
    queries.clear();
    for (std::size_t i = 0; i < kLinkBatch; ++i) {
      std::int8_t* row = levels.data() + i * decoder.stride;
      decoder.decode(static_cast<std::uint32_t>(first + i), row);
      rows.push_back(row);
      queries.push_back(decoder.query_of(row));
    }
  }
};

// A row of the batch and its walk.
class LinkLane {
 public:
  LinkLane(const LinkRequest& request, const WalkGraph& graph, const RowDecoder& decoder, const Batch& batch)
      : request_(request), graph_(graph), decoder_(decoder), batch_(batch), walk_(graph) {}

  std::size_t number() const { return number_; }
  const WalkQuery& query() const { return query_; }
  const Walk& walk() const { return walk_; }
  bool step() { return walk_.step(); }

  void start(std::size_t number) {
    number_ = number;
    const std::size_t effort = std::clamp<std::size_t>(graph_.links.rows, 1, request_.rule.effort);
    query_ = {batch_.queries[number],
              decoder_.link_scores_for(static_cast<std::uint32_t>(batch_.first + number)),
              effort,
              nullptr,
              {}};
    walk_.start(query_);
  }

 private:
  const LinkRequest& request_;
  const WalkGraph& graph_;
  const RowDecoder& decoder_;
  const Batch& batch_;
  Walk walk_;
  WalkQuery query_{};
  std::size_t number_ = 0;
};

// Who is whose parent. Of each row it holds the first link, which others read while that row's links change.
class Family {
 public:
  // Takes the rows that are live, or all if `live` is null.
  Family(const LinkRequest& request, std::size_t linked, const std::uint64_t* live)
      : parents_(request.links.rows, kNoRow), children_(request.links.rows), most_(request.rule.children) {
    for (std::size_t row = 0; row < linked; ++row) {
      const std::uint32_t first = request.links.first(row);
      parents_[row] = first;
      if (row && first < request.links.rows && (!live || is_live(live, row))) ++children_[first];
    }
  }

  static bool is_live(const std::uint64_t* live, std::size_t row) { return live[row / 64] >> (row % 64) & 1; }

  std::uint32_t first_link(std::uint32_t row) const { return parents_[row]; }
  void set_first_link(std::uint32_t row, std::uint32_t link) { parents_[row] = link; }

  // Chooses the parent of a row among candidates, nearest first. If none will do, it is another lower row.
  std::uint32_t adopt(std::uint32_t row, const std::vector<Key>& candidates, const std::uint64_t* live) {
    std::uint32_t parent = kNoRow;
    for (const Key key : candidates)
      if (row_of(key) < row && children_[row_of(key)] < most_) {
        parent = row_of(key);
        break;
      }
    for (std::uint32_t lower = row; parent == kNoRow && lower-- > 0;)
      if (children_[lower] < most_ && (!live || is_live(live, lower))) parent = lower;
    // After removals all may have as many children as they may have.
    for (std::uint32_t lower = row; parent == kNoRow && lower-- > 0;)
      if (!live || is_live(live, lower)) parent = lower;
    ++children_[parent];
    return parent;
  }

 private:
  std::vector<std::uint32_t> parents_, children_;
  std::size_t most_;
};

// A row whose links are chosen: its candidates by distance, those that are kept, and its parent.
struct Chooser {
  std::uint32_t row = 0, parent = kNoRow;
  std::vector<Key> candidates;
  std::vector<std::uint32_t> keep;
};

// What one thread works with.
class LinkWorker {
 public:
  LinkWorker(const LinkRequest& request, const Kernels& kernels, const RowDecoder& decoder, const WalkGraph& graph,
             const Batch& batch, std::size_t lanes)
      : request_(request), kernels_(kernels), decoder_(decoder), batch_(batch), selector_(request, kernels, decoder) {
    for (std::size_t i = 0; i < lanes; ++i)
      lanes_.push_back(std::make_unique<LinkLane>(request, graph, decoder, batch));
  }

  // Finds the candidates of rows of the batch, whose numbers come from `next`.
  template <typename KeepGoing>
  void find_candidates(std::atomic<std::size_t>& next, std::vector<Chooser>& choosers, const KeepGoing& keep_going) {
    run_lanes(
        lanes_, next, kLinkBatch,
        [&](const LinkLane& lane) { take_candidates(lane, choosers[lane.number()].candidates); }, keep_going);
  }

  // Finds the candidates of a row with links to rows that are not live. Returns false if it has none.
  bool find_repairs(std::uint32_t row, const std::uint64_t* live, const Family& family, Chooser& chooser) {
    const auto is_live = [live](std::uint32_t other) { return Family::is_live(live, other); };
    request_.links.read(row, own_);
    if (std::all_of(own_.begin(), own_.end(), is_live)) return false;
    chooser.row = row;
    chooser.keep.clear();
    all_.clear();
    for (const std::uint32_t other : own_) {
      if (is_live(other)) {
        all_.push_back(other);
        if (family.first_link(other) == row) chooser.keep.push_back(other);
        continue;
      }
      request_.links.read(other, beyond_);
      for (const std::uint32_t link : beyond_)
        if (is_live(link) && link != row) all_.push_back(link);
    }
    std::sort(all_.begin(), all_.end());
    all_.erase(std::unique(all_.begin(), all_.end()), all_.end());
    chooser.parent = own_.front();
    selector_.sort_by_distance(row, all_, chooser.candidates);
    return true;
  }

  // Chooses the links of a row. Of its candidates only those that are kept and the `most` nearest ones count.
  void choose(Chooser& chooser, std::size_t most) {
    if (chooser.parent != kNoRow) add(chooser.keep, chooser.parent);
    std::vector<Key>& candidates = chooser.candidates;
    if (candidates.size() > most) {
      own_.clear();
      for (std::size_t i = most; i < candidates.size(); ++i)
        if (std::find(chooser.keep.begin(), chooser.keep.end(), row_of(candidates[i])) != chooser.keep.end())
          candidates[most++] = candidates[i];
      candidates.resize(most);
    }
    const auto is_parent = [&](Key key) { return row_of(key) == chooser.parent; };
    if (chooser.parent != kNoRow && std::none_of(candidates.begin(), candidates.end(), is_parent)) {
      selector_.sort_by_distance(chooser.row, {chooser.parent}, keys_);
      candidates.insert(std::lower_bound(candidates.begin(), candidates.end(), keys_[0]), keys_[0]);
    }
    selector_.select(candidates, chooser.keep, chooser.parent, chosen_);
    request_.links.write(chooser.row, chosen_);
  }

  // Gives a row links back to `count` other rows, ascending: the lower halves of `pairs`.
  void link_back(std::uint32_t target, const std::uint64_t* pairs, std::size_t count, const Family& family) {
    request_.links.read(target, own_);
    const std::size_t before = own_.size();
    for (std::size_t i = 0; i < count; ++i) {
      const auto source = static_cast<std::uint32_t>(pairs[i]);
      const auto end = own_.begin() + static_cast<std::ptrdiff_t>(before);
      if (std::find(own_.begin(), end, source) == end) own_.push_back(source);
    }
    if (own_.size() <= request_.rule.slots) return request_.links.write(target, own_);
    all_.clear();
    const std::uint32_t parent = before ? own_.front() : kNoRow;
    if (before) all_.push_back(parent);
    for (const std::uint32_t other : own_)
      if (family.first_link(other) == target) add(all_, other);
    selector_.sort_by_distance(target, own_, keys_);
    selector_.select(keys_, all_, parent, chosen_);
    request_.links.write(target, chosen_);
  }

 private:
  static void add(std::vector<std::uint32_t>& rows, std::uint32_t row) {
    if (std::find(rows.begin(), rows.end(), row) == rows.end()) rows.push_back(row);
  }

  // Merges the rows that a walk found and the nearest rows of the batch.
  void take_candidates(const LinkLane& lane, std::vector<Key>& candidates) {
    const auto own = static_cast<std::uint32_t>(batch_.first + lane.number());
    all_.clear();
    for (std::size_t i = 0; i < lane.walk().found_count(); ++i) all_.push_back(row_of(lane.walk().found_key(i)));
    selector_.sort_by_distance(own, all_, candidates);
    sums_.resize(kLinkBatch);
    kernels_.dot_many_s8s8(batch_.rows.data(), decoder_.stride, kLinkBatch, lane.query().narrow, sums_.data());
    const RowDistance distance = decoder_.distances_from(own);
    keys_.clear();
    for (std::size_t i = 0; i < kLinkBatch; ++i) {
      if (i == lane.number()) continue;
      const auto row = static_cast<std::uint32_t>(batch_.first + i);
      keys_.push_back(key_of(-distance(sums_[i], decoder_.inverse_norm_of(row), decoder_.norm_of(row)), row));
    }
    std::nth_element(keys_.begin(), keys_.begin() + kSeen, keys_.end());
    candidates.insert(candidates.end(), keys_.begin(), keys_.begin() + kSeen);
    std::sort(candidates.begin(), candidates.end());
  }

  const LinkRequest& request_;
  const Kernels& kernels_;
  const RowDecoder& decoder_;
  const Batch& batch_;
  LinkSelector selector_;
  std::vector<std::unique_ptr<LinkLane>> lanes_;
  // Scratch.
  std::vector<std::int32_t> sums_;
  std::vector<Key> keys_;
  std::vector<std::uint32_t> own_, beyond_, all_, chosen_;
};

// Runs the threads of a request.
class LinkThreads {
 public:
  // `first` rows are linked. Those that are not live are about to be removed; `live` is null if all are.
  LinkThreads(const LinkRequest& request, std::size_t first, const std::uint64_t* live, const Kernels& kernels,
              std::size_t threads, const Poll& poll)
      : request_(request),
        poll_(poll),
        family_(request, first, live),
        decoder_(request, kernels),
        graph_{kernels, request.code.fields, request.records, request.links.view(0), entries_, 0} {
    for (std::size_t t = 0; t < std::max<std::size_t>(1, threads); ++t)
      workers_.push_back(
          std::make_unique<LinkWorker>(request, kernels, decoder_, graph_, batch_, lanes_for(kLinkBatch, threads)));
  }
  LinkThreads(const LinkThreads&) = delete;
  LinkThreads& operator=(const LinkThreads&) = delete;

  bool link(std::size_t first) {
    graph_.links.rows = graph_.rows = first;
    entries_ = entry_rows(first);
    decoder_.set_ceiling(first + kLinkBatch);
    batch_.decode(decoder_, first);
    choosers_.resize(kLinkBatch);
    std::atomic<std::size_t> next{0};
    on_all([&](LinkWorker& worker, const auto& keep_going) { worker.find_candidates(next, choosers_, keep_going); });
    if (stop_) return false;
    for (std::size_t i = 0; i < kLinkBatch; ++i) {
      Chooser& chooser = choosers_[i];
      chooser.row = static_cast<std::uint32_t>(first + i);
      chooser.keep.clear();
      chooser.parent = chooser.row ? family_.adopt(chooser.row, chooser.candidates, nullptr) : kNoRow;
    }
    choose_links(kLinkBatch, std::numeric_limits<std::size_t>::max());
    if (stop_) return false;
    pairs_.clear();
    for (std::size_t row = first; row < first + kLinkBatch; ++row) {
      take_first_link(row);
      request_.links.view(request_.links.rows).each(row, [&](std::uint32_t target) {
        pairs_.push_back(std::uint64_t{target} << 32 | row);
      });
    }
    link_back(kLinkBatch);
    return !stop_;
  }

  bool relink(const std::uint64_t* live) {
    decoder_.set_ceiling(request_.links.rows);
    pairs_.clear();
    std::uint32_t lowest = 0;
    while (lowest < request_.links.rows && !Family::is_live(live, lowest)) ++lowest;
    choosers_.resize(kLinkBatch);
    for (std::size_t first = 0; first < request_.links.rows && !stop_; first += kLinkBatch) {
      const std::size_t count = std::min(kLinkBatch, request_.links.rows - first);
      std::vector<std::uint8_t> is_repaired(count);
      each(count, [&](LinkWorker& worker, std::size_t i) {
        const auto row = static_cast<std::uint32_t>(first + i);
        is_repaired[i] = Family::is_live(live, row) && worker.find_repairs(row, live, family_, choosers_[i]);
      });
      if (stop_) return false;
      std::size_t repaired = 0;
      for (std::size_t i = 0; i < count; ++i) {
        if (!is_repaired[i]) continue;
        std::swap(choosers_[i], choosers_[repaired]);
        Chooser& chooser = choosers_[repaired++];
        if (Family::is_live(live, chooser.parent)) continue;
        chooser.parent = chooser.row == lowest ? kNoRow : family_.adopt(chooser.row, chooser.candidates, live);
        if (chooser.parent != kNoRow) pairs_.push_back(std::uint64_t{chooser.parent} << 32 | chooser.row);
      }
      choose_links(repaired, kRepaired);
    }
    if (stop_) return false;
    // Not sooner: which links are kept depends on the parents before.
    for (std::size_t row = 0; row < request_.links.rows; ++row) take_first_link(row);
    link_back(1);
    return !stop_;
  }

 private:
  void choose_links(std::size_t count, std::size_t most) {
    each(count, [&](LinkWorker& worker, std::size_t i) { worker.choose(choosers_[i], most); });
  }

  void take_first_link(std::size_t row) {
    family_.set_first_link(static_cast<std::uint32_t>(row), request_.links.first(row));
  }

  // Links each target of the pairs back to its sources, `most` of them at a time.
  void link_back(std::size_t most) {
    std::sort(pairs_.begin(), pairs_.end());
    targets_.clear();
    for (std::size_t i = 0; i < pairs_.size(); ++i)
      if (!i || pairs_[i] >> 32 != pairs_[i - 1] >> 32) targets_.push_back(i);
    const std::size_t count = targets_.size();
    targets_.push_back(pairs_.size());
    each(count, [&](LinkWorker& worker, std::size_t i) {
      for (std::size_t at = targets_[i]; at < targets_[i + 1]; at += most)
        worker.link_back(static_cast<std::uint32_t>(pairs_[at] >> 32), pairs_.data() + at,
                         std::min(most, targets_[i + 1] - at), family_);
    });
  }

  // Calls work(worker, number) for all numbers below `count`, each in one of the threads.
  template <typename Work>
  void each(std::size_t count, const Work& work) {
    std::atomic<std::size_t> next{0};
    on_all([&](LinkWorker& worker, const auto& keep_going) {
      for (std::size_t at; (at = next.fetch_add(kTargets)) < count;)
        for (std::size_t i = at; i < std::min(count, at + kTargets); ++i) {
          if (!keep_going()) return;
          work(worker, i);
        }
    });
  }

  template <typename Work>
  void on_all(const Work& work) {
    const auto watch = [this] {
      if (poll_ && !poll_()) stop_ = true;
    };
    const auto caller = std::this_thread::get_id();
    on_threads(
        workers_.size(),
        [&](std::size_t t) {
          const bool polls = std::this_thread::get_id() == caller;
          KeepGoing keep_going;
          work(*workers_[t], [&] { return keep_going(polls, stop_, watch); });
        },
        watch);
  }

  const LinkRequest& request_;
  const Poll& poll_;
  std::atomic<bool> stop_{false};
  Family family_;
  RowDecoder decoder_;
  EntryRows entries_;
  WalkGraph graph_;
  Batch batch_;
  std::vector<std::unique_ptr<LinkWorker>> workers_;
  std::vector<Chooser> choosers_;
  std::vector<std::uint64_t> pairs_;  // target << 32 | source, sorted
  std::vector<std::size_t> targets_;  // where the pairs of each begin
};

}  // namespace

bool link_rows(const LinkRequest& request, std::size_t first, std::size_t last, const Kernels& kernels,
               std::size_t threads, const Poll& poll) {
  if (first == last) return true;
  LinkThreads work(request, first, nullptr, kernels, threads, poll);
  for (std::size_t at = first; at < last; at += kLinkBatch)
    if (!work.link(at)) return false;
  return true;
}

bool relink_rows(const LinkRequest& request, const std::uint64_t* live, const Kernels& kernels, std::size_t threads,
                 const Poll& poll) {
  return LinkThreads(request, request.links.rows, live, kernels, threads, poll).relink(live);
}

}  // namespace vqindex
