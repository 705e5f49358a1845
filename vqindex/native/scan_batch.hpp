// The scan for several queries at once: their sign plane sums, then the scores of rows that may be in.
//
//   for a chunk of queries, whose tables stay in the third-level cache
//     for a stretch of rows, whose look-up indices stay in the second-level cache
//       for a few of the queries, whose tables stay there too
//         for each group of rows: sums, and which rows may be in (the catch of the group)
//       for each group of rows: levels of the rows caught, and their scores
#pragma once

#include "likely.hpp"

namespace vqindex {

constexpr std::size_t kChunk = 1024;                       // queries that share all that is done to a row
constexpr std::size_t kChunkBytes = std::size_t{1} << 24;  // of their tables
constexpr std::size_t kTableBytes = std::size_t{1} << 17;  // of tables that stay in the second-level cache
constexpr std::size_t kIndexBytes = std::size_t{1} << 19;  // of look-up indices that stay there beside them
constexpr std::size_t kStretch = 8;                        // most groups of rows in a stretch
constexpr std::size_t kPasses = 8;                         // over all stretches
constexpr std::size_t kCatch = std::size_t{1} << 14;       // rows caught in a group before they are scored
constexpr std::size_t kWorthwhile = 16;                    // rows of the first stretch for each that a bar is made of
constexpr std::size_t kLeads = 4;                          // queries fetched ahead before they score

// Places in a group are bytes, queries of a chunk 16 bits.
static_assert(kGroupRows <= 256 && kChunk <= 65536 && kSignTileQueries * kGroupRows <= kCatch);

class BatchScan {
 public:
  explicit BatchScan(Scorer& scorer) : s_(scorer), find_(scorer) {}

  void run(std::size_t first, std::size_t last, const Poll& poll) {
    if (first == last) return;
    const std::size_t nq = s_.task.queries.count, table = s_.units * kUnitTable;
    const std::size_t chunk = std::min(nq, std::clamp(kChunkBytes / table, kSignTileQueries, kChunk));
    few_ = std::max(kSignTileQueries, kTableBytes / table / kSignTileQueries * kSignTileQueries);
    stretch_ = std::clamp<std::size_t>(kIndexBytes / index_bytes(), 1, kStretch);
    tables_.resize(chunk * table);
    index_.resize(stretch_ * index_bytes());
    sums_.resize(stretch_ * kSignTileQueries * kGroupRows);
    groups_.resize(stretch_);
    levels_.resize(kGroupRows * s_.stride);
    row_signs_.assign(kGroupRows * s_.stride / 8, 0);
    bars_.resize(chunk);
    floors_.resize(chunk);
    for (auto* part : {&least_bar_, &lean_, &slack_}) part->resize(chunk);
    offset_.resize(chunk);
    limits_.resize(chunk);
    for (first_query_ = 0; first_query_ < nq; first_query_ += chunk) {
      queries_ = std::min(chunk, nq - first_query_);
      if (!s_.go_on(poll, queries_ * kGroupRows * s_.dim)) return;
      ascending_ = first + stretch_ * kGroupRows;
      last_ = last;
      for (std::size_t i = 0; i < queries_; ++i) {
        s_.kernels.sign_tables(s_.sign_of(first_query_ + i), s_.units, tables_of(i));
        take_bar(i);
      }
      scan(first, last, poll);
    }
  }

 private:
  // Rows of one group that may be in, and the queries of the chunk that they may be in for.
  struct Group {
    std::size_t at, stop;
    std::size_t count = 0;
    Buffer<std::uint8_t> places;
    Buffer<std::uint16_t> queries;
    std::uint64_t wanted[kGroupBlocks] = {};
  };

