// Kernels as plain loops. Each is inlined into one function per instruction set, and the compiler vectorizes it there.
#pragma once

#include <algorithm>
#include <cstring>

#include "isa.hpp"
#include "kernels.hpp"

#ifdef VQ_X86
#include <emmintrin.h>
#endif

namespace vqindex::plain {

// Returns the eight bytes from `at` on, or as many as the row has.
VQ_INLINE std::uint64_t word_at(const std::uint8_t* row, std::size_t at, std::size_t row_bytes) {
  std::uint64_t word = 0;
  if (at + 8 <= row_bytes) {
    for (int i = 0; i < 8; ++i) word |= std::uint64_t{row[at + i]} << (8 * i);
  } else {
    for (std::size_t i = 0; at + i < row_bytes; ++i) word |= std::uint64_t{row[at + i]} << (8 * i);
  }
  return word;
}

VQ_INLINE void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                         std::int8_t* levels) {
  const std::size_t end = padded(f.dim, 64);
  const std::uint32_t mask = (1u << f.window) - 1, top_mask = (1u << f.tops) - 1;
  std::uint32_t tops = 0;  // top bits: those of earlier windows in the low bits, those of the next eight above them
  // Eight fields take `step` whole bytes. Their windows all lie in the eight bytes that begin there.
  for (std::size_t t = 0; t < f.dim; t += 8) {
    const std::uint64_t word = word_at(row, t / 8 * f.step, row_bytes);
    if (f.tops) {
      std::uint32_t flips = 0;
      for (int i = 0; f.tops > 1 && i < 8; ++i) flips |= static_cast<std::uint32_t>(word >> (i * f.step) & 1) << i;
      tops = tops >> 8 | (signs[t / 8] ^ flips) << (f.tops - 1);
    }
    for (int i = 0; i < 8; ++i)
      levels[t + i] =
          f.table[(static_cast<std::uint32_t>(word >> (i * f.step)) & mask) | (tops >> i & top_mask) << f.window];
  }
  std::memset(levels + f.dim, 0, end - f.dim);
}

// 512 * 32767 * 127 < 2^31: the sum of so many products fits an int32.
constexpr std::size_t kExact = 512;

template <typename Level>
VQ_INLINE std::int64_t dot_s8s16(const Level* levels, const std::int16_t* query, std::size_t dim) {
  std::int64_t total = 0;
  for (std::size_t begin = 0; begin < dim; begin += kExact) {
    const std::size_t stop = std::min(dim, begin + kExact);
    std::int32_t sum = 0;
    for (std::size_t i = begin; i < stop; ++i) sum += std::int16_t{levels[i]} * query[i];
    total += sum;
  }
  return total;
}

VQ_INLINE std::int64_t square_s8(const std::int8_t* levels, std::size_t dim) {
  std::int32_t sum = 0;  // at most 2^14 squares of at most 2^14
  for (std::size_t i = 0; i < dim; ++i) sum += std::int16_t{levels[i]} * std::int16_t{levels[i]};
  return sum;
}

VQ_INLINE std::int32_t dot_u8s8(const std::int8_t* row, const std::int8_t* query, std::size_t stride) {
  std::int32_t sum = 0;
  for (std::size_t j = 0; j < stride; ++j) sum += (std::int16_t{row[j]} + 128) * std::int16_t{query[j]};
  return sum;
}

VQ_INLINE std::int32_t dot_s8s8(const std::int8_t* row, const std::int8_t* query, std::size_t stride) {
  std::int32_t sum = 0;  // at most 2^14 products of at most 2^14
  for (std::size_t j = 0; j < stride; ++j) sum += std::int16_t{row[j]} * std::int16_t{query[j]};
  return sum;
}

VQ_INLINE std::size_t dot_rows_s8s8(const std::int8_t* levels, std::size_t stride, const Candidates& candidates,
                                    const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* survivors,
                                    std::int32_t* sums) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < candidates.count; ++i) {
    const std::size_t q = candidates.queries[i];
    sums[found] = dot_u8s8(levels + candidates.places[i] * stride, queries + q * stride, stride);
    survivors[found] = static_cast<std::uint32_t>(i);
    found += sums[found] > limits[q];
  }
  return found;
}

VQ_INLINE void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  for (std::size_t i = 0; i < kDotTileRows * stride; ++i) tile[i] = static_cast<std::uint8_t>(levels[i] + 128);
}

