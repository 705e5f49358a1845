// Kernels for AVX2. One register holds 32 bytes:
//
//   step                      instructions
//   sums of levels            vpmaddubsw, vpmaddwd, vpaddd
//   windows of packed fields  vpshufb (the two bytes that hold a window), vpmullw and vpsrlw to shift, vpackuswb
//   levels of windows         vpshufb for 16 entries each, vpblendvb to choose between them
//   sign bits                 vpshufb, four coordinates an entry
#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>

#include "kernels_plain.hpp"

#define VQ_T VQ_TARGET_AVX2

namespace vqindex {
namespace {

VQ_PLAIN_BLOCK_MAX(VQ_T)
VQ_PLAIN_ROWS(VQ_T)

VQ_T VQ_INLINE __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
VQ_T VQ_INLINE void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }
VQ_T VQ_INLINE __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
VQ_T VQ_INLINE __m256i twice(__m128i x) { return _mm256_broadcastsi128_si256(x); }

// ---- one row

// Products are at most 127 * 32767, and 16 lanes share them: after 8192 of them every lane is still below 2^31.
constexpr std::size_t kSafe = 8192;

// Sums the products of levels and an int16 query, 32 at a time.
struct Dot {
  const std::int16_t* query;
  __m256i a, b;
  std::int64_t total;

  VQ_T VQ_INLINE explicit Dot(const std::int16_t* values)
      : query(values), a(_mm256_setzero_si256()), b(_mm256_setzero_si256()), total(0) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, __m256i levels) {
    if (t && t % kSafe == 0) flush();
    const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(levels));
    const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(levels, 1));
    a = _mm256_add_epi32(a, _mm256_madd_epi16(low, load(query + t)));
    b = _mm256_add_epi32(b, _mm256_madd_epi16(high, load(query + t + 16)));
  }
  VQ_T VQ_INLINE void flush() {
    std::int32_t lanes[16];
    store(lanes, a);
    store(lanes + 8, b);
    for (const std::int32_t lane : lanes) total += lane;
    a = b = _mm256_setzero_si256();
  }
};

VQ_T std::int64_t dot_s8s16(const std::int8_t* levels, const std::int16_t* query, std::size_t stride) {
  Dot sum(query);
  for (std::size_t at = 0; at < stride; at += 32) sum(at, load(levels + at));
  sum.flush();
  return sum.total;
}

VQ_T std::int64_t square_s8(const std::int8_t* levels, std::size_t stride) { return plain::square_s8(levels, stride); }

// ---- levels: sums of products

// A pair of products is at most 255 * 64 * 2 < 2^15: it does not saturate.
VQ_T VQ_INLINE __m256i dot4(__m256i sum, __m256i levels, __m256i query) {
  const __m256i pairs = _mm256_maddubs_epi16(levels, query);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

// Adds the products of 32 levels and values of a query of magnitudes up to 127. A pair of products is at most
// 127 * 127 * 2 < 2^15 once the sign of each level has gone to the query.
VQ_T VQ_INLINE __m256i add_narrow(__m256i sum, __m256i levels, __m256i query) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(query, levels));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

VQ_T VQ_INLINE std::int32_t sum_of_lanes(__m256i x) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

VQ_T std::int32_t dot_s8s8(const std::int8_t* levels, const std::int8_t* query, std::size_t stride) {
  __m256i a = _mm256_setzero_si256(), b = a;
  for (std::size_t at = 0; at < stride; at += 64) {
    a = add_narrow(a, load(levels + at), load(query + at));
    b = add_narrow(b, load(levels + at + 32), load(query + at + 32));
  }
  return sum_of_lanes(_mm256_add_epi32(a, b));
}

VQ_DOT_MANY(VQ_T)

VQ_T void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  plain::arrange_tile_s8(levels, stride, tile);
}

// Returns the sums of four rows, 32 coordinates at a time.
VQ_T VQ_INLINE __m128i sums_of_four(const std::uint8_t* const (&rows)[4], std::size_t dim, const std::int8_t* query) {
  __m256i sum[4];
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (std::size_t at = 0; at < dim; at += 32) {
    const __m256i x = load(query + at);
    for (int i = 0; i < 4; ++i) sum[i] = dot4(sum[i], load(rows[i] + at), x);
  }
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

VQ_T void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums) {
  for (std::size_t r = 0; r < kDotTileRows; r += 4) {
    const std::uint8_t* row = tile + r * stride;
    const std::uint8_t* const rows[4] = {row, row + stride, row + 2 * stride, row + 3 * stride};
    for (std::size_t q = 0; q < count; ++q)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + q * kDotTileRows + r),
                       sums_of_four(rows, dim, queries + q * stride));
  }
}

