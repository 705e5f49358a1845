// Kernels for AVX-512. kernels_avx512*.cpp include this file once for each set of extensions. VQ_T is the target
// attribute; VQ_VNNI and VQ_VBMI are defined if the target has these extensions. One register holds 64 bytes:
//
//   step                      instructions
//   sums of levels            vpdpbusd; without VNNI vpmaddubsw, vpmaddwd, vpaddd
//   windows of packed fields  vpermb (bytes to the words that need them), vpmultishiftqb (windows to bytes)
//   levels of windows         vpermb for 64 entries, vpermi2b for 128, two or four of these and blends for 256 or 512
//   sign bits                 vpermb, six coordinates an entry; without VBMI vpshufb, four

#include <immintrin.h>

#include "kernels_plain.hpp"

namespace vqindex {
namespace {

// ---- one row

VQ_T VQ_INLINE __m512i pairs(__m512i sum, __m512i a, __m512i b) {
#ifdef VQ_VNNI
  return _mm512_dpwssd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

VQ_T VQ_INLINE __m512i widened(const std::int8_t* levels) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels)));
}

// Returns the sum of all 32-bit lanes in 64 bits, because two lanes together may pass 2^31.
VQ_T VQ_INLINE std::int64_t wide_sum(__m512i a, __m512i b) {
  const __m512i low = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(a)),
                                       _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(a, 1)));
  const __m512i high = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(b)),
                                        _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(b, 1)));
  return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

// Products are at most 127 * 32767, and 16 lanes share them: after 8192 of them every lane is still below 2^31.
constexpr std::size_t kSafe = 8192;

VQ_T std::int64_t dot_s8s16(const std::int8_t* levels, const std::int16_t* query, std::size_t stride) {
  std::int64_t total = 0;
  for (std::size_t begin = 0; begin < stride; begin += kSafe) {
    __m512i a = _mm512_setzero_si512(), b = a;
    for (std::size_t at = begin; at < std::min(stride, begin + kSafe); at += 64) {
      a = pairs(a, widened(levels + at), _mm512_loadu_si512(query + at));
      b = pairs(b, widened(levels + at + 32), _mm512_loadu_si512(query + at + 32));
    }
    total += wide_sum(a, b);
  }
  return total;
}

VQ_T std::int64_t square_s8(const std::int8_t* levels, std::size_t stride) {
  __m512i sum = _mm512_setzero_si512();
  for (std::size_t at = 0; at < stride; at += 32) sum = pairs(sum, widened(levels + at), widened(levels + at));
  return _mm512_reduce_add_epi32(sum);
}

// ---- levels: sums of products

VQ_T VQ_INLINE __m512i dot4(__m512i sum, __m512i levels, __m512i query) {
#ifdef VQ_VNNI
  return _mm512_dpbusd_epi32(sum, levels, query);
#else
  // A pair of products is at most 255 * 64 * 2 < 2^15: it does not saturate.
  const __m512i pairs = _mm512_maddubs_epi16(levels, query);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

// Returns the sum of the lanes of each of four registers.
VQ_T VQ_INLINE __m128i four_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Rows have STEPS * 64 levels, or `stride` if STEPS is 0.
template <std::size_t STEPS>
VQ_T VQ_INLINE std::size_t dot_rows_s8s8_of(const std::int8_t* levels, std::size_t stride, const Candidates& candidates,
                                            const std::int8_t* queries, const std::int32_t* limits,
                                            std::uint32_t* survivors, std::int32_t* sums) {
  if (STEPS) stride = STEPS * 64;
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  const auto sum_of = [&](std::size_t i) VQ_T {
    const std::int8_t *row = levels + candidates.places[i] * stride, *query = queries + candidates.queries[i] * stride;
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t at = 0; at < stride; at += 64)
      sum = dot4(sum, _mm512_xor_si512(_mm512_loadu_si512(row + at), flip), _mm512_loadu_si512(query + at));
    return sum;
  };
  std::size_t found = 0;
  // Few candidates survive, and no branch predictor foresees which. So this compresses without a branch.
  const auto keep = [&](std::size_t i, __m128i four, __mmask8 above) VQ_T {
    const __m128i at = _mm_add_epi32(_mm_setr_epi32(0, 1, 2, 3), _mm_set1_epi32(static_cast<int>(i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(survivors + found), _mm_maskz_compress_epi32(above, at));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + found), _mm_maskz_compress_epi32(above, four));
    found += count_bits(above);
  };
  std::size_t i = 0;
  for (; i + 4 <= candidates.count; i += 4) {
    const __m128i four = four_sums(sum_of(i), sum_of(i + 1), sum_of(i + 2), sum_of(i + 3));
    const std::uint16_t* q = candidates.queries + i;
    keep(i, four, _mm_cmpgt_epi32_mask(four, _mm_setr_epi32(limits[q[0]], limits[q[1]], limits[q[2]], limits[q[3]])));
  }
  for (; i < candidates.count; ++i) {
    const __m128i one = _mm_cvtsi32_si128(_mm512_reduce_add_epi32(sum_of(i)));
    keep(i, one, 1 & _mm_cmpgt_epi32_mask(one, _mm_cvtsi32_si128(limits[candidates.queries[i]])));
  }
  return found;
}

