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

// Eight bytes of 64 rows as 64 words: pairs, then fours, then eights, all within 128-bit lanes.
VQ_T VQ_INLINE void turned(const __m512i (&column)[8], std::uint64_t* words) {
  __m512i a[8], b[8];
  VQ_UNROLL
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm512_unpacklo_epi8(column[i], column[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi8(column[i], column[i + 1]);
  }
  VQ_UNROLL
  for (int i = 0; i < 8; i += 4) VQ_UNROLL
  for (int half = 0; half < 2; ++half) {
    b[i + 2 * half] = _mm512_unpacklo_epi16(a[i + half], a[i + 2 + half]);
    b[i + 2 * half + 1] = _mm512_unpackhi_epi16(a[i + half], a[i + 2 + half]);
  }
  VQ_UNROLL
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(words + 16 * i, _mm512_unpacklo_epi32(b[i], b[i + 4]));
    _mm512_store_si512(words + 16 * i + 8, _mm512_unpackhi_epi32(b[i], b[i + 4]));
  }
}

// Where `turned` leaves row r: registers have rows 2 i and 2 i + 1 of every lane of 16.
VQ_INLINE std::size_t word_of(std::size_t r) { return (r >> 1 & 7) * 8 + (r >> 4) * 2 + (r & 1); }

constexpr int kWorthTurning = 3;  // rows of a block from which turning all of it is less work

VQ_T void sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint64_t wanted, std::uint8_t* rows,
                    std::size_t stride) {
  if (static_cast<int>(count_bits(wanted)) < kWorthTurning) return plain::sign_rows(block, bytes, wanted, rows, stride);
  alignas(64) std::uint64_t words[kBlock];
  for (std::size_t j = 0; j < bytes; j += 8) {
    __m512i column[8];
    VQ_UNROLL
    for (std::size_t i = 0; i < 8; ++i)
      column[i] = j + i < bytes ? _mm512_loadu_si512(block + (j + i) * kBlock) : _mm512_setzero_si512();
    turned(column, words);
    std::uint8_t* row = rows + j;
    for (std::uint64_t bits = wanted; bits; bits &= bits - 1, row += stride)
      std::memcpy(row, words + word_of(lowest_bit(bits)), 8);
  }
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

#ifdef VQ_VBMI
VQ_T std::size_t collect(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* floors, std::size_t count,
                         const std::uint64_t* allowed, std::size_t first, std::uint64_t* wanted, std::uint8_t* places,
                         std::uint16_t* queries) {
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

// ---- the sign plane: sums of bytes in two registers of 16-bit lanes, even and odd bytes

template <std::size_t B>
struct Wide {
  __m512i low[B], high[B];  // low: even byte + 256 * odd byte, modulo 2^16; high: odd byte

  VQ_T VQ_INLINE void clear() {
    VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) low[b] = high[b] = _mm512_setzero_si512();
  }
  VQ_T VQ_INLINE void add(std::size_t b, __m512i bytes) {
    low[b] = _mm512_add_epi16(low[b], bytes);
    high[b] = _mm512_add_epi16(high[b], _mm512_srli_epi16(bytes, 8));
  }
  VQ_T VQ_INLINE void store(std::uint16_t* sums, bool more = false) const {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) {
      const __m512i even = _mm512_sub_epi16(low[b], _mm512_slli_epi16(high[b], 8));
      const __m512i x = _mm512_unpacklo_epi16(even, high[b]), y = _mm512_unpackhi_epi16(even, high[b]);
      __m512i a = _mm512_permutex2var_epi64(x, first, y), c = _mm512_permutex2var_epi64(x, second, y);
      if (more) {
        a = _mm512_add_epi16(a, _mm512_loadu_si512(sums + 64 * b));
        c = _mm512_add_epi16(c, _mm512_loadu_si512(sums + 64 * b + 32));
      }
      _mm512_storeu_si512(sums + 64 * b, a);
      _mm512_storeu_si512(sums + 64 * b + 32, c);
    }
  }
};

