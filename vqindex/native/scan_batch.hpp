// The scan for many queries, with a sign bound.
//
//   level         the integer that a row's code stands for at one coordinate; as int8 here, see int8_prefilter.hpp
//   code query    a query as int16 coordinates, from which exact scores come
//   sign query    the code query scaled to -5..5 and rounded
//   agreement     the sum of the sign query's magnitudes at coordinates where its sign equals the row's
//   sign bound    an upper confidence bound of the score, from the agreement (sign_bound.hpp)
//   rank score    min(score, sign bound), by which rows compete (top_k.hpp)
//   threshold     a rank score that at least k rows reach
//   narrow query  the code query divided by 512 and rounded to int8
//   int8 sum      the product of a row's levels and a narrow query, plus the query's offset (128 * the latter's sum)
//   candidate     a pair (row, query) whose bound is above the query's threshold, or equal to it where a tie could win
//
//   for each chunk of queries                       their look-up tables stay in the third-level cache, if it has room
//     make the tables
//     seed the thresholds from the first row tile   if it has 32 * k rows or more; not for a range search
//     for each of eight sweeps over the row tiles
//       for each row tile of this sweep             the first one in growing parts
//         exchange thresholds with the other threads
//         make the look-up indices                  from the sign bits; they stay in the second-level cache
//         for each subset of the chunk              its tables stay in the second-level cache too
//           for each group of the tile
//             for up to eight queries at a time
//               sum the agreement with 256 rows     (sign_tile_u8u16)
//               list the candidates                 (collect); if the list may overflow, score it first
//         for each group of the tile
//           decode the rows that are candidates of any query, once for all of them
//           drop candidates by their int8 sum       (dot_rows_s8s8, then the float test of int8_prefilter.hpp)
//           score the others exactly; raise thresholds
//
// Thresholds rise fastest with rows from all over the index. A surplus candidate costs 1.5 to 3 ns (on the machine of
// docs/scan.md). A rise, which recomputes the query's test and integer threshold, costs far more. So row tiles are
// strided, to raise thresholds early and in few rises: sweep s scans row tiles s, s + 8, s + 16 and so on. The sweeps
// scan every row once. Eight row tiles or fewer come in order.
//
// The order does not change the result. At least k rows reach a threshold (a range search's is fixed), so it is never
// above the k-th best rank score of all. A row is dropped if its bound is below the threshold, or if it equals the
// threshold and the row loses the tie. Its rank score, min(score, bound), is no better than the bound, so the row is
// not among the k best. A seed threshold lies just below the k-th best seed row. So the seed rows, which are not kept
// yet, cannot be dropped when the scan reaches them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "threshold_seeder.hpp"

namespace vqindex {

// scan.hpp gives the reasons for these sizes.
constexpr std::size_t kChunkQueries = 1024;                       // most queries of a chunk
constexpr std::size_t kChunkTableBytes = std::size_t{1} << 24;    // most bytes of a chunk's tables
constexpr std::size_t kSubsetTableBytes = std::size_t{1} << 17;   // most bytes of a subset's tables
constexpr std::size_t kRowTileIndexBytes = std::size_t{1} << 19;  // most bytes of a row tile's indices
constexpr std::size_t kRowTileGroups = 8;                         // most groups of a row tile
constexpr std::size_t kSweeps = 8;  // over all row tiles; more or fewer gained nothing (docs/scan.md)
constexpr std::size_t kGroupCandidates = std::size_t{1} << 14;  // most candidates in a group's list
constexpr std::size_t kRowTileRowsPerSeed = 16;  // rows of the tile that seeding needs for each of 2 * k seed rows
constexpr std::size_t kPrefetchCandidates = 4;  // between the prefetch of a code query and its use; their loads overlap

// A place in a group takes a byte, and the number of a query in its chunk 16 bits. If every (row, query) of one call is
// a candidate, an empty list has room for them.
static_assert(kGroupRows <= 256 && kChunkQueries <= 65536 && kSignTileQueries * kGroupRows <= kGroupCandidates);

// In this class, q numbers a query within the QueryGroup of the thread, and i within its chunk.
class BatchScan {
 public:
  explicit BatchScan(ScanContext& context) : c_(context), seeder_(context) {}

