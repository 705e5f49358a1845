// The scan for one query at a time: sign plane sums of a stretch of rows, then the scores of rows that may be in.
#pragma once

#include "likely.hpp"

namespace vqindex {

// Of a stretch's sign plane: it stays in the second-level cache.
constexpr std::size_t kPlaneBytes = std::size_t{3} << 17;
constexpr std::size_t kLongest = std::size_t{1} << 15;  // most rows of a stretch

inline std::size_t rows_of_stretch(std::size_t sign_bytes) {
  return std::clamp(kPlaneBytes / sign_bytes / kGroupRows * kGroupRows, kGroupRows, kLongest);
}

// A first bar is made of the first rows, and the more of them the better it is. But when those of them that may be in
// are met, their signs have left the cache, and come again by lines of which they need a byte: the longer rows are, the
// fewer are held; or one row in 16, if that is more. At most 65536.
constexpr std::size_t kHeldLines = std::size_t{1} << 27;  // rows held * bytes of their signs squared
constexpr std::size_t kHeldShare = 16, kHeldRows = std::size_t{1} << 16;
constexpr std::size_t kLikely = 16;  // rows for each of the likeliest from which finding those pays
constexpr std::size_t kAhead = 16;   // rows fetched ahead before they are scored
// Rows that meet a bar as it was before the first of them: those whose signs make 24 KB, in whole groups.
constexpr std::size_t kRunBytes = std::size_t{3} << 13, kLongestRun = 4 * kGroupRows;

class SignScan {
 public:
  explicit SignScan(Scorer& scorer) : s_(scorer), find_(scorer) {}

  void run(std::size_t first, std::size_t last, const Poll& poll) {
    stretch_ = rows_of_stretch(s_.sign_bytes);
    run_ = std::clamp(kRunBytes / s_.sign_bytes / kGroupRows * kGroupRows, kGroupRows, kLongestRun);
    signs_.resize((kAhead + 2 * run_) * s_.row_signs());
    for (std::size_t q = 0; q < s_.task.queries.count; ++q) {
      make_tables(q);
      s_.learn(q);
      const std::size_t held = s_.has_bar(q) ? first : first + held_of(last - first);
      if (!sum_signs(q, first, held, held_, poll)) return;
      begin(q, first, held);
      for (std::size_t at = held, stop; at < last; at = stop) {
        stop = std::min(last, at + stretch_);
        if (!sum_signs(q, at, stop, sums_, poll)) return;
        s_.learn(q);
        meet(q, at, stop, sums_, false);
      }
      s_.learn(q);
      meet(q, first, held, held_, true);
      score(q, count_);
    }
  }

 private:
  // Those of the last query stay: its rows may come in many stretches.
  void make_tables(std::size_t q) {
    if (tables_.size() && q == of_) return;
    tables_.resize(s_.units * kUnitTable);
    s_.kernels.sign_tables(s_.sign_of(q), s_.units, tables_.data());
    of_ = q;
  }

  // The first rows, of which a bar is made. They are met last: it is still low then, and the others make it a good one.
  std::size_t held_of(std::size_t rows) const {
    const std::size_t few = std::max(kHeldLines / (s_.sign_bytes * s_.sign_bytes), rows / kHeldShare);
    return std::min(rows, std::min(kHeldRows, padded(few, kGroupRows)));
  }

  bool sum_signs(std::size_t q, std::size_t from, std::size_t last, Buffer<std::uint16_t>& sums, const Poll& poll) {
    sums.resize(std::max(sums.size(), padded(last - from, kBlockRows)));
    for (std::size_t at = from, stop; at < last; at = stop) {
      stop = std::min(last, at + stretch_);
      if (!s_.go_on(poll, (stop - at) * s_.dim)) return false;
      if (s_.any_allowed(q, 1, at, stop))
        s_.kernels.sign_blocks(s_.plane_of(at), s_.sign_bytes, blocks_of(at, stop), tables_.data(),
                               s_.prepared.units_per_byte_sum[q], sums.data() + (at - from));
    }
    return true;
  }

  // The rows that look likeliest are scored first, for the bar that they set.
  void begin(std::size_t q, std::size_t at, std::size_t stop) {
    if (at == stop || stop - at < kLikely * 2 * s_.task.k) return;
    s_.begin_with(q, find_.find(q, {{at, stop, held_.data()}}, 2 * s_.task.k));
  }

  // Catches the rows that may be in, and scores those caught some time ago; `late` if later ones were met before.
  void meet(std::size_t q, std::size_t at, std::size_t stop, const Buffer<std::uint16_t>& sums, bool late) {
    std::uint64_t hits[kLongestRun / kBlockRows];
    const std::uint16_t* from = sums.data();
    for (; at < stop; at += run_, from += run_) {
      const std::size_t last = std::min(stop, at + run_);
      if (!s_.hits_above(q, at, last, from, late ? s_.bar_with_ties(q) : s_.bar(q), hits)) continue;
      const std::size_t blocks = blocks_of(at, last), before = count_;
      for (std::size_t b = next_of(hits, 0, blocks), next; b < blocks; b = next) {
        next = next_of(hits, b + 1, blocks);
        if (late && next < blocks) fetch(s_.plane_of(at + next * kBlockRows), s_.sign_bytes * kBlockRows);
        catch_rows(at + b * kBlockRows, hits[b], from + b * kBlockRows);
      }
      if (before >= kAhead) score(q, before);
    }
  }

  static std::size_t next_of(const std::uint64_t* hits, std::size_t b, std::size_t blocks) {
    while (b < blocks && !hits[b]) ++b;
    return b;
  }

  // Notes rows of a block and their sign bits, and asks for the rest of them.
  void catch_rows(std::size_t block, std::uint64_t hits, const std::uint16_t* sums) {
    s_.signs_of(block, hits, signs_of(count_));
    for (; hits; hits &= hits - 1, ++count_) {
      const std::size_t r = lowest_bit(hits);
      s_.fetch_row(block + r);
      rows_[count_] = block + r;
      agreed_[count_] = sums[r];
    }
  }

  // Scores the first `some` rows caught: first all, which overlap in time, then what is kept.
  void score(std::size_t q, std::size_t some) {
    s_.score_rows(q, rows_, signs_of(0), some, scores_);
    *s_.candidates_of(q) += some;
    for (std::size_t i = 0; i < some; ++i)
      if (!(scores_[i] < s_.bar(q))) s_.push(q, rows_[i], scores_[i], s_.bound_from(q, rows_[i], agreed_[i]));
    std::copy(rows_ + some, rows_ + count_, rows_);
    std::copy(agreed_ + some, agreed_ + count_, agreed_);
    std::copy(signs_of(some), signs_of(count_), signs_of(0));
    count_ -= some;
  }

  std::uint8_t* signs_of(std::size_t i) { return signs_.data() + i * s_.row_signs(); }

  Scorer& s_;
  Likely find_;
  Buffer<std::uint8_t> tables_;
  std::size_t of_ = 0;  // the query of the tables
  std::size_t stretch_ = 0, run_ = 0;
  Buffer<std::uint16_t> sums_, held_;  // of the stretch, and of the rows that are met last
  // Rows caught, their agreement, signs and scores: less than kAhead, and those of two runs.
  static constexpr std::size_t kMostCaught = kAhead + 2 * kLongestRun;
  std::size_t count_ = 0, rows_[kMostCaught];
  std::uint16_t agreed_[kMostCaught];
  Buffer<std::uint8_t> signs_;
  float scores_[kMostCaught];
};

}  // namespace vqindex