#ifdef VQ_VBMI
constexpr int kGroups = 4;  // of six coordinates, in a unit of 24

VQ_T void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  const __m512i index = numbers();
  __mmask64 set[6];
  VQ_UNROLL
  for (int j = 0; j < 6; ++j) set[j] = _mm512_test_epi8_mask(index, _mm512_set1_epi8(static_cast<char>(1 << j)));
  const auto add = [&](__m512i sum, int j, std::int8_t x) VQ_T {
    const __mmask64 agree = x < 0 ? ~set[j] : set[j];
    return _mm512_mask_add_epi8(sum, agree, sum, _mm512_set1_epi8(static_cast<char>(std::abs(x))));
  };
  for (std::size_t u = 0; u < units; ++u, query += 24) {
    __m512i last = _mm512_setzero_si512();
    VQ_UNROLL
    for (int g = 0; g < 3; ++g, tables += 64) {
      __m512i sum = _mm512_setzero_si512();
      VQ_UNROLL
      for (int j = 0; j < 6; ++j) sum = add(sum, j, query[8 * g + j]);
      _mm512_storeu_si512(tables, sum);
      VQ_UNROLL
      for (int j = 0; j < 2; ++j) last = add(last, 2 * g + j, query[8 * g + 6 + j]);
    }
    _mm512_storeu_si512(tables, last);
    tables += 64;
  }
}

// Four look-up indices from three bytes: the bytes, for vpermb looks at the low six bits only, and what is left of
// them.
VQ_T VQ_INLINE void indices(__m512i a, __m512i b, __m512i c, __m512i (&index)[kGroups]) {
  index[0] = a;
  index[1] = b;
  index[2] = c;
  const __m512i ab =
      _mm512_ternarylogic_epi64(_mm512_set1_epi8(3), _mm512_srli_epi16(a, 6), _mm512_srli_epi16(b, 4), 0xCA);
  index[3] = _mm512_ternarylogic_epi64(_mm512_set1_epi8(15), ab, _mm512_srli_epi16(c, 2), 0xCA);
}

VQ_T VQ_INLINE __m512i table_of(const std::uint8_t* tables, int g) { return _mm512_loadu_si512(tables + 64 * g); }
VQ_T VQ_INLINE __m512i look_up(__m512i index, __m512i table) { return _mm512_permutexvar_epi8(index, table); }
#else
constexpr int kGroups = 6;  // of four coordinates, in a unit of 24

VQ_T void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  plain::sign_tables(query, units, tables);
}

// Six look-up indices of four bits from three bytes.
VQ_T VQ_INLINE void indices(__m512i a, __m512i b, __m512i c, __m512i (&index)[kGroups]) {
  const __m512i bytes[kUnitBytes] = {a, b, c}, low4 = _mm512_set1_epi8(15);
  VQ_UNROLL
  for (int i = 0; i < 3; ++i) {
    index[2 * i] = _mm512_and_si512(bytes[i], low4);
    index[2 * i + 1] = _mm512_and_si512(_mm512_srli_epi16(bytes[i], 4), low4);
  }
}

VQ_T VQ_INLINE __m512i table_of(const std::uint8_t* tables, int g) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tables) + g));
}
VQ_T VQ_INLINE __m512i look_up(__m512i index, __m512i table) { return _mm512_shuffle_epi8(table, index); }
#endif

constexpr std::size_t kFetchAhead = 3 << 12;  // bytes; memory answers in that time, and the first-level cache has room

// Three bytes of the plane's rows.
VQ_T VQ_INLINE void plane_unit(const std::uint8_t* block, std::size_t bytes, std::size_t j, __m512i (&x)[kUnitBytes]) {
  VQ_UNROLL
  for (std::size_t i = 0; i < kUnitBytes; ++i) {
    prefetch(block + (j + i) * kBlock + kFetchAhead);
    x[i] = j + i < bytes ? _mm512_loadu_si512(block + (j + i) * kBlock) : _mm512_setzero_si512();
  }
}

