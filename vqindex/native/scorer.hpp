// What every way of scanning needs of the rows and queries it meets: where they lie, who may find them, exact scores,
// bounds, and the best rows so far.
#pragma once

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "buffer.hpp"
#include "gather.hpp"
#include "hits.hpp"
#include "scan.hpp"
#include "scan_queries.hpp"

namespace vqindex {

constexpr std::size_t kGroupRows = kGroupBlocks * kBlockRows;  // rows of one pass over the sign plane
constexpr std::size_t kScored = 64;                            // rows whose signs and sums are kept at once
constexpr std::size_t kPollWork = std::size_t{1} << 28;        // coordinates met between two looks at the clock

using Poll = std::function<bool()>;

// For each query a key that k rows reach, known to all threads that scan for it.
using Bars = std::vector<std::atomic<float>>;

// Asks for memory that is about to be read here and there, which no hardware foresees. Always inlined: a function that
// does nothing but this is one without effects to GCC, which drops calls of it.
VQ_INLINE void fetch(const std::uint8_t* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) prefetch(from + i);
  if (bytes) prefetch(from + bytes - 1);
}

inline std::size_t blocks_of(std::size_t at, std::size_t stop) { return (stop - at + kBlockRows - 1) / kBlockRows; }

// One thread's queries and the rows they meet.
class Scorer {
 public:
  const Task& task;
  const Kernels& kernels;
  const Prepared& prepared;
  const std::size_t dim, stride, sign_bytes,
      units;  // stride: of levels and queries; units: of the sign plane's kernels

  // `bars` if other threads meet other rows for the same queries.
  Scorer(const Task& task, const Kernels& kernels, const Prepared& prepared, const std::atomic<bool>& stop, Bars* bars)
      : task(task),
        kernels(kernels),
        prepared(prepared),
        dim(task.code.fields.dim),
        stride(prepared.stride),
        sign_bytes((dim + 7) / 8),
        units(padded(sign_bytes, kUnitBytes) / kUnitBytes),
        stop_(stop),
        bars_(task.thresholds ? nullptr : bars),
        best_(task.queries.count, Best(task.k)),
        candidates_(task.queries.count),
        sum_bars_(task.queries.count),
        spare_(stride),
        signs_(kScored * row_signs()) {
    if (task.thresholds)
      for (std::size_t q = 0; q < best_.size(); ++q) best_[q] = Best::above(task.thresholds[q]);
  }

  std::vector<Best>& best() { return best_; }
  // How many rows the sign bound did not drop: a count for each query, from query q on.
  std::size_t* candidates_of(std::size_t q) { return candidates_.data() + q; }
  void meet(const Rows& rows) { rows_ = &rows; }
  void count_from(std::int64_t first_row) { first_row_ = first_row; }

  // Asks now and then, by the work done since, whether to go on; `work` is in coordinates met.
  bool go_on(const Poll& poll, std::size_t work) {
    work_ += work;
    if (work_ > kPollWork) {
      work_ = 0;
      if (poll && !poll()) return false;
    }
    return !stop_.load(std::memory_order_relaxed);
  }

  // ---- rows

  const Rows& rows() const { return *rows_; }
  std::size_t number_of(std::size_t row) const { return rows_->number ? rows_->number[row] : row; }
  const std::uint8_t* code_of(std::size_t row) const { return rows_->codes + number_of(row) * rows_->row_bytes; }
  const std::uint8_t* plane_of(std::size_t row) const { return rows_->signs + row * sign_bytes; }
  float size_of(std::size_t row) const { return rows_->norm ? rows_->norm[row] : 1.0f; }

  VQ_INLINE void fetch_code(std::size_t row) const { fetch(code_of(row), rows_->row_bytes); }
  // What its score needs.
  VQ_INLINE void fetch_row(std::size_t row) const {
    fetch_code(row);
    prefetch(rows_->factor + row);
  }
  VQ_INLINE void fetch_codes(std::size_t at, std::size_t count) const {
    if (!rows_->number) return fetch(rows_->codes + at * rows_->row_bytes, count * rows_->row_bytes);
    for (std::size_t row = at; row < at + count; ++row) fetch_code(row);
  }

