// Kernels as plain loops, inlined into a function per instruction set and widened there by the compiler.
#pragma once

#include <algorithm>
#include <cstring>

#include "isa.hpp"
#include "kernels.hpp"

#ifdef VQ_X86
#include <emmintrin.h>
#endif

namespace vqindex::plain {

// Eight bytes from `at` on, or as many as the row has.
VQ_INLINE std::uint64_t word_at(const std::uint8_t* row, std::size_t at, std::size_t row_bytes) {
  std::uint64_t word = 0;
  if (at + 8 <= row_bytes) {
    for (int i = 0; i < 8; ++i) word |= std::uint64_t{row[at + i]} << (8 * i);
  } else {
    for (std::size_t i = 0; at + i < row_bytes; ++i) word |= std::uint64_t{row[at + i]} << (8 * i);
  }
  return word;
}

VQ_INLINE void decode(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                      std::int8_t* levels) {
  const std::size_t end = padded(f.dim, 64);
  const std::uint32_t mask = (1u << f.window) - 1, top_mask = (1u << f.tops) - 1;
  std::uint32_t tops = 0;  // those of the last windows, and of the next eight above them
  // Eight fields are `step` whole bytes, and their windows lie in the word that begins with them.
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

// 512 * 32767 * 127 < 2^31: so many products fit an int32 in any lane.
constexpr std::size_t kExact = 512;

template <typename Level>
VQ_INLINE std::int64_t dot(const Level* levels, const std::int16_t* query, std::size_t dim) {
  std::int64_t total = 0;
  for (std::size_t begin = 0; begin < dim; begin += kExact) {
    const std::size_t stop = std::min(dim, begin + kExact);
    std::int32_t sum = 0;
    for (std::size_t i = begin; i < stop; ++i) sum += std::int16_t{levels[i]} * query[i];
    total += sum;
  }
  return total;
}

VQ_INLINE std::int64_t square(const std::int8_t* levels, std::size_t dim) {
  std::int32_t sum = 0;  // 2^14 coordinates of at most 2^14
  for (std::size_t i = 0; i < dim; ++i) sum += std::int16_t{levels[i]} * std::int16_t{levels[i]};
  return sum;
}

VQ_INLINE std::int32_t raised_sum(const std::int8_t* row, const std::int8_t* query, std::size_t stride) {
  std::int32_t sum = 0;
  for (std::size_t j = 0; j < stride; ++j) sum += (std::int16_t{row[j]} + 128) * std::int16_t{query[j]};
  return sum;
}

VQ_INLINE std::size_t row_sums(const std::int8_t* levels, std::size_t stride, const Catch& rows,
                               const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* passing,
                               std::int32_t* sums) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < rows.count; ++i) {
    const std::size_t q = rows.queries[i];
    sums[found] = raised_sum(levels + rows.places[i] * stride, queries + q * stride, stride);
    passing[found] = static_cast<std::uint32_t>(i);
    found += sums[found] > limits[q];
  }
  return found;
}

VQ_INLINE void arrange(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  for (std::size_t i = 0; i < kTile * stride; ++i) tile[i] = static_cast<std::uint8_t>(levels[i] + 128);
}

VQ_INLINE void tile_sums(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                         std::size_t count, std::int32_t* sums) {
  for (std::size_t q = 0; q < count; ++q)
    for (std::size_t r = 0; r < kTile; ++r) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < dim; ++i)
        sum += std::int16_t{tile[r * stride + i]} * std::int16_t{queries[q * stride + i]};
      sums[q * kTile + r] = sum;
    }
}

// The sign bits of one row of a block. They are stored by the words that they are read by: a read of several stores
// waits until those have left the processor's queue.
VQ_INLINE void sign_row(const std::uint8_t* block, std::size_t bytes, std::size_t r, std::uint8_t* row) {
  for (std::size_t j = 0; j < bytes; j += 8) {
    std::uint64_t word = 0;
    const auto add = [&](std::size_t i) { word |= std::uint64_t{block[(j + i) * kBlock + r]} << (8 * i); };
    if (j + 8 <= bytes)
      for (std::size_t i = 0; i < 8; ++i) add(i);
    else
      for (std::size_t i = 0; j + i < bytes; ++i) add(i);
    std::memcpy(row + j, &word, 8);
  }
}

