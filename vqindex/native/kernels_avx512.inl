// Kernels with AVX-512, included once for each set of extensions: VQ_T is the target attribute, VQ_VNNI and VQ_VBMI say
// what it has.
//
//   step                      instructions (64 lanes of a byte each)
//   sums of levels            vpdpbusd; without VNNI vpmaddubsw, vpmaddwd, vpaddd
//   unpacking of fields       vpermb (bytes to the words that need them), vpmultishiftqb (fields to bytes)
//   levels of windows         vpermb to 64 entries, vpermi2b to 128, two or four and a blend to 256 or 512
//   sign plane                vpermb, six coordinates an entry; without VBMI vpshufb, four

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

// The sum of 32-bit lanes, two of which may pass 2^31 together.
VQ_T VQ_INLINE std::int64_t wide_sum(__m512i a, __m512i b) {
  const __m512i low = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(a)),
                                       _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(a, 1)));
  const __m512i high = _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(b)),
                                        _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(b, 1)));
  return _mm512_reduce_add_epi64(_mm512_add_epi64(low, high));
}

constexpr std::size_t kSafe = 8192;  // so many products of at most 127 * 32767 leave every lane of 16 below 2^31

VQ_T std::int64_t dot(const std::int8_t* levels, const std::int16_t* query, std::size_t stride) {
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

VQ_T std::int64_t square(const std::int8_t* levels, std::size_t stride) {
  __m512i sum = _mm512_setzero_si512();
  for (std::size_t at = 0; at < stride; at += 32) sum = pairs(sum, widened(levels + at), widened(levels + at));
  return _mm512_reduce_add_epi32(sum);
}

// ---- levels: sums of products

VQ_T VQ_INLINE __m512i dot4(__m512i sum, __m512i levels, __m512i query) {
#ifdef VQ_VNNI
  return _mm512_dpbusd_epi32(sum, levels, query);
#else
  // 255 * 64 * 2 < 2^15: the pairs do not saturate.
  const __m512i pairs = _mm512_maddubs_epi16(levels, query);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

// The sums of the lanes of four registers.
VQ_T VQ_INLINE __m128i four_sums(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Rows of STEPS * 64 levels, or of any number if that is 0.
template <std::size_t STEPS>
VQ_T VQ_INLINE std::size_t row_sums_of(const std::int8_t* levels, std::size_t stride, const Catch& rows,
                                       const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* passing,
                                       std::int32_t* sums) {
  if (STEPS) stride = STEPS * 64;
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  const auto sum_of = [&](std::size_t i) VQ_T {
    const std::int8_t *row = levels + rows.places[i] * stride, *query = queries + rows.queries[i] * stride;
    __m512i sum = _mm512_setzero_si512();
    for (std::size_t at = 0; at < stride; at += 64)
      sum = dot4(sum, _mm512_xor_si512(_mm512_loadu_si512(row + at), flip), _mm512_loadu_si512(query + at));
    return sum;
  };
  std::size_t found = 0;
  // Few pass, but no branch can tell which.
  const auto keep = [&](std::size_t i, __m128i four, __mmask8 above) VQ_T {
    const __m128i at = _mm_add_epi32(_mm_setr_epi32(0, 1, 2, 3), _mm_set1_epi32(static_cast<int>(i)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(passing + found), _mm_maskz_compress_epi32(above, at));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + found), _mm_maskz_compress_epi32(above, four));
    found += count_bits(above);
  };
  std::size_t i = 0;
  for (; i + 4 <= rows.count; i += 4) {
    const __m128i four = four_sums(sum_of(i), sum_of(i + 1), sum_of(i + 2), sum_of(i + 3));
    const std::uint16_t* q = rows.queries + i;
    keep(i, four, _mm_cmpgt_epi32_mask(four, _mm_setr_epi32(limits[q[0]], limits[q[1]], limits[q[2]], limits[q[3]])));
  }
  for (; i < rows.count; ++i) {
    const __m128i one = _mm_cvtsi32_si128(_mm512_reduce_add_epi32(sum_of(i)));
    keep(i, one, 1 & _mm_cmpgt_epi32_mask(one, _mm_cvtsi32_si128(limits[rows.queries[i]])));
  }
  return found;
}

VQ_T std::size_t row_sums(const std::int8_t* levels, std::size_t stride, const Catch& rows, const std::int8_t* queries,
                          const std::int32_t* limits, std::uint32_t* passing, std::int32_t* sums) {
  if (stride == 64) return row_sums_of<1>(levels, stride, rows, queries, limits, passing, sums);
  if (stride == 128) return row_sums_of<2>(levels, stride, rows, queries, limits, passing, sums);
  return row_sums_of<0>(levels, stride, rows, queries, limits, passing, sums);
}

// Order of a tile: [group of 16 rows][four coordinates][row], so that a register holds four coordinates of 16 rows and
// sums need no reduction.
VQ_T void arrange(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  for (std::size_t group = 0; group < kTile / 16; ++group)
    for (std::size_t at = 0; at < stride; at += 64) {
      const std::int8_t* rows = levels + group * 16 * stride + at;
      __m512i a[16], b[16];
      VQ_UNROLL
      for (std::size_t r = 0; r < 16; ++r) a[r] = _mm512_xor_si512(_mm512_loadu_si512(rows + r * stride), flip);
      // A 16 x 16 transposition of 32-bit words: in pairs, in fours, then by 128-bit lanes.
      VQ_UNROLL
      for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
      }
      VQ_UNROLL
      for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
      }
      VQ_UNROLL
      for (int i = 0; i < 4; ++i) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
      }
      VQ_UNROLL
      for (int i = 0; i < 4; ++i) {
        a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
        a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD);
        a[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xDD);
      }
      VQ_UNROLL
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + group * 16 * stride + at * 16 + i * 64, a[i]);
    }
}