  // The sign bits of those rows of a block that `wanted` has, one after the other.
  void signs_of(std::size_t block, std::uint64_t wanted, std::uint8_t* signs) const {
    kernels.sign_rows(plane_of(block), sign_bytes, wanted, signs, row_signs());
  }
  // All of them, for the rows of whole blocks.
  void sign_rows(std::size_t at, std::size_t stop, std::uint8_t* signs) const {
    for (; at < stop; at += kBlockRows, signs += kBlockRows * row_signs()) signs_of(at, ~std::uint64_t{0}, signs);
  }
  std::size_t row_signs() const { return stride / 8; }  // bytes of a row's sign bits

  // ---- filters: which rows a query may find

  std::uint64_t allowed_of(std::size_t q, std::size_t row) const {
    return rows_->allowed ? rows_->allowed[q * rows_->allowed_step + row / kBlockRows] : ~std::uint64_t{0};
  }

  // Whether some of the queries from `q` on may find some of the rows from `at` to `stop`.
  bool any_allowed(std::size_t q, std::size_t some, std::size_t at, std::size_t stop) const {
    if (!rows_->allowed) return true;
    for (std::size_t last = q + (rows_->allowed_step ? some : 1); q < last; ++q)
      for (std::size_t row = at; row < stop; row += kBlockRows)
        if (allowed_of(q, row)) return true;
    return false;
  }

  // ---- queries

  const std::int16_t* lead_of(std::size_t q) const { return prepared.lead.data() + q * stride; }
  const std::int8_t* sign_of(std::size_t q) const { return prepared.sign.data() + q * prepared.sign_stride; }

  // ---- exact scores