VQ_T std::size_t dot_rows_s8s8(const std::int8_t* levels, std::size_t stride, const Candidates& candidates,
                               const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* survivors,
                               std::int32_t* sums) {
  if (stride == 64) return dot_rows_s8s8_of<1>(levels, stride, candidates, queries, limits, survivors, sums);
  if (stride == 128) return dot_rows_s8s8_of<2>(levels, stride, candidates, queries, limits, survivors, sums);
  return dot_rows_s8s8_of<0>(levels, stride, candidates, queries, limits, survivors, sums);
}

#include "kernels_avx512_arrange.inl"

constexpr std::size_t kDotTileRegisters = kDotTileRows / 16;

// Order of a tile: [16 rows][four coordinates][row]. A register then holds four coordinates of each of 16 rows, and
// sums need no horizontal reduction.
VQ_T void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (std::size_t r = 0; r < kDotTileRows; r += 16)
    arrange_16_rows(levels + r * stride, stride, flip, tile + r * stride);
}

// A query takes eight registers of sums. Two queries leave room for eight registers of rows, so that each is loaded
// once for two products and nothing spills.
template <std::size_t Q>
VQ_T VQ_INLINE void dot_tile_s8s8_of(const std::uint8_t* tile, std::size_t stride, std::size_t dim,
                                     const std::int8_t* queries, std::int32_t* sums) {
  __m512i sum[Q][kDotTileRegisters];
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kDotTileRegisters; ++g) sum[q][g] = _mm512_setzero_si512();
  for (std::size_t at = 0; at < dim; at += 4) {
    __m512i rows[kDotTileRegisters];
    VQ_UNROLL
    for (std::size_t g = 0; g < kDotTileRegisters; ++g) rows[g] = _mm512_loadu_si512(tile + g * 16 * stride + at * 16);
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) {
      std::int32_t four;
      std::memcpy(&four, queries + q * stride + at, 4);
      const __m512i x = _mm512_set1_epi32(four);
      VQ_UNROLL
      for (std::size_t g = 0; g < kDotTileRegisters; ++g) sum[q][g] = dot4(sum[q][g], rows[g], x);
    }
  }
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kDotTileRegisters; ++g) _mm512_storeu_si512(sums + q * kDotTileRows + g * 16, sum[q][g]);
}

VQ_T void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums) {
  if (count == kDotTileQueries) return dot_tile_s8s8_of<kDotTileQueries>(tile, stride, dim, queries, sums);
  dot_tile_s8s8_of<1>(tile, stride, dim, queries, sums);
}

#ifdef VQ_VBMI
// Returns the bytes 0, 1, .. 63.
VQ_T VQ_INLINE __m512i numbers() {
  return _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40,
                         39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                         15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
#endif

// ---- selection

VQ_T std::uint64_t mask_upper_bound_gt(const std::int32_t* sums, const UpperBoundTest& test, const float* weight,
                                       const float* error, const float* norm2) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + 16 * g), _mm512_set1_epi32(test.offset));
    const __m512 upper = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(weight + 16 * g), _mm512_cvtepi32_ps(sum)),
                                       _mm512_mul_ps(_mm512_set1_ps(test.slack), _mm512_loadu_ps(error + 16 * g)));
    const __m512 limit = _mm512_add_ps(_mm512_set1_ps(test.threshold), _mm512_mul_ps(_mm512_set1_ps(test.norm2_weight),
                                                                                     _mm512_loadu_ps(norm2 + 16 * g)));
    const __m512 score = _mm512_mul_ps(_mm512_set1_ps(test.gain), upper);
    bits |= std::uint64_t{_mm512_cmp_ps_mask(score, limit, _CMP_GT_OQ)} << (16 * g);
  }
  return bits;
}