  // Bars rise fastest with rows from everywhere, so the rows are passed over several times, each time by other
  // stretches of them. The first stretch is met in parts that grow: until there are k scores or a bar, every row is in.
  void scan(std::size_t first, std::size_t last, const Poll& poll) {
    const std::size_t step = stretch_ * kGroupRows;
    prime(first, std::min(last, ascending_));
    for (std::size_t pass = 0; pass < kPasses; ++pass)
      for (std::size_t at = first + pass * step; at < last; at += kPasses * step) {
        const std::size_t stop = std::min(last, at + step);
        for (std::size_t from = at, rows = at == first ? kBlockRows : step; from < stop; rows = 3 * (from - at)) {
          const std::size_t to = std::min(stop, from + rows);
          if (!s_.go_on(poll, (to - from) * queries_ * s_.dim)) return;
          meet(from, to);
          from = to;
        }
      }
  }

  // Gives every query a bar to begin with: the k-th best key of the rows of a stretch whose signs agree most.
  void prime(std::size_t at, std::size_t stop) {
    const std::size_t wanted = 2 * s_.task.k;
    if (s_.task.thresholds || stop - at < kWorthwhile * wanted) return;
    const std::size_t groups = expand(at, stop), room = kSignTileQueries * kGroupRows;
    for (std::size_t i = 0; i < queries_; i += kSignTileQueries) {
      const std::size_t some = std::min(kSignTileQueries, queries_ - i);
      for (std::size_t g = 0; g < groups; ++g) sum_signs(g, i, some, sums_.data() + g * room);
      for (std::size_t j = 0; j < some; ++j) {
        likely_.clear();
        for (std::size_t g = 0; g < groups; ++g) {
          const Group& group = groups_[g];
          const std::size_t rows = blocks_of(group.at, group.stop) * kBlockRows;
          likely_.push_back({group.at, group.stop, sums_.data() + g * room + j * rows});
        }
        const std::size_t q = first_query_ + i + j;
        s_.begin_with(q, find_.find(q, likely_, wanted));
        take_bar(i + j);
      }
    }
  }

  // All queries of the chunk meet a stretch of rows.
  void meet(std::size_t at, std::size_t stop) {
    for (std::size_t i = 0; i < queries_; ++i)
      if (s_.learn(first_query_ + i)) take_bar(i);
    const std::size_t groups = expand(at, stop);
    for (std::size_t from = 0; from < queries_; from += few_)
      for (std::size_t g = 0; g < groups; ++g) meet_group(from, std::min(queries_, from + few_), g);
    for (std::size_t g = 0; g < groups; ++g) score(groups_[g]);
  }

  // Makes groups of a stretch; returns how many.
  std::size_t expand(std::size_t at, std::size_t stop) {
    const std::size_t groups = (stop - at + kGroupRows - 1) / kGroupRows;
    for (std::size_t g = 0; g < groups; ++g) {
      Group& group = groups_[g];
      group.at = at + g * kGroupRows;
      group.stop = std::min(stop, group.at + kGroupRows);
      s_.kernels.sign_expand(s_.plane_of(group.at), s_.sign_bytes, blocks_of(group.at, group.stop), index_of(g));
    }
    return groups;
  }

  // The sums of queries `i` to `i + some` and a group, one query's after the other's.
  void sum_signs(std::size_t g, std::size_t i, std::size_t some, std::uint16_t* sums) {
    const std::size_t blocks = blocks_of(groups_[g].at, groups_[g].stop);
    SignPass pass{0, blocks, some, s_.units * kUnitTable, kTogetherUnits, false};
    for (std::size_t q = i; q < i + some; ++q)
      pass.units_per_byte_sum = std::min(pass.units_per_byte_sum, s_.prepared.units_per_byte_sum[first_query_ + q]);
    for (std::size_t u = 0; u < s_.units; u += pass.units) {
      pass.units = std::min(s_.units - u, s_.kernels.pass_units);
      pass.accumulate = u > 0;
      s_.kernels.sign_tile(index_of(g) + u * blocks * kUnitIndex, tables_of(i) + u * kUnitTable, pass, sums);
    }
  }

  void meet_group(std::size_t from, std::size_t to, std::size_t g) {
    Group& group = groups_[g];
    if (!s_.any_allowed(first_query_ + from, to - from, group.at, group.stop)) return;
    for (std::size_t i = from; i < to; i += kSignTileQueries) {
      const std::size_t some = std::min(kSignTileQueries, to - i);
      sum_signs(g, i, some, sums_.data());
      collect(group, i, some);
    }
  }

