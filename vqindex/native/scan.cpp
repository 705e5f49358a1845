#include "scan.hpp"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <system_error>
#include <thread>

#include "buffer.hpp"
#include "gather.hpp"
#include "hits.hpp"
#include "scan_queries.hpp"

namespace vqindex {
namespace {

constexpr std::size_t kCache = std::size_t{1} << 19;  // bytes of one kind of data that stay in the second-level cache
constexpr std::size_t kGroup = kTileBlocks * kBlock;  // rows of one pass over the sign plane
constexpr std::size_t kSample = 4;                    // one group of rows in so many is seen before the scan
constexpr std::size_t kAhead = 16;                    // rows fetched ahead before they are scored
constexpr std::size_t kArranged = 3;                  // queries from which arranging a tile pays
constexpr std::size_t kNarrow = 256;                  // dimension up to which a batch meets all levels at once
constexpr std::size_t kPollWork = std::size_t{1} << 28;  // coordinates met between two looks at the clock
constexpr double kThreadWork = 4e6;  // coordinates met under which a thread costs more than it saves

// One thread's part: some rows, all queries.
class Worker {
 public:
  Worker(const Task& task, const Kernels& kernels, const Prepared& prepared, const std::atomic<bool>& stop)
      : task_(task),
        kernels_(kernels),
        prepared_(prepared),
        stop_(stop),
        d_(task.code.fields.dim),
        stride_(prepared.stride),
        sign_bytes_((d_ + 7) / 8),
        units_(padded(sign_bytes_, kUnitBytes) / kUnitBytes),
        best_(task.queries.count, Best(task.k)) {
    if (task.thresholds)
      for (std::size_t q = 0; q < best_.size(); ++q) best_[q] = Best::above(task.thresholds[q]);
  }

  std::vector<Best>& best() { return best_; }

  // `first` and `last` are multiples of 64, or last is the end.
  void run(const Rows& rows, std::size_t first, std::size_t last, std::int64_t first_row,
           const std::function<bool()>& poll) {
    first_row_ = first_row;
    const bool one_filter = rows.allowed && !rows.allowed_step;
    const std::size_t nq = task_.queries.count, left = one_filter ? count_allowed(rows, first, last) : last - first;
    if (left * (nq + kGather) >= (last - first) * nq) return scan(rows, first, last, poll);
    Gathered gathered(rows, sign_bytes_, left);
    while (first < last && left && !stop_) {
      first = gathered.fill(first, last);
      const Rows some = gathered.rows();
      scan(some, 0, some.count, poll);
    }
  }

  // Whether the sign plane is read first. Few levels are cheaper to meet at once, if their decoding is shared.
  static bool by_signs(const Task& task) {
    return task.coarse.on && (task.code.fields.dim > kNarrow || task.queries.count < kArranged);
  }

 private:
  void scan(const Rows& rows, std::size_t first, std::size_t last, const std::function<bool()>& poll) {
    rows_ = &rows;
    if (by_signs(task_))
      scan_signs(first, last, poll);
    else if (task_.queries.count < kArranged)
      scan_rows(first, last, poll);
    else
      scan_levels(first, last, poll);
  }

  // ---- filters: which rows a query may find

  std::uint64_t allowed_of(std::size_t q, std::size_t row) const {
    return rows_->allowed ? rows_->allowed[q * rows_->allowed_step + row / kBlock] : ~std::uint64_t{0};
  }

  // Whether some of the queries from `q` on may find some of the rows from `at` to `stop`.
  bool any_allowed(std::size_t q, std::size_t some, std::size_t at, std::size_t stop) const {
    if (!rows_->allowed) return true;
    for (std::size_t last = q + (rows_->allowed_step ? some : 1); q < last; ++q)
      for (std::size_t row = at; row < stop; row += kBlock)
        if (allowed_of(q, row)) return true;
    return false;
  }

  // Asks now and then, by the work done since, whether to stop; `work` is in coordinates met.
  bool go_on(const std::function<bool()>& poll, std::size_t work) {
    work_ += work;
    if (work_ > kPollWork) {
      work_ = 0;
      if (poll && !poll()) return false;
    }
    return !stop_.load(std::memory_order_relaxed);
  }

  // ---- all rows, for so few queries that sharing their levels gains nothing: decoded and scored in one go

