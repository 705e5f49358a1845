// Kernels with AVX2: levels by vpmaddubsw, the sign plane by vpshufb, four coordinates an entry.
#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>

#include "kernels_plain.hpp"

#define VQ_T VQ_TARGET_AVX2

namespace vqindex {
namespace {

VQ_PLAIN_DECODE(VQ_T)
VQ_PLAIN_REDUCTIONS(VQ_T)
VQ_PLAIN_ROWS(VQ_T)
VQ_ROW_DOT(VQ_T)
VQ_PLAIN_SELECTION(VQ_T)

VQ_T VQ_INLINE __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
VQ_T VQ_INLINE void store(void* p, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(p), x); }

// 255 * 64 * 2 < 2^15: the pairs do not saturate.
VQ_T VQ_INLINE __m256i dot4(__m256i sum, __m256i levels, __m256i query) {
  const __m256i pairs = _mm256_maddubs_epi16(levels, query);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

VQ_T void arrange(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  plain::arrange(levels, stride, tile);
}

// Four rows, 32 coordinates at a time.
VQ_T VQ_INLINE __m128i sums_of_four(const std::uint8_t* const (&rows)[4], std::size_t stride,
                                    const std::int8_t* query) {
  __m256i sum[4];
  for (auto& s : sum) s = _mm256_setzero_si256();
  for (std::size_t at = 0; at < stride; at += 32) {
    const __m256i x = load(query + at);
    for (int i = 0; i < 4; ++i) sum[i] = dot4(sum[i], load(rows[i] + at), x);
  }
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

VQ_T void tile_sums(const std::uint8_t* tile, std::size_t stride, std::size_t, const std::int8_t* queries,
                    std::size_t count, std::int32_t* sums) {
  for (std::size_t r = 0; r < kTile; r += 4) {
    const std::uint8_t* row = tile + r * stride;
    const std::uint8_t* const rows[4] = {row, row + stride, row + 2 * stride, row + 3 * stride};
    for (std::size_t q = 0; q < count; ++q)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + q * kTile + r),
                       sums_of_four(rows, stride, queries + q * stride));
  }
}

VQ_T void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  plain::sign_tables(query, units, tables);
}

VQ_T VQ_INLINE __m256i entries(const std::uint8_t* table, __m256i index) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half), index);
}

// 32 rows: half a block.
VQ_T VQ_INLINE void half_block(const std::uint8_t* plane, std::size_t bytes, const std::uint8_t* tables,
                               std::uint16_t* sums) {
  const __m256i low4 = _mm256_set1_epi8(15);
  __m256i low = _mm256_setzero_si256(), high = low;  // even bytes + 256 * odd ones modulo 2^16; odd bytes
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, tables += kUnitTable) {
    __m256i sum = _mm256_setzero_si256();  // six entries of at most 40 fit a byte
    for (std::size_t i = 0; i < kUnitBytes; ++i) {
      const __m256i x = j + i < bytes ? load(plane + (j + i) * kBlock) : _mm256_setzero_si256();
      sum = _mm256_add_epi8(sum, entries(tables + i * 32, _mm256_and_si256(x, low4)));
      sum = _mm256_add_epi8(sum, entries(tables + i * 32 + 16, _mm256_and_si256(_mm256_srli_epi16(x, 4), low4)));
    }
    low = _mm256_add_epi16(low, sum);
    high = _mm256_add_epi16(high, _mm256_srli_epi16(sum, 8));
  }
  const __m256i even = _mm256_sub_epi16(low, _mm256_slli_epi16(high, 8));
  const __m256i a = _mm256_unpacklo_epi16(even, high), b = _mm256_unpackhi_epi16(even, high);
  store(sums, _mm256_permute2x128_si256(a, b, 0x20));
  store(sums + 16, _mm256_permute2x128_si256(a, b, 0x31));
}

VQ_T void sign_plane(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables,
                     std::uint16_t* sums) {
  for (std::size_t b = 0; b < blocks; ++b, plane += bytes * kBlock, sums += kBlock) {
    half_block(plane, bytes, tables, sums);
    half_block(plane + 32, bytes, tables, sums + 32);
  }
}

VQ_PLANE_AS_TILE(VQ_T)

}  // namespace

const Kernels& avx2_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
#endif