  // The scores of rows from their codes. Neighbours are best next to each other: a block's signs are found
  // together.
  void score_rows(std::size_t q, const std::size_t* rows, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; i += kScored) {
      const std::size_t some = std::min(kScored, count - i);
      if (task.code.fields.tops) find_signs(rows + i, some);
      score_some(q, rows + i, signs_.data(), some, scores + i);
    }
  }

  // The same where their signs are at hand.
  void score_rows(std::size_t q, const std::size_t* rows, const std::uint8_t* signs, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; i += kScored)
      score_some(q, rows + i, signs + i * row_signs(), std::min(kScored, count - i), scores + i);
  }

  // The score of a row from its levels, if those are all there is to it.
  float score_levels(std::size_t q, std::size_t row, const std::int8_t* levels) {
    if (!task.code.wide) return score_of(q, row, kernels.dot_s8s16(levels, lead_of(q), stride));
    float score;
    score_rows(q, &row, 1, &score);
    return score;
  }

  // estimator.py, operation for operation; distances with the sign that puts the best first.
  float score_of(std::size_t q, std::size_t row, std::int64_t sum) const {
    const float ip = static_cast<float>(sum) * task.queries.scale[q] * rows_->factor[row];
    if (!task.code.distance) return ip;
    const float norm = rows_->norm[row], query = task.queries.norm[q];
    return 2.0f * ip - (norm * norm + query * query);
  }

  // ---- bounds of scores, from queries rounded to int8
  //
  // A score is (sum of level x lead) * scale * factor. With level = m * narrow level + rest and
  // lead = 512 * narrow lead + rest, Cauchy-Schwarz bounds what the narrow sum leaves out:
  // m |narrow levels| |rest of lead| + |rest of levels| |lead|. The rest of a level is at most 255, and slack at least
  // |lead| / 128.

  // A row's part in `Kernels::passing`: what its narrow sum is worth, what it leaves out, and its size for distances.
  struct Weight {
    float weight, error, size;
  };

  Weight weigh(std::size_t row, const std::int8_t* levels) const {
    const float m = static_cast<float>(task.code.multiplier), factor = rows_->factor[row];
    const float rest = m > 1 ? 128.0f * 255.0f * std::sqrt(static_cast<float>(dim)) : 0.0f;
    const float length = std::sqrt(static_cast<float>(kernels.square_s8(levels, stride)));
    const float norm = task.code.distance ? rows_->norm[row] : 0.0f;
    return {512.0f * m * factor, (m * length + rest) * factor, norm * norm};
  }

  // A query's part, for the bar as it stands.
  UpperBoundTest test_of(std::size_t q) const {
    const float bar = best_[q].bar(), scale = task.queries.scale[q];
    UpperBoundTest test{prepared.offset[q], scale, prepared.slack[q], bar - kRoom * std::fabs(bar) - FLT_MIN, 0.0f};
    if (task.code.distance) {
      const float query2 = task.queries.norm[q] * task.queries.norm[q];
      test.gain = 2.0f * scale;
      test.threshold = bar + query2 - kRoom * (std::fabs(bar) + query2) - FLT_MIN;
      test.norm2_weight = 1.0f - kRoom;
    }
    return test;
  }

  // ---- bounds of the coarse stage

  float bound_at(std::size_t q, std::size_t row, std::int32_t sum) const {
    return sign_bound_from_sum(sum, prepared.bound[q], size_of(row));
  }

  float bound_from(std::size_t q, std::size_t row, std::uint16_t agreed) const {
    return sign_bound_from_agreement(agreed, prepared.bound[q], size_of(row));
  }

  // Which of the rows from `at`, a multiple of 64, to `stop`, whose sums are there, the query may find and have bounds
  // above `bar`.
  bool hits_above(std::size_t q, std::size_t at, std::size_t stop, const std::uint16_t* sums, float bar,
                  std::uint64_t* hits) {
    const std::size_t blocks = blocks_of(at, stop);
    if (rows_->norm) {
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t row = at + b * kBlockRows, count = std::min(kBlockRows, stop - row);
        const float* size = rows_->norm + row;
        if (count < kBlockRows) size = std::copy_n(size, count, size_) - count;
        hits[b] = kernels.mask_sign_bound_gt(sums + b * kBlockRows, prepared.bound[q], size, bar);
      }
    } else {
      const std::int32_t limit = integer_bar(q, bar);
      if (limit < 0)
        std::fill(hits, hits + blocks, ~std::uint64_t{0});
      else if (!kernels.mask_gt_u16(sums, blocks, static_cast<std::uint16_t>(limit), hits))
        return false;
    }
    std::uint64_t any = 0;
    for (std::size_t b = 0; b < blocks; ++b)
      any |= hits[b] &= allowed_of(q, at + b * kBlockRows) & first_bits(stop - at - b * kBlockRows);
    return any != 0;
  }

  // The least agreement whose bound is above `bar`, for rows of size 1.
  std::uint16_t floor_of(std::size_t q, float bar) const {
    return static_cast<std::uint16_t>(std::min(find_integer_bar(prepared.bound[q], bar) + 1, 65535));
  }

  // ---- what is kept

  // A bar to begin with: the k-th best key of some rows, which are to come again.
  void begin_with(std::size_t q, const std::vector<Hit>& bounds) {
    if (bounds.size() < task.k) return;  // a filter left too few
    std::vector<std::size_t> rows;
    for (const Hit& hit : bounds) {
      rows.push_back(static_cast<std::size_t>(hit.row));
      fetch_row(rows.back());
    }
    std::vector<float> scores(rows.size());
    score_rows(q, rows.data(), rows.size(), scores.data());
    Best best(task.k);
    for (std::size_t i = 0; i < rows.size(); ++i) best.push({std::min(scores[i], bounds[i].key), 0, bounds[i].row});
    float worst = std::numeric_limits<float>::infinity();
    for (const Hit& hit : best.finish()) worst = std::min(worst, hit.key);
    best_[q].expect(worst);
    tell(q);
  }

  // Raise a query's bar to what other threads know, or tell them of it. Returns whether it is another now.
  bool learn(std::size_t q) {
    if (!bars_) return false;
    const float known = (*bars_)[q].load(std::memory_order_relaxed), before = bar(q);
    if (known > before)
      best_[q].expect(known);
    else
      tell(q);
    return bar(q) != before;
  }

  float bar(std::size_t q) const { return best_[q].bar(); }
  // Whether rows can be out: there are k better ones, or it is a range that is asked for.
  bool has_bar(std::size_t q) const { return task.thresholds || bar(q) > -std::numeric_limits<float>::infinity(); }
  // Just under the bar: what is above this may be in, if its row is lower than another's that was met before.
  float bar_with_ties(std::size_t q) const { return std::nextafter(bar(q), -std::numeric_limits<float>::infinity()); }
  // Whether the k-th best row is none of those from `row` on.
  bool last_before(std::size_t q, std::size_t row) const {
    return best_[q].last_row() < first_row_ + static_cast<std::int64_t>(number_of(row));
  }
  void push(std::size_t q, std::size_t row, float score, float bound) {
    best_[q].push({std::min(score, bound), score, first_row_ + static_cast<std::int64_t>(number_of(row))});
  }

 private:
  void tell(std::size_t q) {
    if (!bars_) return;
    std::atomic<float>& known = (*bars_)[q];
    float now = known.load(std::memory_order_relaxed);
    while (now < bar(q) && !known.compare_exchange_weak(now, bar(q), std::memory_order_relaxed)) {
    }
  }

  void score_some(std::size_t q, const std::size_t* rows, const std::uint8_t* signs, std::size_t count, float* scores) {
    for (std::size_t i = 0; i < count; ++i) codes_[i] = code_of(rows[i]);
    if (!task.code.wide)
      kernels.decode_dot_s8s16(task.code.fields, codes_, rows_->row_bytes, signs, count, lead_of(q), spare_.data(),
                               sums_);
    else
      for (std::size_t i = 0; i < count; ++i) sums_[i] = wide_dot(q, codes_[i], signs + i * row_signs());
    for (std::size_t i = 0; i < count; ++i) scores[i] = score_of(q, rows[i], sums_[i]);
  }

  void find_signs(const std::size_t* rows, std::size_t count) {
    for (std::size_t i = 0, next; i < count; i = next) {
      const std::size_t block = rows[i] / kBlockRows * kBlockRows;
      std::uint64_t wanted = 0;
      for (next = i; next < count && rows[next] - block < kBlockRows && !(wanted >> (rows[next] - block)); ++next)
        wanted |= std::uint64_t{1} << (rows[next] - block);
      signs_of(block, wanted, signs_.data() + i * row_signs());
    }
  }

  std::int64_t wide_dot(std::size_t q, const std::uint8_t* code, const std::uint8_t* signs) {
    kernels.decode(task.code.index, code, rows_->row_bytes, signs, spare_.data());
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < dim; ++i)
      sum += std::int32_t{task.code.wide[static_cast<std::uint8_t>(spare_[i])]} * lead_of(q)[i];
    return sum;
  }

  // The largest agreement whose bound, for rows of size 1, is not above bar; -1 if there is none.
  std::int32_t integer_bar(std::size_t q, float bar) {
    SumBar& last = sum_bars_[q];
    if (!(last.key == bar)) last = {bar, find_integer_bar(prepared.bound[q], bar)};
    return last.sum;
  }

  static std::int32_t find_integer_bar(const SignBoundTerms& bound, float bar) {
    constexpr std::int32_t most = 65535;
    if (!(bound.scale > 0)) return sign_bound_from_sum(0, bound, 1.0f) > bar ? -1 : most;
    // Bounds rise with sums; the guess is at most a rounding or two off.
    const float guess = ((bar - bound.width) / bound.scale + static_cast<float>(bound.offset)) / 2;
    std::int32_t sum = guess > 0 ? static_cast<std::int32_t>(std::min(guess, static_cast<float>(most))) : 0;
    while (sum < most && !(sign_bound_from_agreement(sum + 1, bound, 1.0f) > bar)) ++sum;
    while (sum >= 0 && sign_bound_from_agreement(sum, bound, 1.0f) > bar) --sum;
    return sum;
  }

  struct SumBar {
    float key = std::numeric_limits<float>::quiet_NaN();
    std::int32_t sum = 0;
  };

  const std::atomic<bool>& stop_;
  Bars* const bars_;
  std::vector<Best> best_;
  std::vector<std::size_t> candidates_;
  const Rows* rows_ = nullptr;
  std::int64_t first_row_ = 0;
  std::size_t work_ = 0;
  std::vector<SumBar> sum_bars_;  // the last answer of integer_bar for every query
  Buffer<std::int8_t> spare_;
  Buffer<std::uint8_t> signs_;  // of the rows of score_some
  const std::uint8_t* codes_[kScored];
  std::int64_t sums_[kScored];
  alignas(64) float size_[kBlockRows] = {};
};

}  // namespace vqindex