VQ_INLINE void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                             std::size_t count, std::int32_t* sums) {
  for (std::size_t q = 0; q < count; ++q)
    for (std::size_t r = 0; r < kDotTileRows; ++r) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < dim; ++i)
        sum += std::int16_t{tile[r * stride + i]} * std::int16_t{queries[q * stride + i]};
      sums[q * kDotTileRows + r] = sum;
    }
}

// Copies the sign bits of one row out of a block. It stores whole 64-bit words, because callers load whole words: a
// load that spans several smaller stores waits until those have left the store queue.
VQ_INLINE void sign_row(const std::uint8_t* block, std::size_t bytes, std::size_t r, std::uint8_t* row) {
  for (std::size_t j = 0; j < bytes; j += 8) {
    std::uint64_t word = 0;
    const auto add = [&](std::size_t i) { word |= std::uint64_t{block[(j + i) * kBlockRows + r]} << (8 * i); };
    if (j + 8 <= bytes)
      for (std::size_t i = 0; i < 8; ++i) add(i);
    else
      for (std::size_t i = 0; j + i < bytes; ++i) add(i);
    std::memcpy(row + j, &word, 8);
  }
}

// Copies the sign bits of all rows of a block: transposes bytes, 16 rows of eight bytes at a time.
VQ_INLINE void all_sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint8_t* rows, std::size_t stride) {
  std::size_t j = 0;
#ifdef VQ_X86
  for (; j + 8 <= bytes; j += 8)
    for (std::size_t r = 0; r < kBlockRows; r += 16) {
      __m128i a[8], b[8];
      for (std::size_t i = 0; i < 8; ++i)
        a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + (j + i) * kBlockRows + r));
      for (int i = 0; i < 4; ++i) {
        b[2 * i] = _mm_unpacklo_epi8(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi8(a[2 * i], a[2 * i + 1]);
      }
      for (int half = 0; half < 2; ++half) {  // bytes 0..3, 4..7 of rows 0..7 and 8..15
        a[4 * half] = _mm_unpacklo_epi16(b[4 * half], b[4 * half + 2]);
        a[4 * half + 1] = _mm_unpackhi_epi16(b[4 * half], b[4 * half + 2]);
        a[4 * half + 2] = _mm_unpacklo_epi16(b[4 * half + 1], b[4 * half + 3]);
        a[4 * half + 3] = _mm_unpackhi_epi16(b[4 * half + 1], b[4 * half + 3]);
      }
      for (std::size_t i = 0; i < 4; ++i) {
        const __m128i low = _mm_unpacklo_epi32(a[i], a[i + 4]), high = _mm_unpackhi_epi32(a[i], a[i + 4]);
        std::uint8_t* out = rows + (r + 4 * i) * stride + j;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out), low);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + stride), _mm_unpackhi_epi64(low, low));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 2 * stride), high);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 3 * stride), _mm_unpackhi_epi64(high, high));
      }
    }
#endif
  for (; j < bytes; ++j)
    for (std::size_t r = 0; r < kBlockRows; ++r) rows[r * stride + j] = block[j * kBlockRows + r];
}

VQ_INLINE void sign_rows_u8(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows,
                            std::size_t stride) {
  if (!~mask) return all_sign_rows(block, bytes, rows, stride);
  for (; mask; mask &= mask - 1, rows += stride) sign_row(block, bytes, lowest_bit(mask), rows);
}

VQ_INLINE std::uint64_t bits_of(const std::uint8_t (&flags)[kBlockRows]) {
  std::uint64_t bits = 0;
  for (std::size_t r = 0; r < kBlockRows; ++r) bits |= std::uint64_t{flags[r]} << r;
  return bits;
}

VQ_INLINE std::uint64_t mask_upper_bound_gt(const std::int32_t* sums, const UpperBoundTest& test, const float* weight,
                                            const float* error, const float* norm2) {
  std::uint8_t flags[kBlockRows];
  for (std::size_t r = 0; r < kBlockRows; ++r) {
    const float upper = weight[r] * static_cast<float>(sums[r] - test.offset) + test.slack * error[r];
    flags[r] = test.gain * upper > test.threshold + test.norm2_weight * norm2[r];
  }
  return bits_of(flags);
}