  // Scans the rows from `first`, a multiple of 64, to `last`.
  void scan(std::size_t first, std::size_t last, const Poll& poll) {
    if (first == last) return;
    const std::size_t nq = c_.request.queries.count, table = c_.units * kUnitTable;
    const std::size_t chunk = std::min(nq, std::clamp(kChunkTableBytes / table, kSignTileQueries, kChunkQueries));
    // A subset has eight queries and a row tile one group at least, even if these take more bytes than they should.
    subset_ = std::max(kSignTileQueries, kSubsetTableBytes / table / kSignTileQueries * kSignTileQueries);
    tile_groups_ = std::clamp<std::size_t>(kRowTileIndexBytes / index_bytes(), 1, kRowTileGroups);
    allocate(chunk);
    first_tile_end_ = first + tile_groups_ * kGroupRows;
    last_ = last;
    for (first_query_ = 0; first_query_ < nq; first_query_ += chunk) {
      queries_ = std::min(chunk, nq - first_query_);
      // Making a query's tables is announced as a group of rows. It takes as long as summing 800 to 1,200 rows, but
      // with AVX-512 all tables of a chunk take a millisecond at most (roofline.jsonl), so polls hardly depend on this.
      if (!c_.keep_going(poll, queries_ * kGroupRows * c_.dim)) return;
      for (std::size_t i = 0; i < queries_; ++i) {
        c_.kernels.sign_tables_s8u8(c_.queries.sign_query_of(first_query_ + i), c_.units, tables_of(i));
        update_threshold(i);
      }
      seed_thresholds(first, std::min(last, first_tile_end_));
      if (!scan_chunk(first, last, poll)) return;
    }
  }

 private:
  // A group of the row tile, and its candidates. Queries are numbered within the chunk.
  struct Group {
    std::size_t at, stop;
    std::size_t count = 0;
    Buffer<std::uint8_t> places;
    Buffer<std::uint16_t> queries;
    std::uint64_t masks[kGroupBlocks] = {};  // rows that are candidates of any query
  };

  void allocate(std::size_t chunk) {
    tables_.resize(chunk * c_.units * kUnitTable);
    index_.resize(tile_groups_ * index_bytes());
    sums_.resize(tile_groups_ * kSignTileQueries * kGroupRows);
    groups_.resize(tile_groups_);
    levels_.resize(kGroupRows * c_.stride);
    sign_rows_.assign(kGroupRows * c_.rows.sign_row_bytes, 0);
    tests_.resize(chunk);
    integer_thresholds_.resize(chunk);
    for (auto* terms : {&threshold_per_gain_, &norm2_weight_per_gain_, &slack_}) terms->resize(chunk);
    offset_.resize(chunk);
    limits_.resize(chunk);
  }

  // Seeds the threshold of every query of the chunk from the first row tile, if that is long enough. The scan sums the
  // tile once more: its sums for all queries would take up to 4 MB.
  void seed_thresholds(std::size_t at, std::size_t stop) {
    if (c_.request.range_thresholds || stop - at < kRowTileRowsPerSeed * 2 * c_.request.k) return;
    const std::size_t groups = start_tile(at, stop), group_sums = kSignTileQueries * kGroupRows;
    for (std::size_t i = 0; i < queries_; i += kSignTileQueries) {
      const std::size_t some = std::min(kSignTileQueries, queries_ - i);
      for (std::size_t g = 0; g < groups; ++g) sum_signs(g, i, some, sums_.data() + g * group_sums);
      for (std::size_t j = 0; j < some; ++j) {
        agreement_.clear();
        for (std::size_t g = 0; g < groups; ++g) {
          const Group& group = groups_[g];
          const std::size_t rows = blocks_of(group.at, group.stop) * kBlockRows;
          agreement_.push_back({group.at, group.stop, sums_.data() + g * group_sums + j * rows});
        }
        seeder_.seed_threshold(first_query_ + i + j, agreement_);
        update_threshold(i + j);
      }
    }
  }

  // Scans all rows for the queries of the chunk. Returns false if the search is to stop.
  bool scan_chunk(std::size_t first, std::size_t last, const Poll& poll) {
    const std::size_t tile_rows = tile_groups_ * kGroupRows;
    for (std::size_t sweep = 0; sweep < kSweeps; ++sweep)
      for (std::size_t at = first + sweep * tile_rows; at < last; at += kSweeps * tile_rows) {
        const std::size_t stop = std::min(last, at + tile_rows);
        // The first row tile is scanned in growing parts: 64 rows, then 192, then 768, then the rest. A query without a
        // threshold takes every row of a part as a candidate. Each part uses the thresholds that the parts before it
        // reached, and has three times their rows: in random order, about 3 * k of them beat the k-th best so far.
        // Seeded queries don't need the parts. All queries of the chunk share them, and their cost arises once per
        // chunk.
        for (std::size_t from = at, rows = at == first ? kBlockRows : tile_rows; from < stop; rows = 3 * (from - at)) {
          const std::size_t to = std::min(stop, from + rows);
          if (!c_.keep_going(poll, (to - from) * queries_ * c_.dim)) return false;
          scan_tile(from, to);
          from = to;
        }
      }
    return true;
  }