  void scan_rows(std::size_t first, std::size_t last, const std::function<bool()>& poll) {
    row_signs_.assign(kBlock * stride_ / 8, 0);
    spare_.resize(stride_);
    for (std::size_t at = first; at < last && go_on(poll, kBlock * task_.queries.count * d_); at += kBlock) {
      const std::size_t count = std::min(kBlock, last - at);
      if (!any_allowed(0, task_.queries.count, at, at + count)) continue;
      if (task_.code.fields.tops) kernels_.sign_rows(plane_of(at), sign_bytes_, row_signs_.data(), stride_ / 8);
      for (std::size_t q = 0; q < task_.queries.count; ++q) {
        float scores[kBlock];
        const std::uint64_t allowed = allowed_of(q, at) & first_bits(count);
        for (std::uint64_t bits = allowed; bits; bits &= bits - 1) {
          const std::size_t r = lowest_bit(bits);
          scores[r] = score_row(q, at + r, signs_of(r));
        }
        for (std::uint64_t bits = allowed; bits; bits &= bits - 1) {
          const std::size_t r = lowest_bit(bits);
          if (!(scores[r] < best_[q].bar())) push(q, at + r, scores[r], std::numeric_limits<float>::infinity());
        }
      }
    }
  }

  // ---- all levels: 128 rows at a time are decoded and met by every query

  void scan_levels(std::size_t first, std::size_t last, const std::function<bool()>& poll) {
    levels_.resize(kTile * stride_);
    tile_.resize(kTile * stride_);
    row_signs_.assign(kTile * stride_ / 8, 0);
    sums_.resize(kQueries * kTile);
    spare_.resize(stride_);
    const std::size_t nq = task_.queries.count, dim = padded(d_, 4);
    for (std::size_t at = first; at < last && go_on(poll, kTile * nq * d_); at += kTile) {
      const std::size_t count = std::min(kTile, last - at);
      if (!any_allowed(0, nq, at, at + count)) continue;
      decode_tile(at, count);
      weigh(at, count);
      kernels_.arrange(levels_.data(), stride_, tile_.data());
      for (std::size_t q = 0; q < nq; q += kQueries) {
        const std::size_t some = std::min(kQueries, nq - q);
        kernels_.tile_sums(tile_.data(), stride_, dim, prepared_.narrow.data() + q * stride_, some, sums_.data());
        for (std::size_t i = 0; i < some; ++i) score_passing(q + i, at, count, sums_.data() + i * kTile);
      }
    }
  }

  void decode_tile(std::size_t at, std::size_t count) {
    fetch_codes(at + count, std::min(kTile, rows_->count - at - count));
    if (task_.code.fields.tops)
      for (std::size_t r = 0; r < count; r += kBlock)
        kernels_.sign_rows(plane_of(at + r), sign_bytes_, signs_of(r), stride_ / 8);
    for (std::size_t r = 0; r < count; ++r)
      kernels_.decode(task_.code.fields, code_of(at + r), rows_->row_bytes, signs_of(r), levels_.data() + r * stride_);
    std::memset(levels_.data() + count * stride_, 0, (kTile - count) * stride_);
  }

  // A score is (sum of level x lead) * scale * factor. With level = m * narrow level + rest and
  // lead = 512 * narrow lead + rest, Cauchy-Schwarz bounds what the narrow sum leaves out:
  // m |narrow levels| |rest of lead| + |rest of levels| |lead|. The rest of a level is at most 255, and slack at least
  // |lead| / 128.
  void weigh(std::size_t at, std::size_t count) {
    const float m = static_cast<float>(task_.code.multiplier);
    const float rest = m > 1 ? 128.0f * 255.0f * std::sqrt(static_cast<float>(d_)) : 0.0f;
    for (std::size_t r = 0; r < kTile; ++r) {
      weight_[r] = error_[r] = size_[r] = 0;
      if (r >= count) continue;
      const float factor = rows_->factor[at + r];
      const float length = std::sqrt(static_cast<float>(kernels_.square(levels_.data() + r * stride_, stride_)));
      weight_[r] = 512.0f * m * factor;
      error_[r] = (m * length + rest) * factor;
      if (task_.code.distance) size_[r] = rows_->norm[at + r] * rows_->norm[at + r];
    }
  }