// One block after the other: several would share the loads of tables, but hardware follows one stream best.
VQ_T void sign_plane(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables,
                     std::size_t together, std::uint16_t* sums) {
  for (const std::uint8_t* const end = plane + blocks * bytes * kBlock; plane != end;
       plane += bytes * kBlock, sums += kBlock) {
    Wide<1> wide;
    wide.clear();
    const std::uint8_t* table = tables;
    for (std::size_t j = 0; j < bytes;) {
      __m512i sum = _mm512_setzero_si512();
      for (const std::size_t stop = std::min(bytes, j + together * kUnitBytes); j < stop;
           j += kUnitBytes, table += kUnitTable) {
        __m512i x[kUnitBytes], index[kGroups];
        plane_unit(plane, bytes, j, x);
        indices(x[0], x[1], x[2], index);
        VQ_UNROLL
        for (int g = 0; g < kGroups; ++g) index[g] = look_up(index[g], table_of(table, g));
        // In pairs: what follows waits for one addition, not for all.
        VQ_UNROLL
        for (int g = 0; g < kGroups; g += 2) index[g / 2] = _mm512_add_epi8(index[g], index[g + 1]);
        VQ_UNROLL
        for (int g = 1; g < kGroups / 2; ++g) index[0] = _mm512_add_epi8(index[0], index[g]);
        sum = _mm512_add_epi8(sum, index[0]);
      }
      wide.add(0, sum);
    }
    wide.store(sums);
  }
}

#ifdef VQ_VBMI
// Order: [unit][group][block][row].
VQ_T void sign_expand(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, std::uint8_t* index) {
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, index += kUnitIndex * blocks)
    for (std::size_t b = 0; b < blocks; ++b) {
      __m512i x[kUnitBytes], i[kGroups];
      plane_unit(plane + b * bytes * kBlock, bytes, j, x);
      indices(x[0], x[1], x[2], i);
      VQ_UNROLL
      for (std::size_t g = 0; g < kGroups; ++g) _mm512_storeu_si512(index + (g * blocks + b) * 64, i[g]);
    }
}

// In a register: compilers would rather load it again for each of its uses, and loads are what there is least of.
VQ_T VQ_INLINE __m512i loaded(const std::uint8_t* from) {
  __m512i x = _mm512_loadu_si512(from);
  asm("" : "+v"(x));
  return x;
}

constexpr std::size_t kTablesAhead = 512;  // bytes; tables come from the second-level cache

// Q queries meet B of the blocks: every index meets Q tables, every table B indices, and all sums stay in registers.
template <std::size_t Q, std::size_t B>
VQ_T VQ_INLINE void tile_signs(const std::uint8_t* index, const std::uint8_t* tables, const SignPass& pass,
                               std::uint16_t* sums) {
  Wide<B> wide[Q];
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) wide[q].clear();
  for (std::size_t u = 0; u < pass.units;) {
    __m512i sum[Q][B];
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) sum[q][b] = _mm512_setzero_si512();
    for (const std::size_t end = std::min(pass.units, u + pass.together); u < end; ++u) {
      VQ_UNROLL
      for (int g = 0; g < kGroups; ++g, tables += 64, index += 64 * pass.blocks) {
        __m512i table[Q];
        VQ_UNROLL
        for (std::size_t q = 0; q < Q; ++q) {
          table[q] = loaded(tables + q * pass.step);
          prefetch(tables + q * pass.step + kTablesAhead);
        }
        VQ_UNROLL
        for (std::size_t b = 0; b < B; ++b) {
          const __m512i at = loaded(index + 64 * b);
          VQ_UNROLL
          for (std::size_t q = 0; q < Q; ++q) {
            sum[q][b] = _mm512_add_epi8(sum[q][b], look_up(at, table[q]));
            asm("" : "+v"(sum[q][b]));  // one after the other: a tree of additions needs registers that are not there
          }
        }
      }
    }
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
    for (std::size_t b = 0; b < B; ++b) wide[q].add(b, sum[q][b]);
  }
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) wide[q].store(sums + q * pass.blocks * kBlock, pass.more);
}