// All rows of a block: a transposition of bytes, 16 rows of eight bytes at a time.
VQ_INLINE void all_sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint8_t* rows, std::size_t stride) {
  std::size_t j = 0;
#ifdef VQ_X86
  for (; j + 8 <= bytes; j += 8)
    for (std::size_t r = 0; r < kBlock; r += 16) {
      __m128i a[8], b[8];
      for (std::size_t i = 0; i < 8; ++i)
        a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + (j + i) * kBlock + r));
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
    for (std::size_t r = 0; r < kBlock; ++r) rows[r * stride + j] = block[j * kBlock + r];
}

VQ_INLINE void sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint64_t wanted, std::uint8_t* rows,
                         std::size_t stride) {
  if (!~wanted) return all_sign_rows(block, bytes, rows, stride);
  for (; wanted; wanted &= wanted - 1, rows += stride) sign_row(block, bytes, lowest_bit(wanted), rows);
}

VQ_INLINE std::uint64_t bits_of(const std::uint8_t (&flags)[kBlock]) {
  std::uint64_t bits = 0;
  for (std::size_t r = 0; r < kBlock; ++r) bits |= std::uint64_t{flags[r]} << r;
  return bits;
}

VQ_INLINE std::uint64_t passing(const std::int32_t* sums, const Test& test, const float* weight, const float* error,
                                const float* size) {
  std::uint8_t flags[kBlock];
  for (std::size_t r = 0; r < kBlock; ++r) {
    const float upper = weight[r] * static_cast<float>(sums[r] - test.offset) + test.slack * error[r];
    flags[r] = test.gain * upper > test.bar + test.lean * size[r];
  }
  return bits_of(flags);
}

// Half a byte of the sign plane at a time: 16 entries of four coordinates.
VQ_INLINE void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
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
  for (std::size_t r = 0; r < kBlock; ++r)
    sums[r] = static_cast<std::uint16_t>(sums[r] + low[rows[r] & 15] + high[rows[r] >> 4]);
}

VQ_INLINE void sign_plane(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables,
                          std::uint16_t* sums) {
  const std::size_t all = padded(bytes, kUnitBytes);
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint16_t* out = sums + b * kBlock;
    std::fill(out, out + kBlock, std::uint16_t{0});
    for (std::size_t j = 0; j < all; ++j) {
      const std::uint8_t* low = tables + j / kUnitBytes * kUnitTable + j % kUnitBytes * 32;
      if (j < bytes)
        add_signs(plane + (b * bytes + j) * kBlock, low, low + 16, out);
      else
        for (std::size_t r = 0; r < kBlock; ++r) out[r] = static_cast<std::uint16_t>(out[r] + low[0] + low[16]);
    }
  }
}

VQ_INLINE std::int32_t sign_sum(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
  std::int32_t sum = 0;
  for (std::size_t j = 0; j < stride / 8; ++j)
    for (std::size_t i = 0; i < 8; ++i) {
      const std::int32_t x = query[8 * j + i];
      sum += (signs[j] >> i & 1) ? x : -x;
    }
  return sum;
}

VQ_INLINE bool above(const std::uint16_t* sums, std::size_t blocks, std::uint16_t bar, std::uint64_t* hits) {
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b) {
    std::uint8_t flags[kBlock];
    for (std::size_t r = 0; r < kBlock; ++r) flags[r] = sums[b * kBlock + r] > bar;
    any |= hits[b] = bits_of(flags);
  }
  return any != 0;
}