constexpr std::size_t kGroupsOfRows = kTile / 16;

// Eight registers of sums a query, so that two queries leave room for eight of rows: one load a sum, and no spill.
template <std::size_t Q>
VQ_T VQ_INLINE void tile_sums_of(const std::uint8_t* tile, std::size_t stride, std::size_t dim,
                                 const std::int8_t* queries, std::int32_t* sums) {
  __m512i sum[Q][kGroupsOfRows];
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kGroupsOfRows; ++g) sum[q][g] = _mm512_setzero_si512();
  for (std::size_t at = 0; at < dim; at += 4) {
    __m512i rows[kGroupsOfRows];
    VQ_UNROLL
    for (std::size_t g = 0; g < kGroupsOfRows; ++g) rows[g] = _mm512_loadu_si512(tile + g * 16 * stride + at * 16);
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) {
      std::int32_t four;
      std::memcpy(&four, queries + q * stride + at, 4);
      const __m512i x = _mm512_set1_epi32(four);
      VQ_UNROLL
      for (std::size_t g = 0; g < kGroupsOfRows; ++g) sum[q][g] = dot4(sum[q][g], rows[g], x);
    }
  }
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kGroupsOfRows; ++g) _mm512_storeu_si512(sums + q * kTile + g * 16, sum[q][g]);
}

VQ_T void tile_sums(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                    std::size_t count, std::int32_t* sums) {
  if (count == kQueries) return tile_sums_of<kQueries>(tile, stride, dim, queries, sums);
  tile_sums_of<1>(tile, stride, dim, queries, sums);
}