  // Scans a row tile, or a part of one, for the queries of the chunk. First exchanges thresholds
  // with the other threads: takes over a higher one, else publishes its own.
  void scan_tile(std::size_t at, std::size_t stop) {
    for (std::size_t i = 0; i < queries_; ++i)
      if (c_.top_k.pull_threshold(first_query_ + i)) update_threshold(i);
    const std::size_t groups = start_tile(at, stop);
    for (std::size_t from = 0; from < queries_; from += subset_)
      for (std::size_t g = 0; g < groups; ++g) scan_group(from, std::min(queries_, from + subset_), g);
    for (std::size_t g = 0; g < groups; ++g) score_candidates(groups_[g]);
  }

  // Divides the row tile into groups and makes their look-up indices. Returns how many groups there are.
  std::size_t start_tile(std::size_t at, std::size_t stop) {
    const std::size_t groups = (stop - at + kGroupRows - 1) / kGroupRows;
    for (std::size_t g = 0; g < groups; ++g) {
      Group& group = groups_[g];
      group.at = at + g * kGroupRows;
      group.stop = std::min(stop, group.at + kGroupRows);
      c_.kernels.sign_expand_u8(c_.rows.sign_block(group.at), c_.rows.sign_bytes, blocks_of(group.at, group.stop),
                                index_of(g));
    }
    return groups;
  }

  // Collects the candidates of a group for queries `from` to `to`.
  void scan_group(std::size_t from, std::size_t to, std::size_t g) {
    Group& group = groups_[g];
    if (!c_.rows.any_selected(first_query_ + from, to - from, group.at, group.stop)) return;
    for (std::size_t i = from; i < to; i += kSignTileQueries) {
      const std::size_t some = std::min(kSignTileQueries, to - i);
      sum_signs(g, i, some, sums_.data());
      collect(group, i, some);
    }
  }

  // Sums the agreement of queries i to i + some with a group; the sums of one query follow those of another.
  void sum_signs(std::size_t g, std::size_t i, std::size_t some, std::uint16_t* sums) {
    const std::size_t blocks = blocks_of(groups_[g].at, groups_[g].stop);
    SignCall call{0, blocks, some, c_.units * kUnitTable, kMaxUnitsPerByteSum, false};
    for (std::size_t j = i; j < i + some; ++j)
      call.units_per_byte_sum = std::min(call.units_per_byte_sum, c_.queries.units_per_byte_sum[first_query_ + j]);
    for (std::size_t u = 0; u < c_.units; u += call.units) {
      call.units = std::min(c_.units - u, c_.kernels.call_units);
      call.accumulate = u > 0;
      c_.kernels.sign_tile_u8u16(index_of(g) + u * blocks * kUnitIndex, tables_of(i) + u * kUnitTable, call, sums);
    }
  }

  // Adds the candidates of queries i to i + some, whose agreement is in sums_, to the group's list.
  void collect(Group& group, std::size_t i, std::size_t some) {
    const std::size_t blocks = blocks_of(group.at, group.stop);
    if (group.count + some * kGroupRows > kGroupCandidates) score_candidates(group);
    group.places.resize(kGroupCandidates + kBlockRows);
    group.queries.resize(kGroupCandidates + kBlockRows);
    const auto append = [&](const std::uint16_t* sums, const std::uint16_t* integer_thresholds, std::size_t queries,
                            const std::uint64_t* selected, std::size_t first) {
      group.count += c_.kernels.collect_ge_u16(sums, blocks, integer_thresholds, queries, selected, first, group.masks,
                                               group.places.data() + group.count, group.queries.data() + group.count,
                                               c_.candidates.data() + first_query_ + first);
    };
    std::uint64_t masks[kGroupBlocks];
    if (!c_.rows.has_norms() && !c_.rows.has_selection_per_query()) {
      // Bounds of rows of norm 1 grow with the agreement. So each pair needs one integer comparison, and one call
      // serves all queries.
      for (std::size_t b = 0; b < blocks; ++b)
        masks[b] = c_.rows.selected(0, group.at + b * kBlockRows) & first_bits(group.stop - group.at - b * kBlockRows);
      return append(sums_.data(), integer_thresholds_.data() + i, some, masks, i);
    }
    // Otherwise the mask of each query decides alone, and every agreement passes the integer threshold.
    const std::uint16_t zero = 0, *sums = sums_.data();
    for (const std::size_t stop = i + some; i < stop; ++i, sums += blocks * kBlockRows)
      if (c_.sign_bound.mask_above(first_query_ + i, group.at, group.stop, sums, collect_threshold(i), masks))
        append(sums, &zero, 1, masks, i);
  }