  // What queries `i` to `i + some` catch of a group.
  void collect(Group& group, std::size_t i, std::size_t some) {
    const std::size_t blocks = blocks_of(group.at, group.stop);
    if (group.count + some * kGroupRows > kCatch) score(group);
    group.places.resize(kCatch + kBlockRows);
    group.queries.resize(kCatch + kBlockRows);
    const auto put = [&](const std::uint16_t* sums, const std::uint16_t* floors, std::size_t queries,
                         const std::uint64_t* allowed, std::size_t first) {
      group.count += s_.kernels.collect(sums, blocks, floors, queries, allowed, first, group.wanted,
                                        group.places.data() + group.count, group.queries.data() + group.count,
                                        s_.candidates_of(first_query_ + first));
    };
    std::uint64_t hits[kGroupBlocks];
    if (!s_.rows().norm && (!s_.rows().allowed || !s_.rows().allowed_step)) {
      for (std::size_t b = 0; b < blocks; ++b)
        hits[b] = s_.allowed_of(0, group.at + b * kBlockRows) & first_bits(group.stop - group.at - b * kBlockRows);
      return put(sums_.data(), floors_.data() + i, some, hits, i);
    }
    const std::uint16_t none = 0, *sums = sums_.data();
    for (const std::size_t stop = i + some; i < stop; ++i, sums += blocks * kBlockRows)
      if (s_.hits_above(first_query_ + i, group.at, group.stop, sums, bar_of(i), hits)) put(sums, &none, 1, hits, i);
  }

  // Rows caught are decoded once; int8 versions of the queries tell which of them to score.
  void score(Group& group) {
    if (group.count) score_catch(group);
    group.count = 0;
    std::fill_n(group.wanted, kGroupBlocks, 0);
  }

  void score_catch(const Group& group) {
    decode(group);
    find_limits();
    passing_.resize(kCatch + 3);
    narrow_sums_.resize(kCatch + 3);
    const std::size_t passing = s_.kernels.dot_rows_s8s8(
        levels_.data(), s_.stride, {group.count, group.places.data(), group.queries.data()},
        s_.prepared.narrow.data() + first_query_ * s_.stride, limits_.data(), passing_.data(), narrow_sums_.data());
    for (std::size_t p = 0; p < passing; ++p) {
      if (p + kLeads < passing) {
        const std::size_t next = first_query_ + group.queries[passing_[p + kLeads]];
        fetch(reinterpret_cast<const std::uint8_t*>(s_.lead_of(next)), 2 * s_.stride);
      }
      const std::size_t r = group.places[passing_[p]], i = group.queries[passing_[p]], q = first_query_ + i;
      const Scorer::Weight& of = weights_[r];
      const UpperBoundTest& test = bars_[i];
      const float upper = of.weight * static_cast<float>(narrow_sums_[p] - test.offset) + test.slack * of.error;
      if (!(test.gain * upper > test.threshold + test.norm2_weight * of.size)) continue;
      const float score = s_.score_levels(q, group.at + r, levels_.data() + r * s_.stride);
      if (score < s_.bar(q)) continue;
      const std::int32_t sum = s_.kernels.dot_signs_s8(signs_of(r), s_.sign_of(q), s_.stride);
      const float bar = s_.bar(q);
      s_.push(q, group.at + r, score, s_.bound_at(q, group.at + r, sum));
      if (s_.bar(q) != bar) take_bar(i);
    }
  }