VQ_INLINE std::uint64_t bounded(const std::uint16_t* sums, const Bound& bound, const float* size, float bar) {
  std::uint8_t flags[kBlock];
  for (std::size_t r = 0; r < kBlock; ++r) flags[r] = bound_of_agreement(sums[r], bound, size[r]) > bar;
  return bits_of(flags);
}

VQ_INLINE void most(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* allowed,
                    std::uint16_t* largest) {
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlock) {
    std::uint16_t best = 0;
    if (!~allowed[b])
      for (std::size_t r = 0; r < kBlock; ++r) best = std::max(best, sums[r]);
    else
      for (std::uint64_t rows = allowed[b]; rows; rows &= rows - 1) best = std::max(best, sums[lowest_bit(rows)]);
    largest[b] = best;
  }
}

// above(sums, 1, bar, &hits) is the kernel of that name.
template <typename Above>
VQ_INLINE std::size_t collect(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* floors,
                              std::size_t count, const std::uint64_t* allowed, std::size_t first, std::uint64_t* wanted,
                              std::uint8_t* places, std::uint16_t* queries, std::size_t* counts, const Above& above) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t before = found;
    for (std::size_t b = 0; b < blocks; ++b, sums += kBlock) {
      std::uint64_t hits = ~std::uint64_t{0};
      if (floors[i]) above(sums, 1, static_cast<std::uint16_t>(floors[i] - 1), &hits);
      hits &= allowed[b];
      wanted[b] |= hits;
      for (; hits; hits &= hits - 1) {
        places[found] = static_cast<std::uint8_t>(b * kBlock + lowest_bit(hits));
        queries[found++] = static_cast<std::uint16_t>(first + i);
      }
    }
    counts[i] += found - before;
  }
  return found;
}

}  // namespace vqindex::plain

// Defines every kernel of `plain` for a target, in a namespace of its own, and leaves out those the file has better.
#define VQ_PLAIN_DECODE(TARGET)                                                                                  \
  TARGET void decode(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs, \
                     std::int8_t* levels) {                                                                      \
    plain::decode(f, row, row_bytes, signs, levels);                                                             \
  }
// Of kernels that the file has already.
#define VQ_ROW_DOT(TARGET)                                                                                 \
  TARGET std::int64_t row_dot(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,             \
                              const std::uint8_t* signs, const std::int16_t* query, std::int8_t* levels) { \
    decode(f, row, row_bytes, signs, levels);                                                              \
    return dot(levels, query, padded(f.dim, 64));                                                          \
  }
#define VQ_ROW_DOTS(TARGET)                                                                                          \
  TARGET void row_dots(const Fields& f, const std::uint8_t* const* rows, std::size_t row_bytes,                      \
                       const std::uint8_t* signs, std::size_t count, const std::int16_t* query, std::int8_t* levels, \
                       std::int64_t* sums) {                                                                         \
    for (std::size_t i = 0; i < count; ++i)                                                                          \
      sums[i] = row_dot(f, rows[i], row_bytes, signs + i * (padded(f.dim, 64) / 8), query, levels);                  \
  }
#define VQ_PLAIN_REDUCTIONS(TARGET)                                                                \
  TARGET std::int64_t dot(const std::int8_t* levels, const std::int16_t* query, std::size_t dim) { \
    return plain::dot(levels, query, dim);                                                         \
  }                                                                                                \
  TARGET std::int64_t square(const std::int8_t* levels, std::size_t dim) { return plain::square(levels, dim); }
#define VQ_PLAIN_ROW_SUMS(TARGET)                                                                             \
  TARGET std::size_t row_sums(const std::int8_t* levels, std::size_t stride, const Catch& rows,               \
                              const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* passing, \
                              std::int32_t* sums) {                                                           \
    return plain::row_sums(levels, stride, rows, queries, limits, passing, sums);                             \
  }