template <std::size_t Q>
VQ_T VQ_INLINE void tile_signs_of(const std::uint8_t* index, const std::uint8_t* tables, const SignPass& pass,
                                  std::uint16_t* sums) {
  std::size_t b = 0;
  for (; b + kTileBlocks <= pass.blocks; b += kTileBlocks)
    tile_signs<Q, kTileBlocks>(index + 64 * b, tables, pass, sums + b * kBlock);
  for (; b < pass.blocks; ++b) tile_signs<Q, 1>(index + 64 * b, tables, pass, sums + b * kBlock);
}

VQ_T void sign_tile(const std::uint8_t* index, const std::uint8_t* tables, const SignPass& pass, std::uint16_t* sums) {
  std::size_t q = 0;
  for (; q + 2 <= pass.count; q += 2)
    tile_signs_of<2>(index, tables + q * pass.step, pass, sums + q * pass.blocks * kBlock);
  for (; q < pass.count; ++q) tile_signs_of<1>(index, tables + q * pass.step, pass, sums + q * pass.blocks * kBlock);
}

constexpr std::size_t kPassUnits = 32;  // indices of 32 KiB
#else
VQ_PLANE_AS_TILE(VQ_T)
#endif

// ---- levels from packed rows

#ifdef VQ_VBMI
// The table in registers, and 64 of its levels by their windows.
template <int BITS>
struct Table {
  static constexpr int kRegisters = BITS <= 6 ? 1 : 1 << (BITS - 6);
  __m512i part[kRegisters];

  VQ_T VQ_INLINE explicit Table(const std::int8_t* repeated) {
    VQ_UNROLL
    for (int i = 0; i < kRegisters; ++i) part[i] = _mm512_loadu_si512(repeated + 64 * i);
  }
  // low: bits 0..7 of the windows (above BITS anything), high: bits 1..8.
  VQ_T VQ_INLINE __m512i at(__m512i low, __m512i high) const {
    static_assert(BITS <= 6 || BITS == 8 || BITS == 9);
    if constexpr (BITS == 0) return part[0];
    if constexpr (BITS > 0 && BITS <= 6) return _mm512_permutexvar_epi8(low, part[0]);
    if constexpr (BITS >= 8) {
      __m512i x = half(low, 0);
      if constexpr (BITS == 9) x = _mm512_mask_blend_epi8(_mm512_movepi8_mask(high), x, half(low, 4));
      return x;
    }
  }
  VQ_T VQ_INLINE __m512i half(__m512i low, int first) const {
    if constexpr (BITS >= 8) {
      const __m512i a = _mm512_permutex2var_epi8(part[first], low, part[first + 1]);
      const __m512i b = _mm512_permutex2var_epi8(part[first + 2], low, part[first + 3]);
      return _mm512_mask_blend_epi8(_mm512_movepi8_mask(low), a, b);
    }
    return low;
  }
};

VQ_T VQ_INLINE __mmask64 first(std::size_t bytes) { return bytes >= 64 ? ~__mmask64{0} : _bzhi_u64(~0ull, bytes); }

// The bytes of 64 fields from `row` on, each where its window is shifted from; fields of a byte at most that begin at
// most three bits apart lie in 32 bytes. No byte outside the row is read, nor its cache line.
VQ_T VQ_INLINE __m512i words(const std::uint8_t* row, const std::uint8_t* end, std::size_t row_bytes, __m512i gather) {
  const std::size_t left = static_cast<std::size_t>(end - row);
  __m256i bytes;
  if (left >= 32) {
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  } else if (row_bytes >= 32) {
    bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(end - 32));
    gather = _mm512_add_epi8(gather, _mm512_set1_epi8(static_cast<char>(32 - left)));
  } else {
    bytes = _mm256_maskz_loadu_epi8(static_cast<__mmask32>(_bzhi_u32(~0u, static_cast<unsigned>(left))), row);
  }
  return _mm512_permutexvar_epi8(gather, _mm512_zextsi256_si512(bytes));
}

