// One walk over the graph, in steps (codes/graph.py). Steps of several walks may alternate: each step prefetches what
// the next one reads.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "buffer.hpp"
#include "graph_entries.hpp"
#include "graph_records.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace vqindex {

// A row and its score in one number: of two keys the smaller one is of the better row. The lowest bit is free.
using Key = std::uint64_t;
constexpr std::size_t kMaxGraphRows = std::size_t{1} << 31;

VQ_INLINE Key key_of(float score, std::uint32_t row) {
  // Adding 0 turns -0 into 0. Bits of floats rise with the values of positive ones and fall with those of negative
  // ones.
  const std::int32_t bits = float_bits(score + 0.0f);
  const std::uint32_t ascending = static_cast<std::uint32_t>(bits ^ ((bits >> 31) | INT32_MIN));
  return Key{~ascending} << 32 | std::uint64_t{row} << 1;
}
VQ_INLINE std::uint32_t row_of(Key key) { return static_cast<std::uint32_t>(key) >> 1; }
VQ_INLINE float score_of(Key key) {
  const std::uint32_t ascending = ~static_cast<std::uint32_t>(key >> 32);
  return bits_float(static_cast<std::int32_t>(ascending >> 31 ? ascending ^ 0x80000000u : ~ascending));
}

// The height of a row, which gives rows with large inner products small distances (codes/graph.py). Rows of the norm
// `ceiling` or more have height 0.
struct Lift {
  bool is_on = false;
  float ceiling = 0.0f;
  float height = 0.0f;  // of the row that others are compared with

  VQ_INLINE float height_of(float norm) const { return std::sqrt(std::max(ceiling * ceiling - norm * norm, 0.0f)); }
  VQ_INLINE float climb_to(float norm) const {
    const float climb = height_of(norm) - height;
    return climb * climb;
  }
  Lift from(float norm) const { return {is_on, ceiling, height_of(norm)}; }
};

// How the sum of a query's and a row's levels becomes the row's score; larger is better. It is the navigation score of
// a query, or the link score of a row.
struct WalkScore {
  bool minus_norm;  // for distances
  float gain;       // for distances
  Lift lift{};      // of links for inner products

  VQ_INLINE float operator()(std::int32_t sum, float rescale, float norm) const {
    const float product = static_cast<float>(sum) * rescale;
    if (!minus_norm) return product;
    const float score = gain * product - norm * norm;
    return lift.is_on ? score - lift.climb_to(norm) : score;
  }
};

// The rows that a walk has visited: a bit for each row of a small graph, and open addressing in a large one, where few
// walks need more than 16 KB.
class RowSet {
 public:
  void clear(std::size_t rows) {
    has_bits_ = rows <= kBitRows;
    if (has_bits_) return bits_.assign((rows + 63) / 64, 0);
    while (shift_ < kShift && count_ * 16 < size()) ++shift_;
    slots_.resize(std::max(slots_.size(), size()));
    std::fill_n(slots_.begin(), size(), kNoRow);
    count_ = 0;
  }
  bool has_bits() const { return has_bits_; }

  // Makes room for so many more rows.
  void reserve(std::size_t more) {
    if (!has_bits_ && (count_ + more) * 2 > size()) grow();
  }

  // Returns whether the row is new. No branch depends on that, because none would be foreseen.
  bool insert(std::uint32_t row) { return has_bits_ ? insert_bit(row) : insert_slot(row); }
  VQ_INLINE bool insert_bit(std::uint32_t row) {
    std::uint64_t& word = bits_.data()[row / 64];
    const bool is_new = !(word >> (row % 64) & 1);
    word |= std::uint64_t{1} << (row % 64);
    return is_new;
  }
  VQ_INLINE bool insert_slot(std::uint32_t row) {
    std::uint32_t* const slots = slots_.data();
    const std::size_t last = size() - 1;
    std::size_t at = (row * 0x9E3779B1u) >> shift_;  // the golden ratio: neighboring rows come to lie apart
    std::uint32_t there = slots[at];
    // The product is 0 where the row or no row is: one branch, and most rows take the first slot.
    while (std::uint64_t{there ^ row} * std::uint64_t{there + 1u} != 0) there = slots[at = (at + 1) & last];
    const bool is_new = there != row;
    slots[at] = row;
    count_ += is_new;
    return is_new;
  }