#ifdef VQ_VBMI
// 0, 1, .. 63.
VQ_T VQ_INLINE __m512i numbers() {
  return _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40,
                         39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                         15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
#endif

// ---- selection

VQ_T std::uint64_t passing(const std::int32_t* sums, const Test& test, const float* weight, const float* error,
                           const float* size) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(sums + 16 * g), _mm512_set1_epi32(test.offset));
    const __m512 upper = _mm512_add_ps(_mm512_mul_ps(_mm512_loadu_ps(weight + 16 * g), _mm512_cvtepi32_ps(sum)),
                                       _mm512_mul_ps(_mm512_set1_ps(test.slack), _mm512_loadu_ps(error + 16 * g)));
    const __m512 limit = _mm512_add_ps(_mm512_set1_ps(test.bar),
                                       _mm512_mul_ps(_mm512_set1_ps(test.lean), _mm512_loadu_ps(size + 16 * g)));
    const __m512 score = _mm512_mul_ps(_mm512_set1_ps(test.gain), upper);
    bits |= std::uint64_t{_mm512_cmp_ps_mask(score, limit, _CMP_GT_OQ)} << (16 * g);
  }
  return bits;
}

VQ_T std::int32_t sign_sum(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
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

VQ_T bool above(const std::uint16_t* sums, std::size_t blocks, std::uint16_t bar, std::uint64_t* hits) {
  const __m512i limit = _mm512_set1_epi16(static_cast<short>(bar));
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::uint64_t low = _mm512_cmpgt_epu16_mask(_mm512_loadu_si512(sums + b * kBlock), limit);
    const std::uint64_t high = _mm512_cmpgt_epu16_mask(_mm512_loadu_si512(sums + b * kBlock + 32), limit);
    any |= hits[b] = low | high << 32;
  }
  return any != 0;
}

VQ_T void most(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* allowed, std::uint16_t* largest) {
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlock) {
    const __m512i low = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(allowed[b]), sums);
    const __m512i all = _mm512_max_epu16(low, _mm512_maskz_loadu_epi16(allowed[b] >> 32, sums + 32));
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    const __m128i eight = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // The largest is what is left of all ones by the least complement.
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi32(-1)));
    largest[b] = static_cast<std::uint16_t>(~_mm_cvtsi128_si32(least));
  }
}

#ifdef VQ_VBMI
VQ_T std::size_t collect(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* floors, std::size_t count,
                         const std::uint64_t* allowed, std::size_t first, std::uint64_t* wanted, std::uint8_t* places,
                         std::uint16_t* queries, std::size_t* counts) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const __m512i least = _mm512_set1_epi16(static_cast<short>(floors[i]));
    const std::size_t before = found;
    __m512i place = numbers();
    for (std::size_t b = 0; b < blocks; ++b, sums += kBlock) {
      const std::uint64_t low = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums), least);
      const std::uint64_t high = _mm512_cmpge_epu16_mask(_mm512_loadu_si512(sums + 32), least);
      const std::uint64_t hits = (low | high << 32) & allowed[b];
      wanted[b] |= hits;
      // Compressed in a register: stores that compress are slow on some processors.
      _mm512_storeu_si512(places + found, _mm512_maskz_compress_epi8(hits, place));
      place = _mm512_add_epi8(place, _mm512_set1_epi8(kBlock));
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

VQ_T std::uint64_t bounded(const std::uint16_t* sums, const Bound& bound, const float* size, float bar) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums + 16 * g));
    const __m512i agreed = _mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 1);
    const __m512i sum = _mm512_sub_epi32(agreed, _mm512_set1_epi32(bound.offset));
    const __m512 norm = _mm512_loadu_ps(size + 16 * g);
    __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(bound.scale));
    x = _mm512_mul_ps(_mm512_add_ps(x, _mm512_set1_ps(bound.width)), norm);
    if (bound.distance)
      x = _mm512_sub_ps(_mm512_add_ps(x, x), _mm512_add_ps(_mm512_mul_ps(norm, norm), _mm512_set1_ps(bound.query2)));
    bits |= std::uint64_t{_mm512_cmp_ps_mask(x, _mm512_set1_ps(bar), _CMP_GT_OQ)} << (16 * g);
  }
  return bits;
}

#include "kernels_avx512_levels.inl"
#include "kernels_avx512_signs.inl"

}  // namespace
}  // namespace vqindex