  // Scores the candidates of a group and empties its list.
  void score_candidates(Group& group) {
    if (group.count) {
      decode_candidates(group);
      find_limits();
      score_survivors(group);
    }
    group.count = 0;
    std::fill_n(group.masks, kGroupBlocks, 0);
  }

  // Decodes the rows that are candidates of any query, and finds the extremes of their terms.
  void decode_candidates(const Group& group) {
    c_.rows.copy_all_signs(group.at, group.stop, sign_rows_.data());
    constexpr float none = std::numeric_limits<float>::infinity();
    least_ = {none, 0, none};
    most_ = {0, 0, 0};
    for (std::size_t b = 0; b < kGroupBlocks; ++b)
      for (std::uint64_t bits = group.masks[b]; bits; bits &= bits - 1) {
        const std::size_t r = b * kBlockRows + lowest_bit(bits), row = group.at + r;
        std::int8_t* levels = levels_.data() + r * c_.stride;
        c_.kernels.decode_s8(c_.request.code.fields, c_.rows.code_of(row), c_.rows.segment().row_bytes, signs_of(r),
                             levels);
        const RowTerms terms = terms_[r] = c_.prefilter.terms_of(row, levels);
        least_ = {std::min(least_.weight, terms.weight), 0, std::min(least_.norm2, terms.norm2)};
        most_ = {std::max(most_.weight, terms.weight), std::max(most_.error, terms.error), 0};
      }
  }

  // Finds a limit of the int8 sum for each query. A sum at or below it fails the query's test for every decoded row: it
  // solves the test for the sum, with those extremes of the rows' terms that let most candidates pass. Rounding must
  // not make it too high. `remaining` needs no room here, because test_of and the slack leave it (kRoom). The limit
  // leaves room for the rest:
  //   1e-5 |sum|   the float32 roundings from `remaining` to the limit, far below this share
  //   2            less than 1 where a negative limit is cut toward zero, and roundings near zero
  //
  // A level is at most 127 and a narrow query's coordinate at most 64 in magnitude, so a sum and an offset are at most
  // 2 * 128 * 64 * kSignDim = 1e8. So adding the offset cannot overflow, all sums are above `low` + offset, and none is
  // above `high` + offset.
  void find_limits() {
    constexpr float low = -2e9f, high = 1e9f;
    const float up = most_.weight > 0 ? 1 / most_.weight : 0, down = 1 / least_.weight;
    const float error = most_.error, norm2 = least_.norm2;
    const float *threshold = threshold_per_gain_.data(), *norm2_weight = norm2_weight_per_gain_.data(),
                *slack = slack_.data();
    const std::int32_t* offset = offset_.data();
    std::int32_t* limits = limits_.data();
    for (std::size_t i = 0; i < queries_; ++i) {
      const float remaining = threshold[i] + norm2_weight[i] * norm2 - slack[i] * error;
      const float sum = remaining * (remaining > 0 ? up : down);
      const float limit = sum - 1e-5f * std::fabs(sum) - 2;
      // If the limit is a NaN, max and min make it `low`, and all candidates pass.
      limits[i] = static_cast<std::int32_t>(std::min(high, std::max(low, limit))) + offset[i];
    }
  }