 private:
  static constexpr std::size_t kBitRows = std::size_t{1} << 20;  // 128 KB of bits
  static constexpr int kShift = 32 - 12;

  std::size_t size() const { return std::size_t{1} << (32 - shift_); }

  void grow() {
    std::vector<std::uint32_t> before(slots_.begin(), slots_.begin() + static_cast<std::ptrdiff_t>(size()));
    shift_ -= 2;
    slots_.assign(std::max(slots_.size(), size()), kNoRow);
    count_ = 0;
    for (const std::uint32_t row : before)
      if (row != kNoRow) insert_slot(row);
  }

  bool has_bits_ = true;
  std::vector<std::uint64_t> bits_;
  std::vector<std::uint32_t> slots_;
  std::size_t count_ = 0;
  int shift_ = kShift;
};

// What all walks over one graph share.
struct WalkGraph {
  const Kernels& kernels;
  Fields fields;
  const Records& records;
  LinkView links;
  const EntryRows& entries;
  std::size_t rows;  // with those that are not linked yet
};

// When a walk gives up (codes/graph.py).
struct WalkLimit {
  // No index has more rows than the largest limits, and products of two fit 64 bits.
  static constexpr std::size_t kMost = std::size_t{1} << 32;

  WalkLimit() = default;
  WalkLimit(std::size_t all, std::size_t useful_rows)
      : budget(std::min(all, kMost)), need(std::min(useful_rows, kMost)) {}

  std::size_t budget = 0;  // of rows that the walk scores; 0 for no limit
  std::size_t need = 0;    // about how many rows that may be found a whole walk scores

  bool is_over(std::size_t at_start, std::size_t scored, std::size_t useful) const {
    if (!budget) return false;
    if (scored >= budget) return true;
    const std::size_t left = budget - at_start, spent = scored - at_start;
    return kEarliest * spent >= left && spent * need > left * useful;
  }

 private:
  static constexpr std::size_t kEarliest = 8;  // in this part of the budget no rate is known yet
};

struct WalkQuery {
  NarrowQuery narrow;
  WalkScore score;
  std::size_t effort;
  const std::uint64_t* selection;  // bits of the rows that may be found; null for all
  WalkLimit limit;
  std::uint32_t hidden = kNoRow;  // the walk leaves this row out
};

class Walk {
 public:
  // The graph may grow between two walks.
  explicit Walk(const WalkGraph& graph)
      : graph_(graph), room_(std::max(graph.links.slots, kFewEntries)), levels_(padded(graph.fields.dim, 64)) {
    rows_.resize(room_ + 1);  // an entry is written before it is known to be new
    records_.resize(room_ + 1);
    sums_.resize(room_);
    keys_.resize(room_);
  }

  // Scores the entries. `query` stays in use up to the end of the walk.
  void start(const WalkQuery& query) {
    query_ = &query;
    visited_.clear(graph_.links.rows);
    found_.resize(query.effort + room_);
    found_count_ = next_ = count_ = 0;
    open_.clear();
    scored_ = tail_count();
    visited_.reserve(kStarts + 1);
    if (query.hidden < graph_.links.rows) visited_.insert(query.hidden);
    const std::size_t starts = graph_.entries.are_many() ? best_of_many() : best_of_few();
    for (std::size_t i = 0; i < starts; ++i) visited_.insert(row_of(keys_[i]));
    take_keys(starts);
    scored_at_start_ = scored_;
    useful_ = count_ = 0;
    gave_up_ = is_waiting_ = false;
  }

  // Takes one step: opens a row, or scores the links of the row that it opened before. Returns false at the end, once
  // the tail is scored, too.
  bool step() {
    if (is_waiting_) {
      score_links();
    } else if (!open_next()) {
      score_tail();
      return false;
    }
    is_waiting_ = !is_waiting_;
    return true;
  }

  // The rows found, best first, and how many rows were scored.
  std::size_t found_count() const { return found_count_; }
  Key found_key(std::size_t i) const { return found_[i] & ~kOpened; }
  std::size_t scored() const { return scored_; }
  bool gave_up() const { return gave_up_; }

 private:
  static constexpr std::size_t kStarts = 4;
  static constexpr std::size_t kCheaper = 8;  // entries beyond the first 128 that count as one row scored