// How the fields of rows are read: `each_64` calls use(t, levels) with 64 levels of a row from t on; those past the
// dimension are anything.
template <int BITS, int TOPS>
struct Cells {
  const std::size_t dim, step;
  const __m512i gather, shift, next;
  const Table<BITS> below, above;

  VQ_T VQ_INLINE explicit Cells(const Fields& f)
      : dim(f.dim),
        step(8 * static_cast<std::size_t>(f.step)),
        gather(_mm512_loadu_si512(f.gather)),
        shift(_mm512_loadu_si512(f.shift)),
        next(_mm512_add_epi8(shift, _mm512_set1_epi8(1))),
        below(f.repeated),
        above(f.repeated + (TOPS ? repeated_size(BITS) : 0)) {}

  template <typename Use>
  VQ_T VQ_INLINE void each_64(const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                              Use& use) const {
    const std::uint8_t* const end = row + row_bytes;
    for (std::size_t t = 0; t < dim; t += 64, row += step) {
      __m512i low = _mm512_setzero_si512(), high = low;
      if constexpr (BITS > 0) {
        const __m512i word = words(row, end, row_bytes, gather);
        low = _mm512_multishift_epi64_epi8(shift, word);
        if constexpr (BITS == 9) high = _mm512_multishift_epi64_epi8(next, word);
      }
      __m512i x = below.at(low, high);
      if constexpr (TOPS) {
        std::uint64_t sign;
        std::memcpy(&sign, signs + t / 8, 8);
        x = _mm512_mask_mov_epi8(x, sign, above.at(low, high));
      }
      use(t, x);
    }
  }
};

// The same for a trellis. Seven bits of a window choose in 128 entries, its newest top bits which 128.
template <int BITS, int TOPS>
struct Trellis {
  static constexpr int kInner = 7 - BITS, kOuter = TOPS - kInner, kParts = 1 << kOuter;
  static_assert(kInner > 0 && kOuter > 0);
  const std::size_t dim, step;
  const __m512i gather, shift;
  __m512i part[2 * kParts];

  VQ_T VQ_INLINE explicit Trellis(const Fields& f)
      : dim(f.dim),
        step(8 * static_cast<std::size_t>(f.step)),
        gather(_mm512_loadu_si512(f.gather)),
        shift(_mm512_loadu_si512(f.shift)) {
    VQ_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) part[i] = _mm512_loadu_si512(f.repeated + 64 * i);
  }

  template <typename Use>
  VQ_T VQ_INLINE void each_64(const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                              Use& use) const {
    const __m512i one = _mm512_set1_epi8(1), bits = _mm512_set1_epi8((1 << BITS) - 1);
    const std::uint8_t* const end = row + row_bytes;
    std::uint64_t before = 0;
    for (std::size_t t = 0; t < dim; t += 64, row += step) {
      const __m512i word = words(row, end, row_bytes, gather);
      const __m512i window = _mm512_multishift_epi64_epi8(shift, word);
      std::uint64_t top;
      std::memcpy(&top, signs + t / 8, 8);
      top ^= _mm512_test_epi8_mask(window, one);
      const auto earlier = [top, before](int steps) { return steps ? top << steps | before >> (64 - steps) : top; };
      __m512i at = _mm512_and_si512(window, bits);
      VQ_UNROLL
      for (int i = 0; i < kInner; ++i)
        at = _mm512_mask_add_epi8(at, earlier(TOPS - 1 - i), at, _mm512_set1_epi8(1 << (BITS + i)));
      __m512i x[kParts];
      VQ_UNROLL
      for (int i = 0; i < kParts; ++i) x[i] = _mm512_permutex2var_epi8(part[2 * i], at, part[2 * i + 1]);
      VQ_UNROLL
      for (int i = 0; i < kOuter; ++i) {
        const __mmask64 upper = earlier(kOuter - 1 - i);
        VQ_UNROLL
        for (int j = 0; j < kParts >> (i + 1); ++j) x[j] = _mm512_mask_blend_epi8(upper, x[2 * j], x[2 * j + 1]);
      }
      use(t, x[0]);
      before = top;
    }
  }
};