// ---- selection

// Returns one bit for each of 32 16-bit lanes, which are 0 or all ones.
VQ_T VQ_INLINE std::uint32_t bits_of(__m256i a, __m256i b) {
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xD8);  // packs interleaves 128-bit halves
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}

VQ_T std::uint64_t mask_upper_bound_gt(const std::int32_t* sums, const UpperBoundTest& test, const float* weight,
                                       const float* error, const float* norm2) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int at = 0; at < 64; at += 8) {
    const __m256i sum = _mm256_sub_epi32(load(sums + at), _mm256_set1_epi32(test.offset));
    const __m256 upper = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(weight + at), _mm256_cvtepi32_ps(sum)),
                                       _mm256_mul_ps(_mm256_set1_ps(test.slack), _mm256_loadu_ps(error + at)));
    const __m256 limit = _mm256_add_ps(_mm256_set1_ps(test.threshold),
                                       _mm256_mul_ps(_mm256_set1_ps(test.norm2_weight), _mm256_loadu_ps(norm2 + at)));
    const __m256 above = _mm256_cmp_ps(_mm256_mul_ps(_mm256_set1_ps(test.gain), upper), limit, _CMP_GT_OQ);
    bits |= static_cast<std::uint64_t>(_mm256_movemask_ps(above)) << at;
  }
  return bits;
}

VQ_T bool mask_gt_u16(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold, std::uint64_t* hits) {
  const __m256i limit = _mm256_set1_epi16(static_cast<short>(threshold)), zero = _mm256_setzero_si256();
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
    __m256i not_above[4];  // AVX2 has no unsigned comparison
    VQ_UNROLL
    for (int i = 0; i < 4; ++i) not_above[i] = _mm256_cmpeq_epi16(_mm256_subs_epu16(load(sums + 16 * i), limit), zero);
    const std::uint64_t low = bits_of(not_above[0], not_above[1]), high = bits_of(not_above[2], not_above[3]);
    any |= hits[b] = ~(low | high << 32);
  }
  return any != 0;
}

VQ_T std::uint64_t mask_sign_bound_gt(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms,
                                      float threshold) {
  std::uint64_t bits = 0;
  VQ_UNROLL
  for (int at = 0; at < 64; at += 8) {
    const __m256i agreement = _mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(sums + at)), 1);
    const __m256i sum = _mm256_sub_epi32(agreement, _mm256_set1_epi32(terms.offset));
    const __m256 norm = _mm256_loadu_ps(norms + at);
    __m256 x = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(terms.scale));
    x = _mm256_mul_ps(_mm256_add_ps(x, _mm256_set1_ps(terms.width)), norm);
    if (terms.distance)
      x = _mm256_sub_ps(_mm256_add_ps(x, x), _mm256_add_ps(_mm256_mul_ps(norm, norm), _mm256_set1_ps(terms.query2)));
    const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(threshold), _CMP_GT_OQ);
    bits |= static_cast<std::uint64_t>(_mm256_movemask_ps(above)) << at;
  }
  return bits;
}

// ---- signs

// Returns 32 signs as byte masks: all ones where the bit is set.
VQ_T VQ_INLINE __m256i sign_mask(const std::uint8_t* signs) {
  std::int32_t word;
  std::memcpy(&word, signs, 4);
  const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  const __m256i x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), byte), bit);
  return _mm256_cmpeq_epi8(x, bit);
}

VQ_T std::int32_t dot_signs_s8(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
  __m256i sum = _mm256_setzero_si256();  // 16384 / 32 pairs of at most 10
  for (std::size_t at = 0; at < stride; at += 32) {
    const __m256i x = load(query + at), minus = _mm256_sub_epi8(_mm256_setzero_si256(), x);
    const __m256i signed_x = _mm256_blendv_epi8(minus, x, sign_mask(signs + at / 8));
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), signed_x));
  }
  std::int32_t lanes[8], total = 0;
  store(lanes, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
  for (const std::int32_t lane : lanes) total += lane;
  return total;
}

VQ_T void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  plain::sign_tables_s8u8(query, units, tables);
}

VQ_T VQ_INLINE __m256i entries(const std::uint8_t* table, __m256i index) {
  return _mm256_shuffle_epi8(twice(load16(table)), index);
}