// One table for each half of a byte of sign bits: 16 entries of four coordinates.
VQ_INLINE void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  for (std::size_t u = 0; u < units; ++u)
    for (std::size_t g = 0; g < 6; ++g)
      for (unsigned i = 0; i < 16; ++i) {
        int sum = 0;
        for (unsigned j = 0; j < 4; ++j) {
          const int x = query[u * 24 + g * 4 + j];
          sum += std::max(0, (i >> j & 1) ? x : -x);
        }
        tables[u * kUnitTable + g * 16 + i] = static_cast<std::uint8_t>(sum);
      }
}

VQ_INLINE void add_signs(const std::uint8_t* rows, const std::uint8_t* low, const std::uint8_t* high,
                         std::uint16_t* sums) {
  for (std::size_t r = 0; r < kBlockRows; ++r)
    sums[r] = static_cast<std::uint16_t>(sums[r] + low[rows[r] & 15] + high[rows[r] >> 4]);
}

VQ_INLINE void sign_blocks_u8u16(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,
                                 const std::uint8_t* tables, std::uint16_t* sums) {
  const std::size_t all = padded(bytes, kUnitBytes);
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint16_t* out = sums + b * kBlockRows;
    std::fill(out, out + kBlockRows, std::uint16_t{0});
    for (std::size_t j = 0; j < all; ++j) {
      const std::uint8_t* low = tables + j / kUnitBytes * kUnitTable + j % kUnitBytes * 32;
      if (j < bytes)
        add_signs(signs + (b * bytes + j) * kBlockRows, low, low + 16, out);
      else
        for (std::size_t r = 0; r < kBlockRows; ++r) out[r] = static_cast<std::uint16_t>(out[r] + low[0] + low[16]);
    }
  }
}

VQ_INLINE std::int32_t dot_signs_s8(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
  std::int32_t sum = 0;
  for (std::size_t j = 0; j < stride / 8; ++j)
    for (std::size_t i = 0; i < 8; ++i) {
      const std::int32_t x = query[8 * j + i];
      sum += (signs[j] >> i & 1) ? x : -x;
    }
  return sum;
}

VQ_INLINE bool mask_gt_u16(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold,
                           std::uint64_t* hits) {
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint8_t flags[kBlockRows];
    for (std::size_t r = 0; r < kBlockRows; ++r) flags[r] = sums[b * kBlockRows + r] > threshold;
    any |= hits[b] = bits_of(flags);
  }
  return any != 0;
}

VQ_INLINE std::uint64_t mask_sign_bound_gt(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms,
                                           float threshold) {
  std::uint8_t flags[kBlockRows];
  for (std::size_t r = 0; r < kBlockRows; ++r)
    flags[r] = sign_bound_from_agreement(sums[r], terms, norms[r]) > threshold;
  return bits_of(flags);
}

VQ_INLINE void block_max_u16(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* selected,
                             std::uint16_t* largest) {
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
    std::uint16_t best = 0;
    if (!~selected[b])
      for (std::size_t r = 0; r < kBlockRows; ++r) best = std::max(best, sums[r]);
    else
      for (std::uint64_t rows = selected[b]; rows; rows &= rows - 1) best = std::max(best, sums[lowest_bit(rows)]);
    largest[b] = best;
  }
}

// `mask_gt` is the kernel mask_gt_u16 of the including file.
template <typename MaskGt>
VQ_INLINE std::size_t collect_ge_u16(const std::uint16_t* sums, std::size_t blocks,
                                     const std::uint16_t* integer_thresholds, std::size_t count,
                                     const std::uint64_t* selected, std::size_t first, std::uint64_t* mask,
                                     std::uint8_t* places, std::uint16_t* queries, std::size_t* counts,
                                     const MaskGt& mask_gt) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t before = found;
    for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
      std::uint64_t hits = ~std::uint64_t{0};
      if (integer_thresholds[i]) mask_gt(sums, 1, static_cast<std::uint16_t>(integer_thresholds[i] - 1), &hits);
      hits &= selected[b];
      mask[b] |= hits;
      for (; hits; hits &= hits - 1) {
        places[found] = static_cast<std::uint8_t>(b * kBlockRows + lowest_bit(hits));
        queries[found++] = static_cast<std::uint16_t>(first + i);
      }
    }
    counts[i] += found - before;
  }
  return found;
}

}  // namespace vqindex::plain

