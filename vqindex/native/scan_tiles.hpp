// The scan of a batch over all levels by a matrix unit, with a sign bound or without.
//
//   for each of eight sweeps over the slabs of rows    as in scan_batch.hpp; the first slab in growing parts
//     exchange thresholds with the other threads
//     decode the rows and arrange them as tiles        they stay in the second-level cache
//     for each 32 queries
//       multiply them and all rows of the slab         (TileKernels::find_hits)
//       test each hit with the query's threshold of now, score the others exactly, raise the threshold
//
// The int8 sum of a row and a query gives an upper bound of the score (int8_prefilter.hpp). A rank score is
// min(score, sign bound), so it is not above this bound either: a row whose bound is below the threshold is not among
// the k best, whatever its sign bound. So this scan needs the sign bound of the survivors alone, and finds what the
// other scans find.
//
// UpperBoundTest for a row of the terms (weight, error, norm2), solved for the sum, is
//   sum > threshold / gain * (1 / weight) + norm2_weight / gain * (norm2 / weight) - slack * (error / weight)
// The quotients belong to a query or a row, so the kernel has two or three products for a pair. `test_of` and the slack
// leave room (kRoom) for 30 float32 roundings of every product, and the test has less than ten. A quotient that is
// infinite or a NaN, of a zero query or row, makes a limit that is right, or a NaN that passes every sum.
#pragma once

#include <algorithm>
#include <limits>

#include "scan_batch.hpp"

namespace vqindex {

constexpr std::size_t kSlabBytes = std::size_t{3} << 18;  // most bytes of a slab's tiles
constexpr std::size_t kSlabRows = 1024;                   // most rows of a slab

// The tiles of one thread: ready as long as this lives.
class ConfiguredTiles {
 public:
  explicit ConfiguredTiles(const TileKernels& tiles) : tiles_(tiles) { tiles_.configure(); }
  ~ConfiguredTiles() { tiles_.release(); }
  ConfiguredTiles(const ConfiguredTiles&) = delete;
  ConfiguredTiles& operator=(const ConfiguredTiles&) = delete;

 private:
  const TileKernels& tiles_;
};

class TileScan {
 public:
  explicit TileScan(ScanContext& context) : c_(context) {}

  // Scans the rows from `first`, a multiple of 64, to `last`.
  void scan(std::size_t first, std::size_t last, const Poll& poll) {
    if (first == last) return;
    const std::size_t nq = c_.request.queries.count;
    slab_ = std::clamp<std::size_t>(kSlabBytes / c_.stride / kBlockRows * kBlockRows, kBlockRows, kSlabRows);
    allocate(std::min(slab_, padded(last - first, kBlockRows)));
    for (std::size_t q = 0; q < nq; ++q) update_threshold(q);
    const ConfiguredTiles ready(*c_.kernels.tiles);
    for (std::size_t sweep = 0; sweep < kSweeps; ++sweep)
      for (std::size_t at = first + sweep * slab_; at < last; at += kSweeps * slab_) {
        const std::size_t stop = std::min(last, at + slab_);
        // The parts of the first slab are those of the batch scan: 64 rows, then 192, then the rest.
        for (std::size_t from = at, rows = at == first ? kBlockRows : slab_; from < stop; rows = 3 * (from - at)) {
          const std::size_t to = std::min(stop, from + rows);
          if (!c_.keep_going(poll, (to - from) * nq * c_.dim)) return;
          if (c_.rows.any_selected(0, nq, from, to)) scan_slab(from, to);
          from = to;
        }
      }
    // The sign bound dropped no row.
    for (std::size_t q = 0; q < nq; ++q) c_.candidates[q] += count_selected(c_.rows.segment(), q, first, last);
  }

 private:
  void allocate(std::size_t rows) {
    const std::size_t queries = padded(c_.request.queries.count, kTileQueries);
    levels_.resize(rows * c_.stride);
    tiles_.resize(rows * c_.stride);
    sign_rows_.assign(rows * c_.rows.sign_row_bytes, 0);
    terms_.resize(rows);
    for (auto* values : {&per_weight_, &error_, &norm2_}) values->resize(rows);
    hits_.resize(rows * kTileQueries);
    tests_.resize(queries);
    threshold_.assign(queries, std::numeric_limits<float>::infinity());  // no row passes for padding
    slack_.assign(queries, 0.0f);
    norm2_weight_.assign(queries, 0.0f);
  }