  void score_passing(std::size_t q, std::size_t at, std::size_t count, const std::int32_t* sums) {
    for (std::size_t half = 0; half < count; half += kBlock) {
      std::uint64_t hits = kernels_.passing(sums + half, test_of(q), weight_ + half, error_ + half, size_ + half);
      hits &= allowed_of(q, at + half) & first_bits(count - half);
      for (; hits; hits &= hits - 1) {
        const std::size_t r = half + lowest_bit(hits), row = at + r;
        float bound = std::numeric_limits<float>::infinity();
        if (task_.coarse.on) {
          const std::int32_t sum =
              kernels_.sign_sum(signs_of(r), prepared_.sign.data() + q * prepared_.sign_stride, stride_);
          bound = bound_of(sum, prepared_.bound[q], rows_->norm ? rows_->norm[row] : 1.0f);
        }
        if (bound < best_[q].bar()) continue;
        const std::int8_t* levels = levels_.data() + r * stride_;
        const std::int16_t* lead = prepared_.lead.data() + q * stride_;
        push(q, row,
             task_.code.wide ? score_row(q, row, signs_of(r)) : score_of(q, row, kernels_.dot(levels, lead, stride_)),
             bound);
      }
    }
  }

  Test test_of(std::size_t q) const {
    const float bar = best_[q].bar(), scale = task_.queries.scale[q];
    Test test{prepared_.offset[q], scale, prepared_.slack[q], bar - kRoom * std::fabs(bar) - FLT_MIN, 0.0f};
    if (task_.code.distance) {
      const float query2 = task_.queries.norm[q] * task_.queries.norm[q];
      test.gain = 2.0f * scale;
      test.bar = bar + query2 - kRoom * (std::fabs(bar) + query2) - FLT_MIN;
      test.lean = 1.0f - kRoom;
    }
    return test;
  }

  // ---- the sign plane first: a group of rows meets a chunk of queries, then rows that may be in are scored

  void scan_signs(std::size_t first, std::size_t last, const std::function<bool()>& poll) {
    const std::size_t nq = task_.queries.count, table = units_ * kUnitTable;
    const std::size_t chunk = std::min(nq, std::max<std::size_t>(16, kCache / table));
    tables_.resize(chunk * table);
    sums16_.resize(kGroup);
    row_signs_.assign(kGroup * stride_ / 8, 0);
    spare_.resize(stride_);
    for (std::size_t q = 0; q < nq; q += chunk) {
      const std::size_t some = std::min(chunk, nq - q);
      for (std::size_t i = 0; i < some; ++i)
        kernels_.sign_tables(prepared_.sign.data() + (q + i) * prepared_.sign_stride, units_, tables_of(i));
      warm_up(q, some, first, last, poll);
      candidates_.clear();
      for (std::size_t at = first; at < last && go_on(poll, kGroup * some * d_); at += kGroup) {
        const std::size_t stop = std::min(last, at + kGroup);
        if (!any_allowed(q, some, at, stop)) continue;
        if (some == 1)
          meet_one(q, at, stop);
        else
          meet_many(q, some, at, stop);
      }
      score_candidates();
    }
  }

  // A bar to begin with, without which most rows of the beginning would pass: the k-th best key of those that look
  // likeliest in a sample of all groups of rows.
  void warm_up(std::size_t q, std::size_t some, std::size_t first, std::size_t last,
               const std::function<bool()>& poll) {
    const std::size_t step = kSample * kGroup, wanted = 2 * task_.k;
    if (task_.thresholds || (last - first) / kSample < 8 * wanted) return;
    std::vector<Best> likely(some, Best(wanted));
    for (std::size_t at = first; at < last && go_on(poll, kGroup * some * d_); at += step) {
      const std::size_t stop = std::min(last, at + kGroup);
      if (!any_allowed(q, some, at, stop)) continue;
      if (some > 1) expand(at, stop);
      for (std::size_t i = 0; i < some; ++i) {
        sum_signs(i, some > 1, at, stop);
        each_above(q + i, at, stop, likely[i].bar(), [&best = likely[i]](std::size_t row, float bound) {
          best.push({bound, 0, static_cast<std::int64_t>(row)});
        });
      }
    }
    for (std::size_t i = 0; i < some; ++i) {
      Best best(task_.k);
      for (const Hit& hit : likely[i].finish()) {
        const std::size_t row = static_cast<std::size_t>(hit.row);
        gather_signs(row, row_signs_.data());
        best.push({std::min(score_row(q + i, row, row_signs_.data()), hit.key), 0, hit.row});
      }
      if (best.finish().size() < task_.k) continue;  // a filter left too few
      float worst = std::numeric_limits<float>::infinity();
      for (const Hit& hit : best.finish()) worst = std::min(worst, hit.key);
      best_[q + i].expect(worst);
    }
  }