// Sums the bytes of 32 rows in 16-bit lanes.
struct Wide {
  __m256i low, high;  // even bytes + 256 * odd ones modulo 2^16; odd bytes

  VQ_T VQ_INLINE void add(__m256i bytes) {
    low = _mm256_add_epi16(low, bytes);
    high = _mm256_add_epi16(high, _mm256_srli_epi16(bytes, 8));
  }
  VQ_T VQ_INLINE void write(std::uint16_t* sums) const {
    const __m256i even = _mm256_sub_epi16(low, _mm256_slli_epi16(high, 8));
    const __m256i a = _mm256_unpacklo_epi16(even, high), b = _mm256_unpackhi_epi16(even, high);
    store(sums, _mm256_permute2x128_si256(a, b, 0x20));
    store(sums + 16, _mm256_permute2x128_si256(a, b, 0x31));
  }
};

VQ_T VQ_INLINE void block_sums(const std::uint8_t* block, std::size_t bytes, const std::uint8_t* tables,
                               std::uint16_t* sums) {
  const __m256i low4 = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  Wide wide[2] = {{zero, zero}, {zero, zero}};
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, tables += kUnitTable) {
    __m256i sum[2] = {zero, zero};  // six entries of at most 20 fit a byte
    VQ_UNROLL
    for (std::size_t i = 0; i < kUnitBytes; ++i) {
      const bool is_present = j + i < bytes;
      VQ_UNROLL
      for (int half = 0; half < 2; ++half) {
        const __m256i x = is_present ? load(block + (j + i) * kBlockRows + 32 * half) : zero;
        const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low4);
        sum[half] = _mm256_add_epi8(sum[half], entries(tables + i * 32, _mm256_and_si256(x, low4)));
        sum[half] = _mm256_add_epi8(sum[half], entries(tables + i * 32 + 16, high));
      }
    }
    wide[0].add(sum[0]);
    wide[1].add(sum[1]);
  }
  wide[0].write(sums);
  wide[1].write(sums + 32);
}

VQ_T void sign_blocks_u8u16(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,
                            const std::uint8_t* tables, std::size_t, std::uint16_t* sums) {
  for (std::size_t b = 0; b < blocks; ++b)
    block_sums(signs + b * bytes * kBlockRows, bytes, tables, sums + b * kBlockRows);
}

VQ_SIGN_BLOCKS_AS_TILE(VQ_T)

// ---- levels from packed rows

// A table of REGISTERS * 16 levels; at() looks up 32 of them. If `half_size` is not 0, the lower half has the levels of
// clear sign bits and the upper half those of set ones. A half has at least eight entries.
template <int REGISTERS>
struct Table {
  __m128i entries[REGISTERS];

  VQ_T VQ_INLINE Table(const std::int8_t* clear, std::size_t half_size) {
    if (REGISTERS == 1) {
      const __m128i set = load16(clear + half_size);
      entries[0] = half_size ? _mm_unpacklo_epi64(load16(clear), set) : set;
    } else {
      VQ_UNROLL
      for (int i = 0; i < REGISTERS; ++i) {
        const bool set = half_size && i >= REGISTERS / 2;
        entries[i] = load16(clear + (set ? half_size + 16 * (i - REGISTERS / 2) : 16 * static_cast<std::size_t>(i)));
      }
    }
  }
  // bit[i] has bit 4 + i of every index as the top bit of its byte.
  template <int COUNT>
  VQ_T VQ_INLINE __m256i among(int first, __m256i low4, const __m256i* bit) const {
    if constexpr (COUNT == 1) {
      return _mm256_shuffle_epi8(twice(entries[first]), low4);
    } else {
      constexpr int kHalf = COUNT / 2;
      constexpr int kBit = COUNT == 2 ? 0 : COUNT == 4 ? 1 : COUNT == 8 ? 2 : COUNT == 16 ? 3 : 4;
      return _mm256_blendv_epi8(among<kHalf>(first, low4, bit), among<kHalf>(first + kHalf, low4, bit), bit[kBit]);
    }
  }
  // `index` has the low eight bits of the indices; the top bit of each byte of `ninth` is their ninth bit.
  VQ_T VQ_INLINE __m256i at(__m256i index, __m256i ninth) const {
    const __m256i low4 = _mm256_and_si256(index, _mm256_set1_epi8(15));
    const __m256i bit[5] = {_mm256_slli_epi16(index, 3), _mm256_slli_epi16(index, 2), _mm256_slli_epi16(index, 1),
                            index, ninth};
    return among<REGISTERS>(0, low4, bit);
  }
};

