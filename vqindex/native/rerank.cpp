// A shortlist is scored a row at a time. The 32 partial sums of sum64 lie side by side, and the compiler keeps them in
// registers. All instruction sets run the same body, and nothing is fused (-ffp-contract=off), so every score equals
// that of exact_scores. What takes time is the memory that the rows are in, so they are fetched ahead.
#include "rerank.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "lanes.hpp"
#include "parallel_rows.hpp"

namespace vqindex {
namespace {

constexpr std::size_t kPartials = 32;                        // of sum64
constexpr std::size_t kPairs = std::size_t{1} << 18;         // scored between two polls
constexpr std::size_t kThreadValues = std::size_t{1} << 17;  // fewer coordinates than this are not worth a thread
constexpr std::size_t kBlock = 64;                           // rows that are looked up at a time
constexpr std::size_t kAheadBytes = std::size_t{1} << 14;    // of rows fetched ahead: half of a small first cache
constexpr std::size_t kLine = 64;

// ---- coordinates as float32, as Rounded.vectors of rows/originals.py makes them

struct Float32 {
  using Value = float;
  VQ_INLINE static float wide(float value, float) { return value; }
};

struct Float16 {
  using Value = std::uint16_t;
  VQ_INLINE static float wide(std::uint16_t value, float) {
    constexpr std::int32_t kMantissa = 13;                    // bits that a float32 has more
    constexpr std::int32_t kBias = (127 - 15) << 23;          // added to an exponent
    constexpr std::int32_t kSpecial = 31 << 10 << kMantissa;  // the exponent of infinities and NaNs
    const std::int32_t bits = static_cast<std::int32_t>(value & 0x7fff) << kMantissa;
    const std::int32_t normal = bits + kBias + (kBias & -static_cast<std::int32_t>(bits >= kSpecial));
    // A subnormal number gets the exponent of the smallest normal one and loses its 1 before the point again. Both
    // steps are exact, also on processors that take subnormal float32 for zero.
    constexpr std::int32_t kSmallest = kBias + (1 << 23);
    const std::int32_t subnormal = float_bits(bits_float(bits + kSmallest) - bits_float(kSmallest));
    const std::int32_t is_subnormal = -static_cast<std::int32_t>(bits < 1 << 23);
    const std::int32_t sign = static_cast<std::int32_t>(static_cast<std::uint32_t>(value & 0x8000) << 16);
    return bits_float((subnormal & is_subnormal) | (normal & ~is_subnormal) | sign);
  }
};

struct Int8 {
  using Value = std::int8_t;
  VQ_INLINE static float wide(std::int8_t value, float scale) { return static_cast<float>(value) * scale; }
};

// ---- sums in the frozen order (sum64 of vqindex/codes/estimator.py), of a single vector

struct RowSums {
  alignas(kAlign) double products[kPartials] = {};  // of x and q, or squares of x - q for l2
  alignas(kAlign) double squares[kPartials] = {};   // of x, for cosine
};

VQ_INLINE double total(double (&partial)[kPartials]) {
  for (std::size_t half = kPartials / 2; half > 0; half /= 2)
    for (std::size_t p = 0; p < half; ++p) partial[p] += partial[p + half];
  return partial[0];
}

template <typename Type, Metric kMetric>
VQ_INLINE void add_term(RowSums& sums, std::size_t p, float query, typename Type::Value value, float scale) {
  const double q = query, x = Type::wide(value, scale);
  const double factor = kMetric == Metric::l2 ? x - q : x;
  sums.products[p] += factor * (kMetric == Metric::l2 ? factor : q);
  if (kMetric == Metric::cosine) sums.squares[p] += x * x;
}

template <typename Type, Metric kMetric>
VQ_INLINE void add_terms(RowSums& sums, const float* query, const typename Type::Value* values, float scale,
                         std::size_t d) {
  std::size_t j = 0;
  for (; j + kPartials <= d; j += kPartials) {
    VQ_LANES
    for (std::size_t p = 0; p < kPartials; ++p) add_term<Type, kMetric>(sums, p, query[j + p], values[j + p], scale);
  }
  for (std::size_t p = 0; j + p < d; ++p) add_term<Type, kMetric>(sums, p, query[j + p], values[j + p], scale);
}

// ---- scores

struct Scoring {
  const VectorParts& vectors;
  Metric metric;
  const Shortlists& lists;
  float* scores;  // [count][length]; those of empty places are not written
};

// Prefetches a row, and where its scale is.
VQ_INLINE void fetch(const VectorParts::Row& row, std::size_t bytes) {
  const char* values = static_cast<const char*>(row.values);
  for (std::size_t at = 0; at < bytes; at += kLine) prefetch(values + at);
  prefetch(values + bytes - 1);
  if (row.scale) prefetch(row.scale);
}

template <typename Type, Metric kMetric>
VQ_INLINE float score_row(const float* query, double query_length, const VectorParts::Row& row, std::size_t d) {
  RowSums sums;
  const float scale = row.scale ? *row.scale : 1.0f;
  add_terms<Type, kMetric>(sums, query, static_cast<const typename Type::Value*>(row.values), scale, d);
  double score = total(sums.products);
  if (kMetric == Metric::cosine) {
    const double lengths = query_length * std::sqrt(total(sums.squares));
    score = lengths > 0 ? score / lengths : 0.0;
  }
  return flush(score);
}

// Scores the pairs of a query and a place of its shortlist from `begin` to `end`, counted along the shortlists.
template <typename Type, Metric kMetric>
VQ_INLINE void score_pairs(const Scoring& scoring, std::size_t begin, std::size_t end) {
  const Shortlists& lists = scoring.lists;
  const std::size_t d = scoring.vectors.dim, bytes = scoring.vectors.row_bytes;
  const std::size_t ahead = std::min(kBlock, 1 + kAheadBytes / bytes);
  VectorParts::Row found[kBlock];
  std::size_t pair_of[kBlock], query_of_length = lists.count;
  double query_length = 0;
  while (begin < end) {
    std::size_t count = 0;
    for (; begin < end && count < kBlock; ++begin) {
      if (lists.rows[begin] < 0) continue;
      pair_of[count] = begin;
      found[count++] = scoring.vectors.row(static_cast<std::size_t>(lists.rows[begin]));
    }
    for (std::size_t i = 0; i < std::min(ahead, count); ++i) fetch(found[i], bytes);
    for (std::size_t i = 0; i < count; ++i) {
      if (i + ahead < count) fetch(found[i + ahead], bytes);
      const std::size_t query = pair_of[i] / lists.length;
      const float* values = lists.queries + query * d;
      if (kMetric == Metric::cosine && query != query_of_length) {
        RowSums sums;
        add_terms<Float32, Metric::ip>(sums, values, values, 1.0f, d);
        query_length = std::sqrt(total(sums.products));
        query_of_length = query;
      }
      scoring.scores[pair_of[i]] = score_row<Type, kMetric>(values, query_length, found[i], d);
    }
  }
}

template <typename Type>
VQ_INLINE void score_type(const Scoring& scoring, std::size_t begin, std::size_t end) {
  switch (scoring.metric) {
    case Metric::ip:
      return score_pairs<Type, Metric::ip>(scoring, begin, end);
    case Metric::cosine:
      return score_pairs<Type, Metric::cosine>(scoring, begin, end);
    case Metric::l2:
      return score_pairs<Type, Metric::l2>(scoring, begin, end);
  }
}

VQ_INLINE void score_body(const Scoring& scoring, std::size_t begin, std::size_t end) {
  switch (scoring.vectors.type) {
    case VectorType::f32:
      return score_type<Float32>(scoring, begin, end);
    case VectorType::f16:
      return score_type<Float16>(scoring, begin, end);
    case VectorType::int8:
      return score_type<Int8>(scoring, begin, end);
  }
}

// ---- one function per instruction set

using Score = void (*)(const Scoring&, std::size_t, std::size_t);

void score_scalar(const Scoring& scoring, std::size_t begin, std::size_t end) { score_body(scoring, begin, end); }

#ifdef VQ_X86
VQ_TARGET_AVX2 void score_avx2(const Scoring& scoring, std::size_t begin, std::size_t end) {
  score_body(scoring, begin, end);
}

VQ_TARGET_AVX512 void score_avx512(const Scoring& scoring, std::size_t begin, std::size_t end) {
  score_body(scoring, begin, end);
}
#endif

Score score_for([[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (isa.rfind("avx512", 0) == 0) return score_avx512;
  if (isa == "avx2") return score_avx2;
#endif
  return score_scalar;
}

// ---- the best of a shortlist

// A place of a shortlist. Of two, the one of the lower rank is better, or of the lower row: NaNs come last, and empty
// places after all rows of the worst score.
struct Place {
  float rank, score;
  std::int64_t row;
};

bool before(const Place& a, const Place& b) {
  if (a.rank == b.rank) return a.row < b.row;
  return a.rank < b.rank || (std::isnan(b.rank) && (!std::isnan(a.rank) || a.row < b.row));
}

void select(Metric metric, const float* scores, const std::int64_t* rows, std::size_t length, std::size_t k,
            std::vector<Place>& places, float* out_scores, std::int64_t* out_rows) {
  constexpr float worst = std::numeric_limits<float>::infinity();
  const float sign = metric == Metric::l2 ? 1.0f : -1.0f;
  places.clear();
  for (std::size_t i = 0; i < length; ++i) {
    if (rows[i] < 0)
      places.push_back({worst, sign * worst, std::numeric_limits<std::int64_t>::max()});
    else
      places.push_back({sign * scores[i], scores[i], rows[i]});
  }
  std::partial_sort(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(k), places.end(), before);
  for (std::size_t i = 0; i < k; ++i) {
    out_scores[i] = places[i].score;
    out_rows[i] = places[i].row == std::numeric_limits<std::int64_t>::max() ? -1 : places[i].row;
  }
}

}  // namespace

bool rerank(const VectorParts& vectors, Metric metric, const Shortlists& lists, std::size_t k, std::size_t threads,
            const std::string& isa, const Poll& poll, float* scores, std::int64_t* rows) {
  const std::size_t m = lists.length, step = std::min(lists.count, std::max<std::size_t>(1, kPairs / m));
  const Score score = score_for(isa);
  std::vector<float> pair_scores(step * m);
  for (std::size_t first = 0; first < lists.count; first += step) {
    if (first && !poll()) return false;
    const std::size_t count = std::min(step, lists.count - first), pairs = count * m;
    const std::size_t useful = std::max<std::size_t>(1, std::min(threads, pairs * vectors.dim / kThreadValues));
    const Shortlists some{lists.queries + first * vectors.dim, count, lists.rows + first * m, m};
    const Scoring scoring{vectors, metric, some, pair_scores.data()};
    parallel_rows(pairs, rows_per_thread(pairs, useful, 1),
                  [&](std::size_t, std::size_t begin, std::size_t end) { score(scoring, begin, end); });
    parallel_rows(count, rows_per_thread(count, useful, 1), [&](std::size_t, std::size_t begin, std::size_t end) {
      std::vector<Place> places;
      places.reserve(m);
      for (std::size_t q = begin; q < end; ++q) {
        const std::size_t at = first + q;
        select(metric, pair_scores.data() + q * m, some.rows + q * m, m, k, places, scores + at * k, rows + at * k);
      }
    });
  }
  return true;
}

}  // namespace vqindex