  static std::size_t blocks_of(std::size_t at, std::size_t stop) { return (stop - at + kBlock - 1) / kBlock; }

  void expand(std::size_t at, std::size_t stop) {
    index_.resize(kTileBlocks * units_ * kUnitIndex);
    kernels_.sign_expand(plane_of(at), sign_bytes_, blocks_of(at, stop), index_.data());
  }

  void sum_signs(std::size_t i, bool expanded, std::size_t at, std::size_t stop) {
    if (expanded)
      kernels_.sign_tile(index_.data(), units_, blocks_of(at, stop), tables_of(i), sums16_.data());
    else
      kernels_.sign_plane(plane_of(at), sign_bytes_, blocks_of(at, stop), tables_of(i), sums16_.data());
  }

  void meet_one(std::size_t q, std::size_t at, std::size_t stop) {
    sum_signs(0, false, at, stop);
    each_above(q, at, stop, best_[q].bar(), [&](std::size_t row, float bound) {
      fetch(code_of(row), rows_->row_bytes);
      prefetch(rows_->factor + row);
      candidates_.push_back({row, q, bound});
    });
    if (candidates_.size() >= kAhead) score_candidates();
  }

  void meet_many(std::size_t q, std::size_t some, std::size_t at, std::size_t stop) {
    expand(at, stop);
    for (std::size_t i = 0; i < some; ++i) {
      sum_signs(i, true, at, stop);
      each_above(q + i, at, stop, best_[q + i].bar(),
                 [&](std::size_t row, float bound) { candidates_.push_back({row, q + i, bound}); });
    }
    if (candidates_.empty()) return;
    for (std::size_t row = at; row < stop; row += kBlock)
      kernels_.sign_rows(plane_of(row), sign_bytes_, signs_of(row - at), stride_ / 8);
    score_candidates([&](std::size_t row) { return signs_of(row - at); });
  }

  void score_candidates() {
    score_candidates([&](std::size_t row) {
      gather_signs(row, row_signs_.data());
      return row_signs_.data();
    });
  }

  // First all scores, which overlap in time, then what is kept.
  template <typename Signs>
  void score_candidates(const Signs& signs) {
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (i + kAhead < candidates_.size()) fetch(code_of(candidates_[i + kAhead].row), rows_->row_bytes);
      Candidate& c = candidates_[i];
      c.score = score_row(c.query, c.row, signs(c.row));
    }
    for (const Candidate& c : candidates_) push(c.query, c.row, c.score, c.bound);
    candidates_.clear();
  }

  // Asks for memory that is about to be read here and there, which no hardware foresees.
  static void fetch(const std::uint8_t* from, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; i += 64) prefetch(from + i);
    if (bytes) prefetch(from + bytes - 1);
  }

  void fetch_codes(std::size_t at, std::size_t count) const {
    if (!rows_->number) return fetch(rows_->codes + at * rows_->row_bytes, count * rows_->row_bytes);
    for (std::size_t row = at; row < at + count; ++row) fetch(code_of(row), rows_->row_bytes);
  }