  void decode(const Group& group) {
    s_.sign_rows(group.at, group.stop, row_signs_.data());
    constexpr float none = std::numeric_limits<float>::infinity();
    least_ = {none, 0, none};
    most_ = {0, 0, 0};
    for (std::size_t b = 0; b < kGroupBlocks; ++b)
      for (std::uint64_t bits = group.wanted[b]; bits; bits &= bits - 1) {
        const std::size_t r = b * kBlockRows + lowest_bit(bits), row = group.at + r;
        std::int8_t* levels = levels_.data() + r * s_.stride;
        s_.kernels.decode(s_.task.code.fields, s_.code_of(row), s_.rows().row_bytes, signs_of(r), levels);
        const Scorer::Weight of = weights_[r] = s_.weigh(row, levels);
        least_ = {std::min(least_.weight, of.weight), 0, std::min(least_.size, of.size)};
        most_ = {std::max(most_.weight, of.weight), std::max(most_.error, of.error), 0};
      }
  }

  // Narrow sums that fail the test of their query for every row that is decoded: the test solved for the sum, with the
  // weights, errors and sizes that let most pass, and room for the rounding of the steps.
  void find_limits() {
    constexpr float low = -2e9f, high = 1e9f;
    const float up = most_.weight > 0 ? 1 / most_.weight : 0, down = 1 / least_.weight;
    const float error = most_.error, size = least_.size;
    const float *bar = least_bar_.data(), *lean = lean_.data(), *slack = slack_.data();
    const std::int32_t* offset = offset_.data();
    std::int32_t* limits = limits_.data();
    for (std::size_t i = 0; i < queries_; ++i) {
      const float left = bar[i] + lean[i] * size - slack[i] * error;
      const float sum = left * (left > 0 ? up : down);
      const float limit = sum - 1e-5f * std::fabs(sum) - 2;
      // A limit that is no number lets all pass, as one below all sums does.
      limits[i] = static_cast<std::int32_t>(std::min(high, std::max(low, limit))) + offset[i];
    }
  }

  // What the bar of query i of the chunk means for the kernels.
  void take_bar(std::size_t i) {
    const UpperBoundTest test = bars_[i] = s_.test_of(first_query_ + i);
    least_bar_[i] = test.threshold / test.gain;
    lean_[i] = test.norm2_weight / test.gain;
    slack_[i] = test.slack;
    offset_[i] = test.offset;
    if (!s_.rows().norm) floors_[i] = s_.floor_of(first_query_ + i, bar_of(i));
  }

  // What bounds must be above. After the first stretch rows come that are lower than some met before; of those whose
  // key is the bar itself, those lower than the k-th best row are in. As long as that is one of the first stretch,
  // which is met in order, there are none.
  float bar_of(std::size_t i) const {
    const std::size_t q = first_query_ + i;
    return ascending_ >= last_ || s_.last_before(q, ascending_) ? s_.bar(q) : s_.bar_with_ties(q);
  }

  std::size_t index_bytes() const { return kGroupBlocks * s_.units * kUnitIndex; }
  std::uint8_t* index_of(std::size_t g) { return index_.data() + g * index_bytes(); }
  std::uint8_t* tables_of(std::size_t i) { return tables_.data() + i * s_.units * kUnitTable; }
  std::uint8_t* signs_of(std::size_t r) { return row_signs_.data() + r * (s_.stride / 8); }

  Scorer& s_;
  std::size_t first_query_ = 0, queries_ = 0;  // the chunk
  std::size_t few_ = 0, stretch_ = 0;
  std::size_t ascending_ = 0, last_ = 0;  // the end of the first stretch, and of all rows
  Buffer<std::uint8_t> tables_, index_, row_signs_;
  Buffer<std::uint16_t> sums_;  // of kSignTileQueries queries and one group, or all of a stretch
  Likely find_;
  std::vector<Agreement> likely_;  // the groups of the first stretch
  std::vector<Group> groups_;      // of the stretch
  Buffer<std::int8_t> levels_;     // of the group that is scored
  Scorer::Weight weights_[kGroupRows], least_, most_;
  // Of the chunk's queries: what their bars mean for exact tests, for bounds of sizes 1, and for narrow sums.
  std::vector<UpperBoundTest> bars_;
  Buffer<std::uint16_t> floors_;
  Buffer<float> least_bar_, lean_, slack_;
  Buffer<std::int32_t> offset_, limits_, narrow_sums_;
  Buffer<std::uint32_t> passing_;  // of a group's catch
};

}  // namespace vqindex
