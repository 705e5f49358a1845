// The scan for one query at a time: sign plane sums of a stretch of rows, then the scores of rows that may be in.
#pragma once

#include "scorer.hpp"

namespace vqindex {

// Of a stretch's sign plane: it stays in the second-level cache.
constexpr std::size_t kPlaneBytes = std::size_t{3} << 17;
constexpr std::size_t kLongest = std::size_t{1} << 15;  // most rows of a stretch
constexpr std::size_t kLikely = 16;  // rows of a stretch for each of its likeliest from which finding those pays
constexpr std::size_t kAhead = 16;   // rows fetched ahead before they are scored

class SignScan {
 public:
  explicit SignScan(Scorer& scorer) : s_(scorer) {}

  void run(std::size_t first, std::size_t last, const Poll& poll) {
    const std::size_t stretch = std::clamp(kPlaneBytes / s_.sign_bytes / kGroup * kGroup, kGroup, kLongest);
    tables_.resize(s_.units * kUnitTable);
    sums_.resize(std::min(stretch, padded(last - first, kBlock)));
    row_signs_.assign(s_.stride / 8, 0);
    for (std::size_t q = 0; q < s_.task.queries.count; ++q) {
      s_.kernels.sign_tables(s_.sign_of(q), s_.units, tables_.data());
      for (std::size_t at = first; at < last && s_.go_on(poll, stretch * s_.dim); at += stretch)
        meet(q, at, std::min(last, at + stretch), at == first);
    }
  }

 private:
  struct Candidate {
    std::size_t row;
    std::uint16_t sum;
    float score;
  };

  void meet(std::size_t q, std::size_t at, std::size_t stop, bool likeliest) {
    if (!s_.any_allowed(q, 1, at, stop)) return;
    s_.kernels.sign_plane(s_.plane_of(at), s_.sign_bytes, blocks_of(at, stop), tables_.data(), sums_.data());
    likely_.clear();
    if (likeliest) find_likely(q, at, stop);
    std::size_t next = 0;
    for (std::size_t group = at; group < stop; group += kGroup) {
      const std::size_t end = std::min(stop, group + kGroup);
      const float bar = likely_.empty() ? s_.bar(q) : s_.bar_with_ties(q);  // likely rows may be behind these
      each_above(q, sums_.data() + (group - at), group, end, bar, [&](std::size_t row, std::uint16_t sum) {
        while (next < likely_.size() && likely_[next] < row) ++next;
        if (next == likely_.size() || likely_[next] != row) add(row, sum);  // else it is scored already
      });
      if (candidates_.size() >= kAhead) score_candidates(q);
    }
    score_candidates(q);
  }

  // Scores the rows of a stretch that look likeliest first: the bar they set keeps most others out. Leaves which they
  // were, in order.
  void find_likely(std::size_t q, std::size_t at, std::size_t stop) {
    const std::size_t wanted = 2 * s_.task.k;
    if (s_.task.thresholds || stop - at < kLikely * wanted) return;
    Best best(wanted);
    for (std::size_t group = at; group < stop; group += kGroup)
      each_above(q, sums_.data() + (group - at), group, std::min(stop, group + kGroup), best.bar(),
                 [&](std::size_t row, std::uint16_t sum) {
                   best.push({bound_of(q, row, sum), 0, static_cast<std::int64_t>(row)});
                 });
    for (const Hit& hit : best.finish()) likely_.push_back(static_cast<std::size_t>(hit.row));
    std::sort(likely_.begin(), likely_.end());
    for (const std::size_t row : likely_) add(row, sums_[row - at]);
    score_candidates(q);
  }

  // Calls found(row, sum) for the rows of the group from `at` to `stop` whose bounds are above `bar`.
  template <typename Found>
  void each_above(std::size_t q, const std::uint16_t* sums, std::size_t at, std::size_t stop, float bar,
                  const Found& found) {
    std::uint64_t hits[kTileBlocks];
    if (!s_.hits_above(q, at, stop, sums, bar, hits)) return;
    for (std::size_t b = 0; b < blocks_of(at, stop); ++b)
      for (std::uint64_t bits = hits[b]; bits; bits &= bits - 1) {
        const std::size_t r = b * kBlock + lowest_bit(bits);
        found(at + r, sums[r]);
      }
  }

  void add(std::size_t row, std::uint16_t sum) {
    s_.fetch_code(row);
    prefetch(s_.rows().factor + row);
    candidates_.push_back({row, sum, 0});
  }

  float bound_of(std::size_t q, std::size_t row, std::uint16_t sum) const {
    return s_.bound_at(q, row, sum - s_.prepared.bound[q].offset);
  }

  // First all scores, which overlap in time, then what is kept.
  void score_candidates(std::size_t q) {
    for (Candidate& c : candidates_) {
      s_.gather_signs(c.row, row_signs_.data());
      c.score = s_.score_row(q, c.row, row_signs_.data());
    }
    for (const Candidate& c : candidates_)
      if (!(c.score < s_.bar(q))) s_.push(q, c.row, c.score, bound_of(q, c.row, c.sum));
    candidates_.clear();
  }

  Scorer& s_;
  Buffer<std::uint8_t> tables_, row_signs_;
  Buffer<std::uint16_t> sums_;  // of the stretch
  std::vector<Candidate> candidates_;
  std::vector<std::size_t> likely_;  // rows scored before the others of their stretch
};

}  // namespace vqindex