  // Calls found(row, bound) for the rows from `at` to `stop`, whose sums are there, whose bounds are above `bar`.
  template <typename Found>
  void each_above(std::size_t q, std::size_t at, std::size_t stop, float bar, const Found& found) {
    const Bound& bound = prepared_.bound[q];
    const std::size_t blocks = blocks_of(at, stop);
    std::uint64_t hits[kTileBlocks];
    if (rows_->norm) {
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t row = at + b * kBlock, count = std::min(kBlock, stop - row);
        const float* size = rows_->norm + row;
        if (count < kBlock) size = std::copy_n(size, count, size_) - count;
        hits[b] = kernels_.bounded(sums16_.data() + b * kBlock, bound, size, bar);
      }
    } else {
      const std::int32_t limit = integer_bar(q, bar);
      if (limit < 0)
        std::fill(hits, hits + blocks, ~std::uint64_t{0});
      else if (!kernels_.above(sums16_.data(), blocks, static_cast<std::uint16_t>(limit), hits))
        return;
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t row = at + b * kBlock;
      for (std::uint64_t bits = hits[b] & allowed_of(q, row) & first_bits(stop - row); bits; bits &= bits - 1) {
        const std::size_t r = b * kBlock + lowest_bit(bits);
        const float size = rows_->norm ? rows_->norm[at + r] : 1.0f;
        found(at + r, bound_of(sums16_[r] - bound.offset, bound, size));
      }
    }
  }

  // The largest raw sum whose bound, for rows of size 1, is not above bar; -1 if there is none.
  std::int32_t integer_bar(std::size_t q, float bar) {
    if (sum_bars_.empty()) sum_bars_.resize(task_.queries.count);
    SumBar& last = sum_bars_[q];
    if (!(last.key == bar)) last = {bar, find_integer_bar(prepared_.bound[q], bar)};
    return last.sum;
  }

  static std::int32_t find_integer_bar(const Bound& bound, float bar) {
    if (bound_of(-bound.offset, bound, 1.0f) > bar) return -1;
    std::int32_t low = 0, high = 65535;  // the bound of low is not above bar; monotone in between
    while (low < high) {
      const std::int32_t middle = (low + high + 1) / 2;
      if (bound_of(middle - bound.offset, bound, 1.0f) > bar)
        high = middle - 1;
      else
        low = middle;
    }
    return low;
  }

  // ---- exact scores

  std::size_t number_of(std::size_t row) const { return rows_->number ? rows_->number[row] : row; }
  const std::uint8_t* code_of(std::size_t row) const { return rows_->codes + number_of(row) * rows_->row_bytes; }

  const std::uint8_t* plane_of(std::size_t row) const { return rows_->signs + row * sign_bytes_; }
  std::uint8_t* signs_of(std::size_t slot) { return row_signs_.data() + slot * (stride_ / 8); }
  std::uint8_t* tables_of(std::size_t i) { return tables_.data() + i * units_ * kUnitTable; }

  void gather_signs(std::size_t row, std::uint8_t* signs) const {
    const std::uint8_t* plane = plane_of(row / kBlock * kBlock) + row % kBlock;
    // Stored by the words they are read by: a read of several stores waits until they have left the processor's queue.
    for (std::size_t j = 0; j < sign_bytes_; j += 8) {
      std::uint64_t word = 0;
      if (j + 8 <= sign_bytes_)
        for (std::size_t i = 0; i < 8; ++i) word |= std::uint64_t{plane[(j + i) * kBlock]} << (8 * i);
      else
        for (std::size_t i = 0; j + i < sign_bytes_; ++i) word |= std::uint64_t{plane[(j + i) * kBlock]} << (8 * i);
      std::memcpy(signs + j, &word, 8);
    }
  }

  void push(std::size_t q, std::size_t row, float score, float bound) {
    best_[q].push({std::min(score, bound), score, first_row_ + static_cast<std::int64_t>(number_of(row))});
  }

  // The score of a row from its code.
  float score_row(std::size_t q, std::size_t row, const std::uint8_t* signs) {
    const std::int16_t* lead = prepared_.lead.data() + q * stride_;
    if (!task_.code.wide)
      return score_of(q, row,
                      kernels_.row_dot(task_.code.fields, code_of(row), rows_->row_bytes, signs, lead, spare_.data()));
    kernels_.decode(task_.code.index, code_of(row), rows_->row_bytes, signs, spare_.data());
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < d_; ++i)
      sum += std::int32_t{task_.code.wide[static_cast<std::uint8_t>(spare_[i])]} * lead[i];
    return score_of(q, row, sum);
  }

  // estimator.py, operation for operation; distances with the sign that puts the best first.
  float score_of(std::size_t q, std::size_t row, std::int64_t sum) const {
    const float ip = static_cast<float>(sum) * task_.queries.scale[q] * rows_->factor[row];
    if (!task_.code.distance) return ip;
    const float norm = rows_->norm[row], query = task_.queries.norm[q];
    return 2.0f * ip - (norm * norm + query * query);
  }

  struct Candidate {
    std::size_t row, query;
    float bound, score = 0;
  };

  const Task& task_;
  const Kernels& kernels_;
  const Prepared& prepared_;
  const std::atomic<bool>& stop_;
  const std::size_t d_, stride_, sign_bytes_, units_;
  std::vector<Best> best_;
  const Rows* rows_ = nullptr;
  std::int64_t first_row_ = 0;
  std::size_t work_ = 0;
  struct SumBar {
    float key = std::numeric_limits<float>::quiet_NaN();
    std::int32_t sum = 0;
  };
  std::vector<SumBar> sum_bars_;  // the last answer of integer_bar for every query
  Buffer<std::int8_t> levels_, spare_;
  Buffer<std::uint8_t> tile_, row_signs_, tables_, index_;
  Buffer<std::int32_t> sums_;
  Buffer<std::uint16_t> sums16_;
  std::vector<Candidate> candidates_;
  alignas(64) float weight_[kTile], error_[kTile], size_[kTile];
};

