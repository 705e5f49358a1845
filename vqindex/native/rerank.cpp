// A shortlist is scored a row at a time. The 32 partial sums of sum64 lie side by side, and the compiler keeps them in
// registers. All instruction sets run the same body, and nothing is fused (-ffp-contract=off), so every score equals
// that of exact_scores. What takes time is the memory that the rows are in, so they are fetched ahead.
#include "rerank.hpp"

#include <cmath>
#include <limits>

#include "dispatch.hpp"
#include "lanes.hpp"
#include "parallel_rows.hpp"
#include "row_sum.hpp"

#ifdef VQ_X86
#include <immintrin.h>
#endif

namespace vqindex {
namespace {

constexpr std::size_t kPairs = std::size_t{1} << 18;         // scored between two polls
constexpr std::size_t kThreadValues = std::size_t{1} << 17;  // fewer coordinates than this are not worth a thread
constexpr std::size_t kBlock = 64;                           // rows that are looked up at a time
constexpr std::size_t kAheadBytes = std::size_t{1} << 14;    // of rows fetched ahead: half of a small first cache
constexpr std::size_t kChunk = 1024;                         // coordinates widened at a time; whole steps of sum64
constexpr std::size_t kLine = 64;

// ---- coordinates as float32, as Rounded.vectors of rows/originals.py makes them

VQ_INLINE float float_of_half(std::uint16_t half) {
  constexpr std::int32_t kMantissa = 13;                    // bits that a float32 has more
  constexpr std::int32_t kBias = (127 - 15) << 23;          // added to an exponent
  constexpr std::int32_t kSpecial = 31 << 10 << kMantissa;  // the exponent of infinities and NaNs
  const std::int32_t bits = static_cast<std::int32_t>(half & 0x7fff) << kMantissa;
  const std::int32_t normal = bits + kBias + (kBias & -static_cast<std::int32_t>(bits >= kSpecial));
  // A subnormal number gets the exponent of the smallest normal one and loses its 1 before the point again. Both steps
  // are exact, also on processors that take subnormal float32 for zero.
  constexpr std::int32_t kSmallest = kBias + (1 << 23);
  const std::int32_t subnormal = float_bits(bits_float(bits + kSmallest) - bits_float(kSmallest));
  const std::int32_t is_subnormal = -static_cast<std::int32_t>(bits < 1 << 23);
  const std::int32_t sign = static_cast<std::int32_t>(static_cast<std::uint32_t>(half & 0x8000) << 16);
  return bits_float((subnormal & is_subnormal) | (normal & ~is_subnormal) | sign);
}

struct PlainSteps {
  VQ_INLINE static void widen_f16(const std::uint16_t* values, std::size_t n, float* out) {
    VQ_LANES
    for (std::size_t j = 0; j < n; ++j) out[j] = float_of_half(values[j]);
  }
};

#ifdef VQ_X86
struct Avx512Steps {
  VQ_TARGET_AVX512 __attribute__((noinline)) static void widen_f16(const std::uint16_t* values, std::size_t n,
                                                                   float* out) {
    std::size_t j = 0;
    for (; j + 16 <= n; j += 16)
      _mm512_storeu_ps(out + j, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + j))));
    const auto rest = static_cast<__mmask16>((1u << (n - j)) - 1);
    _mm512_mask_storeu_ps(out + j, rest, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(rest, values + j)));
  }
};
#endif

// Returns n coordinates of a row from `at` on, in `buffer` if they are not float32.
template <typename Steps>
VQ_INLINE const float* widen(VectorType type, const VectorParts::Row& row, std::size_t at, std::size_t n,
                             float* buffer) {
  if (type == VectorType::f32) return static_cast<const float*>(row.values) + at;
  if (type == VectorType::f16) {
    Steps::widen_f16(static_cast<const std::uint16_t*>(row.values) + at, n, buffer);
  } else {
    const auto* steps = static_cast<const std::int8_t*>(row.values) + at;
    const float scale = *row.scale;
    VQ_LANES
    for (std::size_t j = 0; j < n; ++j) buffer[j] = static_cast<float>(steps[j]) * scale;
  }
  return buffer;
}

// ---- sums in the frozen order (sum64 of vqindex/codes/estimator.py), of a single vector

struct RowSums {
  alignas(kAlign) double products[kPartials] = {};  // of x and q, or squares of x - q for l2
  alignas(kAlign) double squares[kPartials] = {};   // of x, for cosine
};

template <Metric kMetric>
VQ_INLINE void add_term(RowSums& sums, std::size_t p, float query, float value) {
  const double q = query, x = value;
  const double factor = kMetric == Metric::l2 ? x - q : x;
  sums.products[p] += factor * (kMetric == Metric::l2 ? factor : q);
  if (kMetric == Metric::cosine) sums.squares[p] += x * x;
}