  // Drops most candidates by their int8 sums, tests the others with the terms of their own rows, and scores the rest.
  void score_survivors(const Group& group) {
    survivors_.resize(kGroupCandidates + 3);
    int8_sums_.resize(kGroupCandidates + 3);
    const std::size_t survivors =
        c_.kernels.dot_rows_s8s8(levels_.data(), c_.stride, {group.count, group.places.data(), group.queries.data()},
                                 c_.queries.narrow_query.data() + first_query_ * c_.stride, limits_.data(),
                                 survivors_.data(), int8_sums_.data());
    for (std::size_t s = 0; s < survivors; ++s) {
      if (s + kPrefetchCandidates < survivors) {
        const std::size_t next = first_query_ + group.queries[survivors_[s + kPrefetchCandidates]];
        prefetch_bytes(reinterpret_cast<const std::uint8_t*>(c_.queries.code_query_of(next)), 2 * c_.stride);
      }
      const std::size_t r = group.places[survivors_[s]], i = group.queries[survivors_[s]], q = first_query_ + i;
      const RowTerms& terms = terms_[r];
      const UpperBoundTest& test = tests_[i];
      const float upper = terms.weight * static_cast<float>(int8_sums_[s] - test.offset) + test.slack * terms.error;
      if (!(test.gain * upper > test.threshold + test.norm2_weight * terms.norm2)) continue;
      const float score = c_.scorer.score_decoded(q, group.at + r, levels_.data() + r * c_.stride);
      if (score < c_.top_k.threshold(q)) continue;
      const std::int32_t sum = c_.kernels.dot_signs_s8(signs_of(r), c_.queries.sign_query_of(q), c_.stride);
      const float before = c_.top_k.threshold(q);
      c_.top_k.push(q, group.at + r, score, c_.sign_bound.from_sum(q, group.at + r, sum));
      if (c_.top_k.threshold(q) != before) update_threshold(i);
    }
  }

  // Derives what the kernels compare with from the threshold of query i of the chunk.
  void update_threshold(std::size_t i) {
    const std::size_t q = first_query_ + i;
    const UpperBoundTest test = tests_[i] = c_.prefilter.test_of(q, c_.top_k.threshold(q));
    threshold_per_gain_[i] = test.threshold / test.gain;
    norm2_weight_per_gain_[i] = test.norm2_weight / test.gain;
    slack_[i] = test.slack;
    offset_[i] = test.offset;
    // 65536 says that no agreement is enough. 65535 says the same, because none exceeds 5 * 6144 = 30720.
    if (!c_.rows.has_norms())
      integer_thresholds_[i] =
          static_cast<std::uint16_t>(std::min(c_.sign_bound.integer_threshold(q, collect_threshold(i)), 65535));
  }

  // What the bounds of candidates must be above. After the first row tile, rows come out of order: a row with a smaller
  // number than the k-th best may still come, and it wins if its rank score equals the threshold. That cannot happen if
  // there is only one tile, nor as long as the k-th best row comes before the end of the first tile, because all rows
  // that still come then have larger numbers.
  float collect_threshold(std::size_t i) const {
    const std::size_t q = first_query_ + i;
    return first_tile_end_ >= last_ || c_.top_k.last_is_before(q, first_tile_end_) ? c_.top_k.threshold(q)
                                                                                   : c_.top_k.threshold_with_ties(q);
  }

  std::size_t index_bytes() const { return kGroupBlocks * c_.units * kUnitIndex; }
  std::uint8_t* index_of(std::size_t g) { return index_.data() + g * index_bytes(); }
  std::uint8_t* tables_of(std::size_t i) { return tables_.data() + i * c_.units * kUnitTable; }
  std::uint8_t* signs_of(std::size_t r) { return sign_rows_.data() + r * c_.rows.sign_row_bytes; }

  ScanContext& c_;
  ThresholdSeeder seeder_;
  std::size_t first_query_ = 0, queries_ = 0;  // the chunk
  std::size_t subset_ = 0, tile_groups_ = 0;   // queries of a subset, groups of a row tile
  std::size_t first_tile_end_ = 0, last_ = 0;  // rows
  Buffer<std::uint8_t> tables_, index_;        // of the chunk, of the row tile
  Buffer<std::uint16_t> sums_;                 // eight queries' agreement with one group, or with all of the row tile
  std::vector<Group> groups_;                  // of the row tile
  std::vector<AgreementOfRows> agreement_;     // of the first row tile's groups
  // The group that is scored: decoded levels, sign bits and terms of its candidates, and the terms' extremes.
  Buffer<std::int8_t> levels_;
  Buffer<std::uint8_t> sign_rows_;
  RowTerms terms_[kGroupRows], least_, most_;
  Buffer<std::uint32_t> survivors_;  // numbers of candidates in the group's list
  Buffer<std::int32_t> int8_sums_;
  // For each query of the chunk, its threshold in the forms that the kernels compare with.
  std::vector<UpperBoundTest> tests_;
  Buffer<std::uint16_t> integer_thresholds_;
  // The test divided by its gain: its threshold and norm2_weight are divided, and its slack stays.
  Buffer<float> threshold_per_gain_, norm2_weight_per_gain_, slack_;
  Buffer<std::int32_t> offset_, limits_;
};

}  // namespace vqindex