#define VQ_PLAIN_TILES(TARGET)                                                                                     \
  TARGET void arrange(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {                         \
    plain::arrange(levels, stride, tile);                                                                          \
  }                                                                                                                \
  TARGET void tile_sums(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries, \
                        std::size_t count, std::int32_t* sums) {                                                   \
    plain::tile_sums(tile, stride, dim, queries, count, sums);                                                     \
  }
#define VQ_PLAIN_SELECTION(TARGET)                                                                                  \
  TARGET std::uint64_t passing(const std::int32_t* sums, const Test& test, const float* weight, const float* error, \
                               const float* size) {                                                                 \
    return plain::passing(sums, test, weight, error, size);                                                         \
  }                                                                                                                 \
  TARGET std::int32_t sign_sum(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {           \
    return plain::sign_sum(signs, query, stride);                                                                   \
  }                                                                                                                 \
  TARGET bool above(const std::uint16_t* sums, std::size_t blocks, std::uint16_t bar, std::uint64_t* hits) {        \
    return plain::above(sums, blocks, bar, hits);                                                                   \
  }                                                                                                                 \
  TARGET std::uint64_t bounded(const std::uint16_t* sums, const Bound& bound, const float* size, float bar) {       \
    return plain::bounded(sums, bound, size, bar);                                                                  \
  }
#define VQ_PLAIN_MOST(TARGET)                                                                   \
  TARGET void most(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* allowed, \
                   std::uint16_t* largest) {                                                    \
    plain::most(sums, blocks, allowed, largest);                                                \
  }
#define VQ_PLAIN_ROWS(TARGET)                                                                                   \
  TARGET void sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint64_t wanted, std::uint8_t* rows, \
                        std::size_t stride) {                                                                   \
    plain::sign_rows(block, bytes, wanted, rows, stride);                                                       \
  }
#define VQ_PLAIN_SIGNS(TARGET)                                                                                         \
  TARGET void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {                         \
    plain::sign_tables(query, units, tables);                                                                          \
  }                                                                                                                    \
  TARGET void sign_plane(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables, \
                         std::size_t, std::uint16_t* sums) {                                                           \
    plain::sign_plane(plane, bytes, blocks, tables, sums);                                                             \
  }
// Half-byte look-ups gain nothing from indices made beforehand: the tile is the plane itself, in whole units.
#define VQ_PLANE_AS_TILE(TARGET)                                                                                   \
  TARGET void sign_expand(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, std::uint8_t* index) { \
    const std::size_t whole = padded(bytes, kUnitBytes);                                                           \
    for (std::size_t b = 0; b < blocks; ++b) {                                                                     \
      std::memcpy(index + b * whole * kBlock, plane + b * bytes * kBlock, bytes * kBlock);                         \
      std::memset(index + (b * whole + bytes) * kBlock, 0, (whole - bytes) * kBlock);                              \
    }                                                                                                              \
  }                                                                                                                \
  TARGET void sign_tile(const std::uint8_t* index, const std::uint8_t* tables, const SignPass& pass,               \
                        std::uint16_t* sums) {                                                                     \
    for (std::size_t q = 0; q < pass.count; ++q, tables += pass.step, sums += pass.blocks * kBlock)                \
      sign_plane(index, pass.units * kUnitBytes, pass.blocks, tables, pass.together, sums);                        \
  }                                                                                                                \
  constexpr std::size_t kPassUnits = kSignDim; /* all of them */
// With `above` as the file has it.
#define VQ_PLAIN_COLLECT(TARGET)                                                                                \
  TARGET std::size_t collect(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* floors,        \
                             std::size_t count, const std::uint64_t* allowed, std::size_t first,                \
                             std::uint64_t* wanted, std::uint8_t* places, std::uint16_t* queries,               \
                             std::size_t* counts) {                                                             \
    return plain::collect(sums, blocks, floors, count, allowed, first, wanted, places, queries, counts, above); \
  }
#define VQ_TABLE_OF_KERNELS                                                                                   \
  {kPassUnits,  decode,    row_dots,   dot,      row_sums,  square, arrange, tile_sums, passing, sign_tables, \
   sign_expand, sign_tile, sign_plane, sign_sum, sign_rows, above,  most,    collect,   bounded}