  void scan_slab(std::size_t at, std::size_t stop) {
    const std::size_t nq = c_.request.queries.count;
    for (std::size_t q = 0; q < nq; ++q)
      if (c_.top_k.pull_threshold(q)) update_threshold(q);
    decode_slab(at, stop);
    TileCall call{};
    call.rows = tiles_.data();
    call.stride = c_.stride;
    call.row_count = padded(stop - at, kTileRows);
    call.distance = c_.request.code.distance;
    call.per_weight = per_weight_.data();
    call.error = error_.data();
    call.norm2 = norm2_.data();
    for (std::size_t q = 0; q < nq; q += kTileQueries) {
      if (!c_.rows.any_selected(q, std::min(kTileQueries, nq - q), at, stop)) continue;
      call.queries = c_.queries.narrow_query.data() + q * c_.stride;
      call.threshold = threshold_.data() + q;
      call.slack = slack_.data() + q;
      call.norm2_weight = norm2_weight_.data() + q;
      const std::size_t found = c_.kernels.tiles->find_hits(call, hits_.data());
      for (std::size_t i = 0; i < found; ++i)
        if (hits_[i].row < stop - at && q + hits_[i].query < nq) score(q + hits_[i].query, at, hits_[i]);
    }
  }

  // Decodes the rows and arranges them as tiles; fills the last tile with zero rows.
  void decode_slab(std::size_t at, std::size_t stop) {
    const SegmentView& segment = c_.rows.segment();
    const std::size_t count = stop - at;
    if (c_.request.code.fields.tops || c_.request.sign_bound.enabled)
      c_.rows.copy_all_signs(at, stop, sign_rows_.data());
    for (std::size_t from = 0; from < padded(count, kTileRows); from += 16) {
      const std::size_t next = std::min(at + from + 32, segment.count);
      c_.rows.prefetch_codes(next, std::min<std::size_t>(16, segment.count - next));
      for (std::size_t r = from; r < from + 16; ++r) {
        RowTerms terms{0, 0, 0};
        if (r < count) {
          c_.kernels.decode_s8(c_.request.code.fields, c_.rows.code_of(at + r), segment.row_bytes, signs_of(r),
                               levels_of(r));
          terms = c_.prefilter.terms_of(at + r, levels_of(r));
        } else {
          std::fill_n(levels_of(r), c_.stride, std::int8_t{0});
        }
        terms_[r] = terms;
        // A weight that is not positive tells nothing: every sum passes.
        per_weight_[r] = terms.weight > 0 ? 1 / terms.weight : std::numeric_limits<float>::quiet_NaN();
        error_[r] = terms.error * per_weight_[r];
        norm2_[r] = terms.norm2 * per_weight_[r];
      }
      c_.kernels.tiles->arrange_rows_s8(levels_of(from), c_.stride, tiles_.data() + from * c_.stride);
    }
  }

  void score(std::size_t q, std::size_t at, const TileHit& hit) {
    const std::size_t r = hit.row, row = at + r;
    if (!(c_.rows.selected(q, row) >> (row % kBlockRows) & 1)) return;
    const RowTerms& terms = terms_[r];
    const UpperBoundTest& test = tests_[q];
    const float upper = terms.weight * static_cast<float>(hit.sum) + test.slack * terms.error;
    if (!(test.gain * upper > test.threshold + test.norm2_weight * terms.norm2)) return;
    const float score = c_.scorer.score_decoded(q, row, levels_of(r)), before = c_.top_k.threshold(q);
    if (score < before) return;
    float bound = std::numeric_limits<float>::infinity();
    if (c_.request.sign_bound.enabled) {
      const std::int32_t sum = c_.kernels.dot_signs_s8(signs_of(r), c_.queries.sign_query_of(q), c_.stride);
      bound = c_.sign_bound.from_sum(q, row, sum);
    }
    c_.top_k.push(q, row, score, bound);
    if (c_.top_k.threshold(q) != before) update_threshold(q);
  }

  void update_threshold(std::size_t q) {
    const UpperBoundTest test = tests_[q] = c_.prefilter.test_of(q, c_.top_k.threshold(q));
    threshold_[q] = test.threshold / test.gain;
    norm2_weight_[q] = test.norm2_weight / test.gain;
    slack_[q] = test.slack;
  }

  std::int8_t* levels_of(std::size_t r) { return levels_.data() + r * c_.stride; }
  std::uint8_t* signs_of(std::size_t r) { return sign_rows_.data() + r * c_.rows.sign_row_bytes; }

  ScanContext& c_;
  std::size_t slab_ = 0;  // rows
  // The slab's rows: decoded, and as tiles; their sign bits and terms. per_weight_, error_ and norm2_ are 1, error and
  // norm2 divided by the weight.
  Buffer<std::int8_t> levels_, tiles_;
  Buffer<std::uint8_t> sign_rows_;
  std::vector<RowTerms> terms_;
  Buffer<float> per_weight_, error_, norm2_;
  std::vector<TileHit> hits_;
  // Each query's test, and its terms divided by the gain.
  std::vector<UpperBoundTest> tests_;
  Buffer<float> threshold_, slack_, norm2_weight_;
};

}  // namespace vqindex
