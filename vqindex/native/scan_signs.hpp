// The scan for one query at a time: sign plane sums of a stretch of rows, then the scores of rows that may be in.
#pragma once

#include "likely.hpp"

namespace vqindex {

// Of a stretch's sign plane: it stays in the second-level cache.
constexpr std::size_t kPlaneBytes = std::size_t{3} << 17;
constexpr std::size_t kLongest = std::size_t{1} << 15;  // most rows of a stretch
// A first bar is made of the first rows: two stretches or one row in 16, whichever is more, but no more than 65536.
constexpr std::size_t kHeldStretches = 2, kHeldShare = 16, kHeldRows = std::size_t{1} << 16;
constexpr std::size_t kLikely = 16;  // rows for each of the likeliest from which finding those pays
constexpr std::size_t kAhead = 16;   // rows fetched ahead before they are scored

class SignScan {
 public:
  explicit SignScan(Scorer& scorer) : s_(scorer), find_(scorer) {}

  void run(std::size_t first, std::size_t last, const Poll& poll) {
    stretch_ = std::clamp(kPlaneBytes / s_.sign_bytes / kGroup * kGroup, kGroup, kLongest);
    tables_.resize(s_.units * kUnitTable);
    for (std::size_t q = 0; q < s_.task.queries.count; ++q) {
      s_.kernels.sign_tables(s_.sign_of(q), s_.units, tables_.data());
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
    }
  }

 private:
  // The first rows, of which a bar is made. They are met last: it is still low then, and the others make it a good one.
  std::size_t held_of(std::size_t rows) const {
    return std::min(rows, std::min(kHeldRows, std::max(kHeldStretches * stretch_, padded(rows / kHeldShare, kGroup))));
  }

  bool sum_signs(std::size_t q, std::size_t from, std::size_t last, Buffer<std::uint16_t>& sums, const Poll& poll) {
    sums.resize(std::max(sums.size(), padded(last - from, kBlock)));
    for (std::size_t at = from, stop; at < last; at = stop) {
      stop = std::min(last, at + stretch_);
      if (!s_.go_on(poll, (stop - at) * s_.dim)) return false;
      if (s_.any_allowed(q, 1, at, stop))
        s_.kernels.sign_plane(s_.plane_of(at), s_.sign_bytes, blocks_of(at, stop), tables_.data(),
                              s_.prepared.together[q], sums.data() + (at - from));
    }
    return true;
  }

  // The rows that look likeliest are scored first, for the bar that they set.
  void begin(std::size_t q, std::size_t at, std::size_t stop) {
    if (at == stop || stop - at < kLikely * 2 * s_.task.k) return;
    likely_.clear();
    for (std::size_t group = at; group < stop; group += kGroup)
      likely_.push_back({group, std::min(stop, group + kGroup), held_.data() + (group - at)});
    s_.begin_with(q, find_.find(q, likely_, 2 * s_.task.k));
  }

  // Scores the rows that may be in; `late` if later ones were met before.
  void meet(std::size_t q, std::size_t at, std::size_t stop, const Buffer<std::uint16_t>& sums, bool late) {
    for (std::size_t group = at; group < stop; group += kGroup) {
      const std::size_t before = count_;
      catch_rows(q, sums.data() + (group - at), group, std::min(stop, group + kGroup),
                 late ? s_.bar_with_ties(q) : s_.bar(q));
      if (before >= kAhead) score(q, before);
    }
    score(q, count_);
  }

  // Notes the rows of a group that may be in, and asks for their codes.
  void catch_rows(std::size_t q, const std::uint16_t* sums, std::size_t at, std::size_t stop, float bar) {
    const std::size_t found = s_.above(q, at, stop, sums, bar, places_);
    for (std::size_t i = 0; i < found; ++i) {
      const std::size_t row = at + places_[i];
      s_.fetch_row(row);
      rows_[count_ + i] = row;
      agreed_[count_ + i] = sums[places_[i]];
    }
    count_ += found;
  }

  // Scores the first `some` rows caught: first all, which overlap in time, then what is kept.
  void score(std::size_t q, std::size_t some) {
    s_.score_rows(q, rows_, some, scores_);
    for (std::size_t i = 0; i < some; ++i)
      if (!(scores_[i] < s_.bar(q))) s_.push(q, rows_[i], scores_[i], s_.bound_from(q, rows_[i], agreed_[i]));
    std::copy(rows_ + some, rows_ + count_, rows_);
    std::copy(agreed_ + some, agreed_ + count_, agreed_);
    count_ -= some;
  }

  Scorer& s_;
  Likely find_;
  std::vector<Agreement> likely_;  // the groups of the rows held
  Buffer<std::uint8_t> tables_;
  std::size_t stretch_ = 0;
  Buffer<std::uint16_t> sums_, held_;  // of the stretch, and of the rows that are met last
  std::uint8_t places_[kGroup + 64];   // in a group; `collect` may write past the last
  // Rows caught, their agreement and scores: less than kAhead, and those of two groups.
  static constexpr std::size_t kMostCaught = kAhead + 2 * kGroup;
  std::size_t count_ = 0, rows_[kMostCaught];
  std::uint16_t agreed_[kMostCaught];
  float scores_[kMostCaught];
};

}  // namespace vqindex