// Calls use(t, levels) with 32 levels from t on; levels past the dimension are arbitrary. Each 128-bit half of a
// register takes 16 fields. Field i of these begins at bit i * step, and its window of at most 9 bits lies in the two
// bytes from there.
template <int REGISTERS, bool TRELLIS, typename Use>
VQ_T VQ_INLINE void each_32(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                            Use& use) {
  const Table<REGISTERS> table(f.repeated, f.tops == 1 ? repeated_size(f.window) : 0);
  const __m128i iota = _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i bytes[2], up[2];
  VQ_UNROLL
  for (int i = 0; i < 2; ++i) {
    const __m128i field = _mm_add_epi16(iota, _mm_set1_epi16(static_cast<short>(8 * i)));
    const __m128i begin = _mm_mullo_epi16(field, _mm_set1_epi16(static_cast<short>(f.step)));
    const __m128i byte = _mm_srli_epi16(begin, 3);
    bytes[i] = twice(_mm_add_epi16(_mm_mullo_epi16(byte, _mm_set1_epi16(257)), _mm_set1_epi16(256)));
    // AVX2 can't shift each 16-bit lane by its own amount, so lanes are multiplied by 2^(7 - bit), from a table.
    const __m128i powers = _mm_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i bit = _mm_or_si128(_mm_and_si128(begin, _mm_set1_epi16(7)), _mm_set1_epi16(0x0800));
    up[i] = twice(_mm_shuffle_epi8(powers, bit));
  }
  const __m256i mask = _mm256_set1_epi16(static_cast<short>((1 << f.window) - 1));
  // The place in an index of the newest top bit, then of earlier ones. A ninth bit has no place in a byte: it goes by
  // `ninth`.
  __m256i place[4];
  const int newest = TRELLIS ? f.window + f.tops - 1 : std::max(f.window, 3);
  VQ_UNROLL
  for (int i = 0; i < 4; ++i) place[i] = _mm256_set1_epi8(static_cast<char>(i < f.tops ? 1 << (newest - i) : 0));
  __m256i before = _mm256_setzero_si256();

  // No load goes past the end of the row: the last ones begin earlier, and their bytes are looked up further on.
  std::uint8_t spare[16] = {};
  if (row_bytes < 16) {
    std::memcpy(spare, row, row_bytes);
    row = spare;
    row_bytes = 16;
  }
  const std::size_t last = row_bytes - 16, group_bytes = 2 * static_cast<std::size_t>(f.step);
  std::size_t from = 0;
  for (std::size_t t = 0; t < f.dim; t += 32, from += 2 * group_bytes) {
    const std::size_t base = std::min(from, last), next = std::min(from + group_bytes, last);
    const __m256i word = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(row + base)), load16(row + next), 1);
    const __m256i ahead = _mm256_inserti128_si256(_mm256_set1_epi8(static_cast<char>(from - base)),
                                                  _mm_set1_epi8(static_cast<char>(from + group_bytes - next)), 1);
    __m256i window[2];
    VQ_UNROLL
    for (int i = 0; i < 2; ++i) {
      const __m256i two = _mm256_shuffle_epi8(word, _mm256_add_epi8(bytes[i], ahead));
      window[i] = _mm256_and_si256(_mm256_srli_epi16(_mm256_mullo_epi16(two, up[i]), 7), mask);
    }
    const __m256i low8 = _mm256_set1_epi16(255);
    __m256i index = _mm256_packus_epi16(_mm256_and_si256(window[0], low8), _mm256_and_si256(window[1], low8));
    __m256i ninth = _mm256_packs_epi16(_mm256_cmpgt_epi16(window[0], low8), _mm256_cmpgt_epi16(window[1], low8));
    if (f.tops) {
      __m256i top = sign_mask(signs + t / 8);
      if constexpr (TRELLIS) {
        const __m256i one = _mm256_set1_epi8(1);
        top = _mm256_xor_si256(top, _mm256_cmpeq_epi8(_mm256_and_si256(index, one), one));
        const __m256i link = _mm256_permute2x128_si256(before, top, 0x21);  // upper half before, lower half
        index = _mm256_or_si256(index, _mm256_and_si256(_mm256_alignr_epi8(top, link, 15), place[1]));
        index = _mm256_or_si256(index, _mm256_and_si256(_mm256_alignr_epi8(top, link, 14), place[2]));
        index = _mm256_or_si256(index, _mm256_and_si256(_mm256_alignr_epi8(top, link, 13), place[3]));
        before = top;
      }
      index = _mm256_or_si256(index, _mm256_and_si256(top, place[0]));
      ninth = top;
    }
    use(t, table.at(index, ninth));
  }
}