// Each macro defines some kernels of `plain` for one target, in the namespace of the including file. A kernel file uses
// the macros for those kernels that it has no faster version of.
#define VQ_PLAIN_DECODE(TARGET)                                                                                     \
  TARGET void decode_s8(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs, \
                        std::int8_t* levels) {                                                                      \
    plain::decode_s8(f, row, row_bytes, signs, levels);                                                             \
  }
// These two call the kernels `decode_s8` and `dot_s8s16` of the including file.
#define VQ_DECODE_DOT_ONE(TARGET)                                                                                 \
  TARGET std::int64_t decode_dot_one(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,             \
                                     const std::uint8_t* signs, const std::int16_t* query, std::int8_t* levels) { \
    decode_s8(f, row, row_bytes, signs, levels);                                                                  \
    return dot_s8s16(levels, query, padded(f.dim, 64));                                                           \
  }
#define VQ_DECODE_DOTS(TARGET)                                                                             \
  TARGET void decode_dot_s8s16(const Fields& f, const std::uint8_t* const* rows, std::size_t row_bytes,    \
                               const std::uint8_t* signs, std::size_t count, const std::int16_t* query,    \
                               std::int8_t* levels, std::int64_t* sums) {                                  \
    for (std::size_t i = 0; i < count; ++i)                                                                \
      sums[i] = decode_dot_one(f, rows[i], row_bytes, signs + i * (padded(f.dim, 64) / 8), query, levels); \
  }
// These call the kernel `decode_s8` of the including file, and its function `dot_s8s8` of one row.
#define VQ_DECODE_DOTS_NARROW(TARGET)                                                                                  \
  TARGET void decode_dot_s8s8(const Fields& f, const std::uint8_t* const* records, std::size_t code_at,                \
                              std::size_t row_bytes, std::size_t count, const NarrowQuery& query, std::int8_t* levels, \
                              std::int32_t* sums) {                                                                    \
    for (std::size_t i = 0; i < count; ++i) {                                                                          \
      decode_s8(f, records[i] + code_at, row_bytes, records[i], levels);                                               \
      sums[i] = dot_s8s8(levels, query.values, padded(f.dim, 64));                                                     \
    }                                                                                                                  \
  }
#define VQ_DOT_MANY(TARGET)                                                                        \
  TARGET void dot_many_s8s8(const std::int8_t* const* rows, std::size_t stride, std::size_t count, \
                            const NarrowQuery& query, std::int32_t* sums) {                        \
    for (std::size_t i = 0; i < count; ++i) sums[i] = dot_s8s8(rows[i], query.values, stride);     \
  }
#define VQ_PLAIN_REDUCTIONS(TARGET)                                                                      \
  TARGET std::int64_t dot_s8s16(const std::int8_t* levels, const std::int16_t* query, std::size_t dim) { \
    return plain::dot_s8s16(levels, query, dim);                                                         \
  }                                                                                                      \
  TARGET std::int64_t square_s8(const std::int8_t* levels, std::size_t dim) { return plain::square_s8(levels, dim); }
#define VQ_PLAIN_DOT_ROWS(TARGET)                                                                                    \
  TARGET std::size_t dot_rows_s8s8(const std::int8_t* levels, std::size_t stride, const Candidates& candidates,      \
                                   const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* survivors, \
                                   std::int32_t* sums) {                                                             \
    return plain::dot_rows_s8s8(levels, stride, candidates, queries, limits, survivors, sums);                       \
  }
#define VQ_PLAIN_TILES(TARGET)                                                                                         \
  TARGET void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {                     \
    plain::arrange_tile_s8(levels, stride, tile);                                                                      \
  }                                                                                                                    \
  TARGET void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries, \
                            std::size_t count, std::int32_t* sums) {                                                   \
    plain::dot_tile_s8s8(tile, stride, dim, queries, count, sums);                                                     \
  }