VQ_T std::int32_t dot_signs_s8(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
  __m512i sum = _mm512_setzero_si512();
  for (std::size_t at = 0; at < stride; at += 64) {
    std::uint64_t bits;
    std::memcpy(&bits, signs + at / 8, 8);
    const __m512i x = _mm512_loadu_si512(query + at);
    const __m512i signed_x = _mm512_mask_sub_epi8(x, ~bits, _mm512_setzero_si512(), x);
    sum = dot4(sum, _mm512_set1_epi8(1), signed_x);
  }
  return _mm512_reduce_add_epi32(sum);
}

VQ_T bool mask_gt_u16(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold, std::uint64_t* hits) {
  const __m512i limit = _mm512_set1_epi16(static_cast<short>(threshold));
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint64_t low = _mm512_cmpgt_epu16_mask(_mm512_loadu_si512(sums + b * kBlockRows), limit);
    const std::uint64_t high = _mm512_cmpgt_epu16_mask(_mm512_loadu_si512(sums + b * kBlockRows + 32), limit);
    any |= hits[b] = low | high << 32;
  }
  return any != 0;
}

VQ_T void block_max_u16(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* selected,
                        std::uint16_t* largest) {
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
    const __m512i low = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(selected[b]), sums);
    const __m512i all = _mm512_max_epu16(low, _mm512_maskz_loadu_epi16(selected[b] >> 32, sums + 32));
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // There is an instruction for the least of eight words: the largest is the complement of the least complement.
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi32(-1)));
    largest[b] = static_cast<std::uint16_t>(~_mm_cvtsi128_si32(least));
  }
}

#ifdef VQ_VBMI
VQ_T std::size_t collect_ge_u16(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* integer_thresholds,
                                std::size_t count, const std::uint64_t* selected, std::size_t first,
                                std::uint64_t* mask, std::uint8_t* places, std::uint16_t* queries,
                                std::size_t* counts) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const __m512i least = _mm512_set1_epi16(static_cast<short>(integer_thresholds[i]));
    const std::size_t before = found;
    __m512i place = numbers();
    for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
      const std::uint64_t low = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums), least);
      const std::uint64_t high = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums + 32), least);
      const std::uint64_t hits = (low | high << 32) & selected[b];
      mask[b] |= hits;
      // Compresses in a register, because compressing stores are slow on some processors.
      _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi8(hits, place));
      place = _mm512_add_epi8(place, _mm512_set1_epi8(kBlockRows));
      found += count_bits(hits);
    }
    counts[i] += found - before;
    for (std::size_t at = before; at < found; at += 32)
      _mm512_storeu_si512(queries + at, _mm512_set1_epi16(static_cast<short>(first + i)));
  }
  return found;
}
#else
VQ_PLAIN_COLLECT(VQ_T)
#endif

VQ_T std::uint64_t mask_sign_bound_gt(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms,
                                      float threshold) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 16 * g));
    const __m512i agreement = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 1);
    const __m512i sum = _mm512_sub_epi32(agreement, _mm512_set1_epi32(terms.offset));
    const __m512 norm = _mm512_loadu_ps(norms + 16 * g);
    __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(terms.scale));
    x = _mm512_mul_ps(_mm512_add_ps(x, _mm512_set1_ps(terms.width)), norm);
    if (terms.distance)
      x = _mm512_sub_ps(_mm512_add_ps(x, x), _mm512_add_ps(_mm512_mul_ps(norm, norm), _mm512_set1_ps(terms.query2)));
    bits |= std::uint64_t{_mm512_cmp_ps_mask(x, _mm512_set1_ps(threshold), _CMP_GT_OQ)} << (16 * g);
  }
  return bits;
}

#include "kernels_avx512_levels.inl"
#include "kernels_avx512_narrow.inl"
#include "kernels_avx512_signs.inl"

}  // namespace
}  // namespace vqindex