struct Store {
  std::int8_t* levels;
  std::size_t dim;
  VQ_T VQ_INLINE void operator()(std::size_t t, __m512i x) {
    _mm512_storeu_si512(levels + t, _mm512_maskz_mov_epi8(first(dim - t), x));
  }
};

// The query is zero past the dimension.
struct Dot {
  const std::int16_t* query;
  __m512i a = _mm512_setzero_si512(), b = a;
  std::int64_t total = 0;

  VQ_T VQ_INLINE explicit Dot(const std::int16_t* values) : query(values) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, __m512i x) {
    if (t && t % kSafe == 0) flush();
    a = pairs(a, _mm512_cvtepi8_epi16(_mm512_castsi512_si256(x)), _mm512_loadu_si512(query + t));
    b = pairs(b, _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(x, 1)), _mm512_loadu_si512(query + t + 32));
  }
  VQ_T VQ_INLINE void flush() {
    total += wide_sum(a, b);
    a = b = _mm512_setzero_si512();
  }
};

// Calls with(how the fields are read); false for windows, or steps between them, that no kernel is made for.
template <typename With>
VQ_T VQ_INLINE bool by_window(const Fields& f, const With& with) {
  if (f.step > 3) return false;
  switch (16 * f.tops + f.window) {
    case 9:
      return with(Cells<9, 0>(f)), true;
    case 16 + 0:
      return with(Cells<0, 1>(f)), true;
    case 16 + 1:
      return with(Cells<1, 1>(f)), true;
    case 16 + 2:
      return with(Cells<2, 1>(f)), true;
    case 16 + 3:
      return with(Cells<3, 1>(f)), true;
    case 2 * 16 + 6:
      return with(Trellis<6, 2>(f)), true;
    case 3 * 16 + 6:
      return with(Trellis<6, 3>(f)), true;
    case 4 * 16 + 4:
      return with(Trellis<4, 4>(f)), true;
    default:
      return false;
  }
}

VQ_T void decode(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                 std::int8_t* levels) {
  Store store{levels, f.dim};
  const auto read = [&](const auto& fields) VQ_T { fields.each_64(row, row_bytes, signs, store); };
  if (!by_window(f, read)) plain::decode(f, row, row_bytes, signs, levels);
}

constexpr std::size_t kShort = 512;  // so many products of at most 127 * 32767 stay below 2^31 all together

VQ_T void row_dots(const Fields& f, const std::uint8_t* const* rows, std::size_t row_bytes, const std::uint8_t* signs,
                   std::size_t count, const std::int16_t* query, std::int8_t* levels, std::int64_t* sums) {
  const std::size_t step = padded(f.dim, 64) / 8;
  const auto read = [&](const auto& fields) VQ_T {
    std::size_t i = 0;
    if (f.dim <= kShort)
      for (; i + 4 <= count; i += 4) {
        __m512i four[4];
        VQ_UNROLL
        for (std::size_t j = 0; j < 4; ++j) {
          Dot sum(query);
          fields.each_64(rows[i + j], row_bytes, signs + (i + j) * step, sum);
          four[j] = _mm512_add_epi32(sum.a, sum.b);
        }
        const __m256i wide = _mm256_cvtepi32_epi64(four_sums(four[0], four[1], four[2], four[3]));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i), wide);
      }
    for (; i < count; ++i) {
      Dot sum(query);
      fields.each_64(rows[i], row_bytes, signs + i * step, sum);
      sum.flush();
      sums[i] = sum.total;
    }
  };
  if (by_window(f, read)) return;
  for (std::size_t i = 0; i < count; ++i) {
    plain::decode(f, rows[i], row_bytes, signs + i * step, levels);
    sums[i] = dot(levels, query, padded(f.dim, 64));
  }
}
#else
VQ_PLAIN_DECODE(VQ_T)
VQ_ROW_DOT(VQ_T)
VQ_ROW_DOTS(VQ_T)
#endif

}  // namespace
}  // namespace vqindex