template <Metric kMetric>
VQ_INLINE void add_terms(RowSums& sums, const float* query, const float* values, std::size_t n) {
  std::size_t j = 0;
  for (; j + kPartials <= n; j += kPartials) {
    VQ_LANES
    for (std::size_t p = 0; p < kPartials; ++p) add_term<kMetric>(sums, p, query[j + p], values[j + p]);
  }
  for (std::size_t p = 0; j + p < n; ++p) add_term<kMetric>(sums, p, query[j + p], values[j + p]);
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

template <typename Steps, Metric kMetric>
VQ_INLINE float score_row(const VectorParts& vectors, const float* query, double query_length,
                          const VectorParts::Row& row) {
  RowSums sums;
  alignas(kAlign) float buffer[kChunk];
  for (std::size_t at = 0; at < vectors.dim; at += kChunk) {
    const std::size_t n = std::min(kChunk, vectors.dim - at);
    add_terms<kMetric>(sums, query + at, widen<Steps>(vectors.type, row, at, n, buffer), n);
  }
  double score = total(sums.products);
  if (kMetric == Metric::cosine) {
    const double lengths = query_length * std::sqrt(total(sums.squares));
    score = lengths > 0 ? score / lengths : 0.0;
  }
  return flush(score);
}

// Scores the pairs of a query and a place of its shortlist from `begin` to `end`, counted along the shortlists.
template <typename Steps, Metric kMetric>
VQ_INLINE void score_pairs(const Scoring& scoring, std::size_t begin, std::size_t end) {
  const Shortlists& lists = scoring.lists;
  const std::size_t d = scoring.vectors.dim, bytes = scoring.vectors.row_bytes;
  const std::size_t ahead = std::min(kBlock, 1 + kAheadBytes / bytes);
  VectorParts::Row found[kBlock];
  std::size_t place[kBlock];
  for (std::size_t query = begin / lists.length; begin < end; ++query) {
    const float* values = lists.queries + query * d;
    double query_length = 0;
    if (kMetric == Metric::cosine) {
      alignas(kAlign) double partial[kPartials] = {};
      add_squares(partial, values, d);
      query_length = std::sqrt(total(partial));
    }
    for (const std::size_t last = std::min(end, (query + 1) * lists.length); begin < last;) {
      std::size_t count = 0;
      for (; begin < last && count < kBlock; ++begin) {
        if (lists.rows[begin] < 0) continue;
        place[count] = begin;
        found[count++] = scoring.vectors.row(static_cast<std::size_t>(lists.rows[begin]));
      }
      for (std::size_t i = 0; i < std::min(ahead, count); ++i) fetch(found[i], bytes);
      for (std::size_t i = 0; i < count; ++i) {
        if (i + ahead < count) fetch(found[i + ahead], bytes);
        scoring.scores[place[i]] = score_row<Steps, kMetric>(scoring.vectors, values, query_length, found[i]);
      }
    }
  }
}

template <typename Steps>
VQ_INLINE void score_body(const Scoring& scoring, std::size_t begin, std::size_t end) {
  switch (scoring.metric) {
    case Metric::ip:
      return score_pairs<Steps, Metric::ip>(scoring, begin, end);
    case Metric::cosine:
      return score_pairs<Steps, Metric::cosine>(scoring, begin, end);
    case Metric::l2:
      return score_pairs<Steps, Metric::l2>(scoring, begin, end);
  }
}

// ---- one function per instruction set

using Score = void (*)(const Scoring&, std::size_t, std::size_t);

void score_scalar(const Scoring& scoring, std::size_t begin, std::size_t end) {
  score_body<PlainSteps>(scoring, begin, end);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void score_avx2(const Scoring& scoring, std::size_t begin, std::size_t end) {
  score_body<PlainSteps>(scoring, begin, end);
}

VQ_TARGET_AVX512 void score_avx512(const Scoring& scoring, std::size_t begin, std::size_t end) {
  score_body<Avx512Steps>(scoring, begin, end);
}
#endif

Score score_for([[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (width_of(isa) == Width::avx512) return score_avx512;
  if (width_of(isa) == Width::avx2) return score_avx2;
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

struct Before {
  bool operator()(const Place& a, const Place& b) const {
    if (a.rank == b.rank) return a.row < b.row;
    return a.rank < b.rank || (std::isnan(b.rank) && (!std::isnan(a.rank) || a.row < b.row));
  }
};

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
  std::partial_sort(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(k), places.end(), Before());
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