std::size_t useful_threads(const Task& task, std::size_t rows, std::size_t threads) {
  const double work = static_cast<double>(rows) * static_cast<double>(task.queries.count) *
                      static_cast<double>(task.code.fields.dim) / (task.coarse.on ? 4 : 1);
  return std::max<std::size_t>(1, std::min(threads, static_cast<std::size_t>(work / kThreadWork)));
}

bool by_score(const Hit& a, const Hit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; }

void write(std::vector<Hit>& hits, const Task& task, float* scores, std::int64_t* rows) {
  const std::size_t kept = std::min(task.k, hits.size());
  std::partial_sort(hits.begin(), hits.begin() + kept, hits.end(), better);
  std::sort(hits.begin(), hits.begin() + kept, by_score);
  for (std::size_t i = 0; i < task.k; ++i) {
    const float score = i < kept ? hits[i].score : -std::numeric_limits<float>::infinity();
    scores[i] = task.code.distance ? 0.0f - score : score;  // no negative zero
    rows[i] = i < kept ? hits[i].row : -1;
  }
}

// Runs the scan and calls found(query, hits) for every query; false if `poll` stopped it.
template <typename Found>
bool scan_all(const Task& task, const Kernels& kernels, std::size_t threads, const std::function<bool()>& poll,
              const Found& found) {
  std::size_t total = 0;
  for (const Rows& part : task.rows)
    total += part.allowed && !part.allowed_step ? count_allowed(part, 0, part.count) : part.count;
  threads = useful_threads(task, total, threads);
  const Prepared prepared = prepare_queries(task, !Worker::by_signs(task));

  std::atomic<bool> stop{false};
  const std::function<bool()> watch = [&] {
    if (poll && !poll()) stop = true;
    return !stop;
  };
  std::vector<Worker> workers(threads, Worker(task, kernels, prepared, stop));
  std::vector<std::exception_ptr> errors(threads);
  const auto work = [&](std::size_t t) {
    try {
      std::int64_t first_row = 0;
      for (const Rows& part : task.rows) {
        const std::size_t share = padded((part.count + threads - 1) / threads, kTileBlocks * kBlock);
        const std::size_t first = std::min(part.count, t * share), last = std::min(part.count, first + share);
        workers[t].run(part, first, last, first_row, t == 0 ? watch : std::function<bool()>{});
        first_row += static_cast<std::int64_t>(part.count);
      }
    } catch (...) {
      errors[t] = std::current_exception();
    }
  };
  {
    std::vector<std::thread> others;
    others.reserve(threads);
    for (std::size_t t = 1; t < threads; ++t) {
      try {
        others.emplace_back(work, t);
      } catch (const std::system_error&) {
        work(t);  // the system has no thread to give
      }
    }
    work(0);
    for (auto& other : others) other.join();
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
  const bool finished = watch();
  for (std::size_t q = 0; finished && q < task.queries.count; ++q) {
    auto& hits = workers[0].best()[q].finish();
    for (std::size_t t = 1; t < threads; ++t) {
      auto& more = workers[t].best()[q].finish();
      hits.insert(hits.end(), more.begin(), more.end());
      more = {};
    }
    found(q, hits);
  }
  return finished;
}

}  // namespace

bool search(const Task& task, const Kernels& kernels, std::size_t threads, const std::function<bool()>& poll,
            float* scores, std::int64_t* rows) {
  return scan_all(task, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits) {
    write(hits, task, scores + q * task.k, rows + q * task.k);
  });
}

bool range_search(const Task& task, const Kernels& kernels, std::size_t threads, const std::function<bool()>& poll,
                  std::vector<std::vector<Hit>>& found) {
  found.resize(task.queries.count);
  return scan_all(task, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits) {
    std::sort(hits.begin(), hits.end(), by_score);
    if (task.code.distance)
      for (Hit& hit : hits) hit.score = 0.0f - hit.score;
    found[q] = std::move(hits);
  });
}

}  // namespace vqindex