struct Store {
  std::int8_t* levels;
  VQ_T VQ_INLINE void operator()(std::size_t t, __m256i x) { store(levels + t, x); }
};

// Decodes by the kernel for the window's width; returns false if there is none for it.
template <typename Use>
VQ_T VQ_INLINE bool by_window(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                              const std::uint8_t* signs, Use& use) {
  if (f.tops > 1) {
    if (f.window + f.tops == 8) return each_32<16, true>(f, row, row_bytes, signs, use), true;
    if (f.window + f.tops == 9) return each_32<32, true>(f, row, row_bytes, signs, use), true;
    return false;
  }
  switch (f.tops ? std::max(f.window, 3) + 1 : std::max(f.window, 4)) {
    case 4:
      return each_32<1, false>(f, row, row_bytes, signs, use), true;
    case 5:
      return each_32<2, false>(f, row, row_bytes, signs, use), true;
    case 6:
      return each_32<4, false>(f, row, row_bytes, signs, use), true;
    case 7:
      return each_32<8, false>(f, row, row_bytes, signs, use), true;
    case 8:
      return each_32<16, false>(f, row, row_bytes, signs, use), true;
    case 9:
      return each_32<32, false>(f, row, row_bytes, signs, use), true;
    default:
      return false;
  }
}

VQ_T void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                    std::int8_t* levels) {
  Store to{levels};
  if (!by_window(f, row, row_bytes, signs, to)) return plain::decode_s8(f, row, row_bytes, signs, levels);
  std::memset(levels + f.dim, 0, padded(f.dim, 64) - f.dim);
}

VQ_T std::int64_t decode_dot_one(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                                 const std::uint8_t* signs, const std::int16_t* query, std::int8_t* levels) {
  Dot sum(query);
  if (by_window(f, row, row_bytes, signs, sum)) {
    sum.flush();
    return sum.total;
  }
  plain::decode_s8(f, row, row_bytes, signs, levels);
  return dot_s8s16(levels, query, padded(f.dim, 64));
}

// Whether the fields are half bytes: whole scalar codes of four bits.
VQ_INLINE bool has_nibbles(const Fields& f) { return f.step == 4 && f.window == 4 && f.tops == 0; }

// Returns 32 fields of four bits, a byte each. Reads at most `remaining` bytes.
VQ_T VQ_INLINE __m256i nibbles(const std::uint8_t* row, std::size_t remaining) {
  __m128i bytes;
  if (remaining >= 16) {
    bytes = load16(row);
  } else {
    std::uint8_t spare[16] = {};
    std::memcpy(spare, row, remaining);
    bytes = load16(spare);
  }
  const __m256i wide = _mm256_cvtepu8_epi16(bytes);
  return _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16(wide, 4)), _mm256_set1_epi8(15));
}

struct NarrowDot {
  const std::int8_t* query;
  __m256i sum;

  VQ_T VQ_INLINE explicit NarrowDot(const NarrowQuery& values) : query(values.values), sum(_mm256_setzero_si256()) {}
  VQ_T VQ_INLINE void operator()(std::size_t t, __m256i levels) { sum = add_narrow(sum, levels, load(query + t)); }
};

VQ_T void decode_dot_s8s8(const Fields& f, const std::uint8_t* const* records, std::size_t code_at,
                          std::size_t row_bytes, std::size_t count, const NarrowQuery& query, std::int8_t* levels,
                          std::int32_t* sums) {
  const __m256i table = twice(load16(f.repeated));
  for (std::size_t i = 0; i < count; ++i) {
    NarrowDot dot(query);
    const std::uint8_t* row = records[i] + code_at;
    if (has_nibbles(f)) {
      for (std::size_t at = 0; at < f.dim; at += 32)
        dot(at, _mm256_shuffle_epi8(table, nibbles(row + at / 2, row_bytes - at / 2)));
    } else if (!by_window(f, row, row_bytes, records[i], dot)) {
      plain::decode_s8(f, row, row_bytes, records[i], levels);
      sums[i] = dot_s8s8(levels, query.values, padded(f.dim, 64));
      continue;
    }
    sums[i] = sum_of_lanes(dot.sum);
  }
}

VQ_DECODE_DOTS(VQ_T)
VQ_PLAIN_COLLECT(VQ_T)
VQ_PLAIN_DOT_ROWS(VQ_T)

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
#endif