  // Write the keys of the best entries, and return how many there are: kStarts, or all.
  std::size_t best_of_few() {
    for (const std::uint32_t row : graph_.entries.rows())
      if (row != query_->hidden) rows_[count_++] = row;
    prefetch_records();
    compute_keys();
    const std::size_t starts = std::min(kStarts, count_);
    std::partial_sort(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(starts),
                      keys_.begin() + static_cast<std::ptrdiff_t>(count_));
    return starts;
  }

  std::size_t best_of_many() {
    const EntryRows& entries = graph_.entries;
    std::array<Key, kStarts> best;  // ascending
    best.fill(~Key{0});
    std::size_t scored = 0;
    for (std::size_t at = 0; at < entries.rows().size(); at += room_) {
      const std::size_t count = std::min(room_, entries.rows().size() - at);
      graph_.kernels.dot_many_s8s8(entries.levels() + at, entries.stride(), count, query_->narrow, sums_.data());
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t row = entries.rows()[at + i];
        if (row == query_->hidden) continue;
        ++scored;
        const Key key = key_of(query_->score(sums_[i], entries.rescale(at + i), entries.norm(at + i)), row);
        if (key > best.back()) continue;
        best.back() = key;
        for (std::size_t j = kStarts - 1; j > 0 && best[j] < best[j - 1]; --j) std::swap(best[j], best[j - 1]);
      }
    }
    const std::size_t beyond = scored - std::min(scored, kFewEntries);
    scored_ += scored - beyond + beyond / kCheaper;
    std::copy(best.begin(), best.end(), keys_.begin());
    return kStarts;  // of more than 128
  }
  static constexpr Key kOpened = 1;

  bool is_full() const { return found_count_ == query_->effort; }
  // Rows with larger keys can't be found any more.
  Key last_key() const { return is_full() ? found_[found_count_ - 1] | kOpened : ~Key{0}; }

  // Opens the best row that is not opened yet: finds its links to new rows, and prefetches these rows. Returns false if
  // there is none, or none that comes before the last row found.
  bool open_next() {
    std::uint32_t row;
    if (query_->selection) {
      if (open_.empty() || open_.front() > last_key() || gives_up()) return false;
      row = row_of(open_.front());
      std::pop_heap(open_.begin(), open_.end(), std::greater<Key>());
      open_.pop_back();
    } else {
      // Without a selection, rows to be opened are found rows. A mark tells those that are open.
      while (next_ < found_count_ && found_[next_] & kOpened) ++next_;
      if (next_ == found_count_ || gives_up()) return false;
      found_[next_] |= kOpened;
      row = row_of(found_[next_++]);
    }
    visited_.reserve(graph_.links.slots);
    std::uint32_t* const rows = rows_.data();
    std::size_t count = 0;
    if (visited_.has_bits())
      graph_.links.each(row, [&](std::uint32_t link) {
        rows[count] = link;
        count += visited_.insert_bit(link);
      });
    else
      graph_.links.each(row, [&](std::uint32_t link) {
        rows[count] = link;
        count += visited_.insert_slot(link);
      });
    count_ = count;
    prefetch_records();
    prefetch_next_links();
    return true;
  }

  bool gives_up() { return gave_up_ = query_->limit.is_over(scored_at_start_, scored_, useful_); }

  // How many rows come after the linked ones. They count as scored from the beginning.
  std::size_t tail_count() const {
    const std::size_t linked = graph_.links.rows, hidden = query_->hidden;
    return graph_.rows - linked - (hidden >= linked && hidden < graph_.rows);
  }

  // Scores the rows after the linked ones at the end of the walk. They have no links.
  void score_tail() {
    const std::size_t end = graph_.rows, scored = scored_;
    for (std::size_t row = graph_.links.rows; row < end;) {
      for (count_ = 0; count_ < room_ && row < end; ++row)
        if (row != query_->hidden) rows_[count_++] = static_cast<std::uint32_t>(row);
      for (std::size_t i = 0; i < count_; ++i) records_[i] = graph_.records.of(rows_[i]);
      compute_keys();
      const Key last = last_key();
      std::size_t taken = 0;
      for (std::size_t i = 0; i < count_; ++i) {
        const Key key = keys_[i];
        keys_[taken] = key;
        taken += key < last && may_find(row_of(key));
      }
      if (taken) insert(taken);
    }
    scored_ = scored;
  }

  bool may_find(std::uint32_t row) const {
    return !query_->selection || query_->selection[row / kBlockRows] >> row % kBlockRows & 1;
  }

  void prefetch_records() {
    const Records& records = graph_.records;
    const std::size_t size = records.layout().size;
    for (std::size_t i = 0; i < count_; ++i) records_[i] = records.of(rows_[i]);
    for (std::size_t i = 0; i < count_; ++i) prefetch_lines(records_[i], size);
  }

  // Prefetches the links of the row that comes next if no better one is found until then.
  // Inlined, because GCC drops calls of functions that only prefetch (see row_view.hpp).
  VQ_INLINE void prefetch_next_links() {
    if (query_->selection) {
      if (!open_.empty()) graph_.links.prefetch_row(row_of(open_.front()));
      return;
    }
    std::size_t next = next_;
    while (next < found_count_ && found_[next] & kOpened) ++next;
    if (next < found_count_) graph_.links.prefetch_row(row_of(found_[next]));
  }

  void score_links() {
    compute_keys();
    if (count_) {
      const Key best = *std::min_element(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(count_));
      graph_.links.prefetch_row(row_of(best));  // it often comes next
    }
    if (query_->limit.budget)
      for (std::size_t i = 0; i < count_; ++i) useful_ += may_find(rows_[i]);
    take_keys(count_);
    prefetch_next_links();
  }

  void compute_keys() {
    const RecordLayout& layout = graph_.records.layout();
    graph_.kernels.decode_dot_s8s8(graph_.fields, records_.data(), layout.code_at, layout.code_bytes, count_,
                                   query_->narrow, levels_.data(), sums_.data());
    for (std::size_t i = 0; i < count_; ++i)
      keys_[i] = key_of(query_->score(sums_[i], layout.rescale_of(records_[i]), layout.norm_of(records_[i])), rows_[i]);
    scored_ += count_;
  }

  // Takes the first `count` keys: rows that come before the last row found are opened later, and found if they may be.
  void take_keys(std::size_t count) {
    const Key last = last_key();
    std::size_t taken = 0;
    if (!query_->selection) {
      for (std::size_t i = 0; i < count; ++i) {
        const Key key = keys_[i];
        keys_[taken] = key;
        taken += key < last;
      }
    } else {
      for (std::size_t i = 0; i < count; ++i) {
        const Key key = keys_[i];
        if (key > last) continue;
        open_.push_back(key);
        std::push_heap(open_.begin(), open_.end(), std::greater<Key>());
        keys_[taken] = key;
        taken += may_find(row_of(key));
      }
    }
    if (taken) insert(taken);
  }

  // Inserts the first `count` keys into the rows found, the last one first, so that each row found moves once.
  void insert(std::size_t count) {
    std::sort(keys_.begin(), keys_.begin() + static_cast<std::ptrdiff_t>(count));
    Key* const found = found_.data();
    std::size_t end = found_count_;
    for (std::size_t i = count; i-- > 0;) {
      const std::size_t at = count_below(found, end, keys_[i]);
      std::copy_backward(found + at, found + end, found + end + i + 1);
      found[at + i] = keys_[i];
      end = at;
    }
    found_count_ = std::min(found_count_ + count, query_->effort);
    next_ = std::min(next_, end);
  }

  // How many of sorted keys come before one, by a search without branches: none would be foreseen.
  static std::size_t count_below(const Key* keys, std::size_t count, Key key) {
    const Key* at = keys;
    while (count > 0) {
      const std::size_t half = (count + 1) / 2;
      at += at[half - 1] < key ? half : 0;
      count -= half;
    }
    return static_cast<std::size_t>(at - keys);
  }

  const WalkGraph& graph_;
  const WalkQuery* query_ = nullptr;
  const std::size_t room_;  // most rows that are scored together
  RowSet visited_;
  std::vector<Key> found_;  // best first
  std::size_t found_count_ = 0, next_ = 0, scored_ = 0;
  std::size_t scored_at_start_ = 0,
              useful_ = 0;  // rows scored with the entries, and those since then that may be found
  bool gave_up_ = false;
  std::vector<Key> open_;  // a heap of rows to be opened, the best on top; only with a selection
  // The rows to be scored next.
  std::vector<std::uint32_t> rows_;
  std::vector<const std::uint8_t*> records_;
  std::vector<std::int32_t> sums_;
  std::vector<Key> keys_;
  std::size_t count_ = 0;
  bool is_waiting_ = false;     // for the links of the row opened last
  Buffer<std::int8_t> levels_;  // scratch
};

}  // namespace vqindex