#define VQ_PLAIN_SELECTION(TARGET)                                                                                    \
  TARGET std::uint64_t mask_upper_bound_gt(const std::int32_t* sums, const UpperBoundTest& test, const float* weight, \
                                           const float* error, const float* norm2) {                                  \
    return plain::mask_upper_bound_gt(sums, test, weight, error, norm2);                                              \
  }                                                                                                                   \
  TARGET std::int32_t dot_signs_s8(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {         \
    return plain::dot_signs_s8(signs, query, stride);                                                                 \
  }                                                                                                                   \
  TARGET bool mask_gt_u16(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold,                     \
                          std::uint64_t* hits) {                                                                      \
    return plain::mask_gt_u16(sums, blocks, threshold, hits);                                                         \
  }                                                                                                                   \
  TARGET std::uint64_t mask_sign_bound_gt(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms, \
                                          float threshold) {                                                          \
    return plain::mask_sign_bound_gt(sums, terms, norms, threshold);                                                  \
  }
#define VQ_PLAIN_BLOCK_MAX(TARGET)                                                                        \
  TARGET void block_max_u16(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* selected, \
                            std::uint16_t* largest) {                                                     \
    plain::block_max_u16(sums, blocks, selected, largest);                                                \
  }
#define VQ_PLAIN_ROWS(TARGET)                                                                                    \
  TARGET void sign_rows_u8(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows, \
                           std::size_t stride) {                                                                 \
    plain::sign_rows_u8(block, bytes, mask, rows, stride);                                                       \
  }
#define VQ_PLAIN_SIGNS(TARGET)                                                                      \
  TARGET void sign_tables_s8u8(const std::int8_t* query, std::size_t units, std::uint8_t* tables) { \
    plain::sign_tables_s8u8(query, units, tables);                                                  \
  }                                                                                                 \
  TARGET void sign_blocks_u8u16(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,   \
                                const std::uint8_t* tables, std::size_t, std::uint16_t* sums) {     \
    plain::sign_blocks_u8u16(signs, bytes, blocks, tables, sums);                                   \
  }
// Look-ups by half bytes gain nothing from precomputed indices. sign_expand_u8 copies the sign bits, padded to whole
// units, and sign_tile_u8u16 reads them like sign_blocks_u8u16.
#define VQ_SIGN_BLOCKS_AS_TILE(TARGET)                                                                                \
  TARGET void sign_expand_u8(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks, std::uint8_t* index) { \
    const std::size_t whole = padded(bytes, kUnitBytes);                                                              \
    for (std::size_t b = 0; b < blocks; ++b) {                                                                        \
      std::memcpy(index + b * whole * kBlockRows, signs + b * bytes * kBlockRows, bytes * kBlockRows);                \
      std::memset(index + (b * whole + bytes) * kBlockRows, 0, (whole - bytes) * kBlockRows);                         \
    }                                                                                                                 \
  }                                                                                                                   \
  TARGET void sign_tile_u8u16(const std::uint8_t* index, const std::uint8_t* tables, const SignCall& call,            \
                              std::uint16_t* sums) {                                                                  \
    for (std::size_t q = 0; q < call.queries; ++q, tables += call.table_stride, sums += call.blocks * kBlockRows)     \
      sign_blocks_u8u16(index, call.units * kUnitBytes, call.blocks, tables, call.units_per_byte_sum, sums);          \
  }                                                                                                                   \
  constexpr std::size_t kCallUnits = kSignDim; /* more than there are: one call does all */                           \
  constexpr std::size_t kFewQueries = 24;      /* measured with AVX2 (docs/scan.md) */
// Calls the kernel mask_gt_u16 of the including file.
#define VQ_PLAIN_COLLECT(TARGET)                                                                                  \
  TARGET std::size_t collect_ge_u16(const std::uint16_t* sums, std::size_t blocks,                                \
                                    const std::uint16_t* integer_thresholds, std::size_t count,                   \
                                    const std::uint64_t* selected, std::size_t first, std::uint64_t* mask,        \
                                    std::uint8_t* places, std::uint16_t* queries, std::size_t* counts) {          \
    return plain::collect_ge_u16(sums, blocks, integer_thresholds, count, selected, first, mask, places, queries, \
                                 counts, mask_gt_u16);                                                            \
  }
#define VQ_TABLE_OF_KERNELS                                                                                  \
  {kCallUnits,       kFewQueries,    decode_s8,       decode_dot_s8s16,  dot_s8s16,     dot_rows_s8s8,       \
   decode_dot_s8s8,  dot_many_s8s8,  square_s8,       arrange_tile_s8,   dot_tile_s8s8, mask_upper_bound_gt, \
   sign_tables_s8u8, sign_expand_u8, sign_tile_u8u16, sign_blocks_u8u16, dot_signs_s8,  sign_rows_u8,        \
   mask_gt_u16,      block_max_u16,  collect_ge_u16,  mask_sign_bound_gt}
