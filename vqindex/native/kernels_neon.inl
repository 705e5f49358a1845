// Kernels for NEON. kernels_neon*.cpp include this file once without and once with the dot product instructions. VQ_T
// is the target attribute; VQ_DOT is defined if the target has these instructions. One register holds 16 bytes:
//
//   step                      instructions
//   sums of levels            sdot with one lane of the query; without it smull and smlal to 16 bits, sadalp
//   windows of packed fields  tbl (the two bytes that hold a window), ushl, uzp1
//   levels of windows         tbl and tbx for up to 64 entries each
//   sign bits                 tbl, four coordinates an entry

#include <arm_neon.h>

#include "kernels_plain.hpp"

namespace vqindex {
namespace {

// ---- one row

// Products are at most 127 * 32767, and 16 lanes share them: after 8192 of them every lane is still below 2^31.
constexpr std::size_t kSafe = 8192;

// Sums the products of levels and an int16 query, 16 at a time.
struct Dot {
  const std::int16_t* query;
  int32x4_t sum[4];
  std::int64_t total;

  VQ_T VQ_INLINE explicit Dot(const std::int16_t* values) : query(values), total(0) { clear(); }
  VQ_T VQ_INLINE void clear() {
    VQ_UNROLL
    for (auto& s : sum) s = vdupq_n_s32(0);
  }
  VQ_T VQ_INLINE void operator()(std::size_t t, int8x16_t levels) {
    if (t && t % kSafe == 0) flush();
    const int16x8_t low = vmovl_s8(vget_low_s8(levels)), high = vmovl_high_s8(levels);
    const int16x8_t a = vld1q_s16(query + t), b = vld1q_s16(query + t + 8);
    sum[0] = vmlal_s16(sum[0], vget_low_s16(low), vget_low_s16(a));
    sum[1] = vmlal_high_s16(sum[1], low, a);
    sum[2] = vmlal_s16(sum[2], vget_low_s16(high), vget_low_s16(b));
    sum[3] = vmlal_high_s16(sum[3], high, b);
  }
  VQ_T VQ_INLINE void flush() {
    VQ_UNROLL
    for (const auto& s : sum) total += vaddlvq_s32(s);
    clear();
  }
};

VQ_T std::int64_t dot_s8s16(const std::int8_t* levels, const std::int16_t* query, std::size_t stride) {
  Dot sum(query);
  for (std::size_t at = 0; at < stride; at += 16) sum(at, vld1q_s8(levels + at));
  sum.flush();
  return sum.total;
}

VQ_T std::int64_t square_s8(const std::int8_t* levels, std::size_t stride) {
  int32x4_t sum = vdupq_n_s32(0);
  for (std::size_t at = 0; at < stride; at += 16) {
    const int8x16_t x = vld1q_s8(levels + at);
#ifdef VQ_DOT
    sum = vdotq_s32(sum, x, x);
#else
    sum = vpadalq_s16(vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(x))), vmull_high_s8(x, x));
#endif
  }
  return vaddvq_s32(sum);
}

// ---- levels: sums of products

#ifdef VQ_DOT
constexpr std::size_t kRegisterRows = 4;  // rows in a register, four coordinates of each
constexpr std::size_t kRegistersAtOnce = 8;

// Order of a tile: [four rows][four coordinates][row], so that sums need no horizontal reduction. Levels stay signed.
VQ_T void arrange_tile(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  for (std::size_t r = 0; r < kTileRows; r += kRegisterRows, levels += kRegisterRows * stride)
    for (std::size_t at = 0; at < stride; at += 16, tile += 64) {
      int32x4x4_t rows;
      VQ_UNROLL
      for (std::size_t i = 0; i < kRegisterRows; ++i)
        rows.val[i] = vreinterpretq_s32_s8(vld1q_s8(levels + i * stride + at));
      vst4q_s32(reinterpret_cast<std::int32_t*>(tile), rows);
    }
}

// Adds the products of four coordinates, those of lane LANE of the queries, for all rows and queries.
template <int LANE, std::size_t Q>
VQ_T VQ_INLINE void step(const std::uint8_t* tile, std::size_t stride, const int8x16_t (&x)[Q],
                         int32x4_t (&sum)[Q][kRegistersAtOnce]) {
  VQ_UNROLL
  for (std::size_t g = 0; g < kRegistersAtOnce; ++g) {
    const int8x16_t rows = vreinterpretq_s8_u8(vld1q_u8(tile + g * kRegisterRows * stride + LANE * 16));
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) sum[q][g] = vdotq_laneq_s32(sum[q][g], rows, x[q], LANE);
  }
}

// Sums 32 rows. Two queries take sixteen registers of sums, which leaves room for the rows: one load for two products.
template <std::size_t Q>
VQ_T VQ_INLINE void sums_of_registers(const std::uint8_t* tile, std::size_t stride, std::size_t dim,
                                      const std::int8_t* queries, const std::int32_t (&base)[Q], std::int32_t* sums) {
  int32x4_t sum[Q][kRegistersAtOnce];
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kRegistersAtOnce; ++g) sum[q][g] = vdupq_n_s32(base[q]);
  for (std::size_t at = 0; at < dim; at += 16, tile += 64) {
    int8x16_t x[Q];
    VQ_UNROLL
    for (std::size_t q = 0; q < Q; ++q) x[q] = vld1q_s8(queries + q * stride + at);
    step<0>(tile, stride, x, sum);
    step<1>(tile, stride, x, sum);
    step<2>(tile, stride, x, sum);
    step<3>(tile, stride, x, sum);
  }
  VQ_UNROLL
  for (std::size_t q = 0; q < Q; ++q) VQ_UNROLL
  for (std::size_t g = 0; g < kRegistersAtOnce; ++g) vst1q_s32(sums + q * kTileRows + g * kRegisterRows, sum[q][g]);
}

template <std::size_t Q>
VQ_T VQ_INLINE void dot_tile_s8s8_of(const std::uint8_t* tile, std::size_t stride, std::size_t dim,
                                     const std::int8_t* queries, std::int32_t* sums) {
  std::int32_t base[Q];
  for (std::size_t q = 0; q < Q; ++q) {
    int32x4_t total = vdupq_n_s32(0);
    for (std::size_t at = 0; at < stride; at += 16)
      total = vdotq_s32(total, vld1q_s8(queries + q * stride + at), vdupq_n_s8(1));
    base[q] = 128 * vaddvq_s32(total);
  }
  constexpr std::size_t kRows = kRegisterRows * kRegistersAtOnce;
  for (std::size_t r = 0; r < kTileRows; r += kRows)
    sums_of_registers<Q>(tile + r * stride, stride, dim, queries, base, sums + r);
}

VQ_T void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums) {
  if (count == kTileQueries) return dot_tile_s8s8_of<kTileQueries>(tile, stride, dim, queries, sums);
  dot_tile_s8s8_of<1>(tile, stride, dim, queries, sums);
}
#else
// Keeps the order of rows. Levels stay signed.
VQ_T void arrange_tile(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  std::memcpy(tile, levels, kTileRows * stride);
}

// The sum of four products of at most 127 * 64 fits 16 bits.
VQ_T VQ_INLINE int32x4_t add_products(int32x4_t sum, const std::int8_t* row, int8x16_t x, int8x16_t y) {
  const int8x16_t a = vld1q_s8(row), b = vld1q_s8(row + 16);
  int16x8_t products = vmull_s8(vget_low_s8(a), vget_low_s8(x));
  products = vmlal_high_s8(products, a, x);
  products = vmlal_s8(products, vget_low_s8(b), vget_low_s8(y));
  return vpadalq_s16(sum, vmlal_high_s8(products, b, y));
}

VQ_T void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums) {
  for (std::size_t q = 0; q < count; ++q, queries += stride) {
    int32x4_t total = vdupq_n_s32(0);
    for (std::size_t at = 0; at < stride; at += 16) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(queries + at)));
    const int32x4_t base = vdupq_n_s32(128 * vaddvq_s32(total));
    const std::int8_t* rows = reinterpret_cast<const std::int8_t*>(tile);
    for (std::size_t r = 0; r < kTileRows; r += 4, rows += 4 * stride) {
      int32x4_t sum[4];
      VQ_UNROLL
      for (auto& s : sum) s = vdupq_n_s32(0);
      for (std::size_t at = 0; at < dim; at += 32) {
        const int8x16_t x = vld1q_s8(queries + at), y = vld1q_s8(queries + at + 16);
        VQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) sum[i] = add_products(sum[i], rows + i * stride + at, x, y);
      }
      const int32x4_t four = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
      vst1q_s32(sums + q * kTileRows + r, vaddq_s32(four, base));
    }
  }
}
#endif

// ---- selection

// Returns one bit for each of 64 bytes, which are 0 or 255.
VQ_T VQ_INLINE std::uint64_t bits_of(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  const uint8x16_t two = vpaddq_u8(vandq_u8(a, bit), vandq_u8(b, bit));
  const uint8x16_t four = vpaddq_u8(two, vpaddq_u8(vandq_u8(c, bit), vandq_u8(d, bit)));
  return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(four, four)), 0);
}

VQ_T VQ_INLINE uint8x16_t narrowed(uint16x8_t a, uint16x8_t b) {
  return vuzp1q_u8(vreinterpretq_u8_u16(a), vreinterpretq_u8_u16(b));
}

VQ_T VQ_INLINE uint8x16_t narrowed(const uint32x4_t (&x)[4]) {
  return narrowed(vuzp1q_u16(vreinterpretq_u16_u32(x[0]), vreinterpretq_u16_u32(x[1])),
                  vuzp1q_u16(vreinterpretq_u16_u32(x[2]), vreinterpretq_u16_u32(x[3])));
}

VQ_T std::uint64_t mask_upper_bound_gt(const std::int32_t* sums, const UpperBoundTest& test, const float* weight,
                                       const float* error, const float* norm2) {
  const int32x4_t offset = vdupq_n_s32(test.offset);
  const float32x4_t gain = vdupq_n_f32(test.gain), slack = vdupq_n_f32(test.slack);
  const float32x4_t threshold = vdupq_n_f32(test.threshold), norm2_weight = vdupq_n_f32(test.norm2_weight);
  uint8x16_t flags[4];
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    uint32x4_t above[4];
    VQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = 16 * g + 4 * i;
      const float32x4_t sum = vcvtq_f32_s32(vsubq_s32(vld1q_s32(sums + at), offset));
      const float32x4_t upper =
          vaddq_f32(vmulq_f32(vld1q_f32(weight + at), sum), vmulq_f32(slack, vld1q_f32(error + at)));
      above[i] =
          vcgtq_f32(vmulq_f32(gain, upper), vaddq_f32(threshold, vmulq_f32(norm2_weight, vld1q_f32(norm2 + at))));
    }
    flags[g] = narrowed(above);
  }
  return bits_of(flags[0], flags[1], flags[2], flags[3]);
}

// Returns 16 signs as byte masks: all ones where the bit is set.
VQ_T VQ_INLINE uint8x16_t sign_mask(const std::uint8_t* signs) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
  return vtstq_u8(vcombine_u8(vdup_n_u8(signs[0]), vdup_n_u8(signs[1])), bit);
}

VQ_T std::int32_t dot_signs_s8(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride) {
  int16x8_t sum = vdupq_n_s16(0);  // 16384 / 16 pairs of at most 10
  for (std::size_t at = 0; at < stride; at += 16) {
    const int8x16_t x = vld1q_s8(query + at);
    sum = vpadalq_s8(sum, vbslq_s8(sign_mask(signs + at / 8), x, vnegq_s8(x)));
  }
  return vaddlvq_s16(sum);
}

VQ_T bool mask_gt_u16(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold, std::uint64_t* hits) {
  const uint16x8_t limit = vdupq_n_u16(threshold);
  std::uint64_t any = 0;
  for (std::size_t b = 0; b < blocks; ++b, sums += kBlockRows) {
    uint8x16_t flags[4];
    VQ_UNROLL
    for (int g = 0; g < 4; ++g)
      flags[g] = narrowed(vcgtq_u16(vld1q_u16(sums + 16 * g), limit), vcgtq_u16(vld1q_u16(sums + 16 * g + 8), limit));
    any |= hits[b] = bits_of(flags[0], flags[1], flags[2], flags[3]);
  }
  return any != 0;
}

VQ_PLAIN_BLOCK_MAX(VQ_T)

VQ_T VQ_INLINE uint32x4_t sign_bound_gt_four(uint32x4_t agreement, const SignBoundTerms& terms, float32x4_t norm,
                                             float threshold) {
  const int32x4_t twice = vreinterpretq_s32_u32(vshlq_n_u32(agreement, 1));
  const float32x4_t whole = vcvtq_f32_s32(vsubq_s32(twice, vdupq_n_s32(terms.offset)));
  float32x4_t x = vaddq_f32(vmulq_f32(whole, vdupq_n_f32(terms.scale)), vdupq_n_f32(terms.width));
  x = vmulq_f32(x, norm);
  if (terms.distance) x = vsubq_f32(vaddq_f32(x, x), vaddq_f32(vmulq_f32(norm, norm), vdupq_n_f32(terms.query2)));
  return vcgtq_f32(x, vdupq_n_f32(threshold));
}

VQ_T std::uint64_t mask_sign_bound_gt(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms,
                                      float threshold) {
  uint8x16_t flags[4];
  VQ_UNROLL
  for (int g = 0; g < 4; ++g) {
    uint32x4_t above[4];
    VQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = 16 * g + 4 * i;
      above[i] = sign_bound_gt_four(vmovl_u16(vld1_u16(sums + at)), terms, vld1q_f32(norms + at), threshold);
    }
    flags[g] = narrowed(above);
  }
  return bits_of(flags[0], flags[1], flags[2], flags[3]);
}

// ---- sign bits

VQ_T void sign_tables(const std::int8_t* query, std::size_t units, std::uint8_t* tables) {
  const std::uint8_t iota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint8x16_t index = vld1q_u8(iota);
  for (std::size_t u = 0; u < units; ++u, tables += kUnitTable)
    for (std::size_t g = 0; g < 6; ++g, query += 4) {
      int8x16_t sum = vdupq_n_s8(0);
      VQ_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int8x16_t x = vdupq_n_s8(query[j]);
        const uint8x16_t set = vtstq_u8(index, vdupq_n_u8(static_cast<std::uint8_t>(1 << j)));
        sum = vaddq_s8(sum, vmaxq_s8(vdupq_n_s8(0), vbslq_s8(set, x, vnegq_s8(x))));
      }
      vst1q_s8(reinterpret_cast<std::int8_t*>(tables) + g * 16, sum);
    }
}

// Sums a block of 64 rows; all sums stay in registers.
VQ_T VQ_INLINE void block_sums(const std::uint8_t* block, std::size_t bytes, const std::uint8_t* tables,
                               std::uint16_t* sums) {
  uint16x8_t sum[8];
  VQ_UNROLL
  for (auto& s : sum) s = vdupq_n_u16(0);
  for (std::size_t j = 0; j < bytes; j += kUnitBytes, tables += kUnitTable) {
    uint8x16_t entry[4];  // six entries of at most 20 fit a byte
    VQ_UNROLL
    for (std::size_t i = 0; i < kUnitBytes; ++i) {
      const uint8x16_t low = vld1q_u8(tables + i * 32), high = vld1q_u8(tables + i * 32 + 16);
      const bool is_present = j + i < bytes;
      VQ_UNROLL
      for (int r = 0; r < 4; ++r) {
        const uint8x16_t x = is_present ? vld1q_u8(block + (j + i) * kBlockRows + r * 16) : vdupq_n_u8(0);
        const uint8x16_t two =
            vaddq_u8(vqtbl1q_u8(low, vandq_u8(x, vdupq_n_u8(15))), vqtbl1q_u8(high, vshrq_n_u8(x, 4)));
        entry[r] = i ? vaddq_u8(entry[r], two) : two;
      }
    }
    VQ_UNROLL
    for (int r = 0; r < 4; ++r) {
      sum[2 * r] = vaddw_u8(sum[2 * r], vget_low_u8(entry[r]));
      sum[2 * r + 1] = vaddw_high_u8(sum[2 * r + 1], entry[r]);
    }
  }
  VQ_UNROLL
  for (int r = 0; r < 8; ++r) vst1q_u16(sums + r * 8, sum[r]);
}

VQ_T void sign_blocks(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables,
                      std::size_t, std::uint16_t* sums) {
  for (std::size_t b = 0; b < blocks; ++b)
    block_sums(signs + b * bytes * kBlockRows, bytes, tables, sums + b * kBlockRows);
}

VQ_SIGN_BLOCKS_AS_TILE(VQ_T)

// Copies the sign bits of all rows of a block: transposes bytes, 16 rows of eight bytes at a time, in pairs, fours,
// then eights.
VQ_T VQ_INLINE void all_sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint8_t* rows,
                                  std::size_t stride) {
  std::size_t j = 0;
  for (; j + 8 <= bytes; j += 8)
    for (std::size_t r = 0; r < kBlockRows; r += 16) {
      uint16x8_t two[4][2];
      VQ_UNROLL
      for (std::size_t i = 0; i < 4; ++i) {
        const uint8x16_t a = vld1q_u8(block + (j + 2 * i) * kBlockRows + r);
        const uint8x16_t b = vld1q_u8(block + (j + 2 * i + 1) * kBlockRows + r);
        two[i][0] = vreinterpretq_u16_u8(vzip1q_u8(a, b));
        two[i][1] = vreinterpretq_u16_u8(vzip2q_u8(a, b));
      }
      VQ_UNROLL
      for (std::size_t half = 0; half < 2; ++half) {  // of the 16 rows
        const uint32x4_t a = vreinterpretq_u32_u16(vzip1q_u16(two[0][half], two[1][half]));
        const uint32x4_t b = vreinterpretq_u32_u16(vzip2q_u16(two[0][half], two[1][half]));
        const uint32x4_t c = vreinterpretq_u32_u16(vzip1q_u16(two[2][half], two[3][half]));
        const uint32x4_t d = vreinterpretq_u32_u16(vzip2q_u16(two[2][half], two[3][half]));
        const uint32x4_t eight[4] = {vzip1q_u32(a, c), vzip2q_u32(a, c), vzip1q_u32(b, d), vzip2q_u32(b, d)};
        std::uint8_t* out = rows + (r + 8 * half) * stride + j;
        VQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) {
          const uint8x16_t x = vreinterpretq_u8_u32(eight[i]);
          vst1_u8(out + 2 * i * stride, vget_low_u8(x));
          vst1_u8(out + (2 * i + 1) * stride, vget_high_u8(x));
        }
      }
    }
  for (; j < bytes; ++j)
    for (std::size_t r = 0; r < kBlockRows; ++r) rows[r * stride + j] = block[j * kBlockRows + r];
}

VQ_T void sign_rows(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows,
                    std::size_t stride) {
  if (!~mask) return all_sign_rows(block, bytes, rows, stride);
  plain::sign_rows(block, bytes, mask, rows, stride);
}

// ---- levels from packed rows

// A table of REGISTERS * 16 levels; at() looks up 16 of them. If `half_size` is not 0, the lower half has the levels of
// clear sign bits and the upper half those of set ones. A half has at least eight entries.
template <int REGISTERS>
struct Table {
  uint8x16_t entries[REGISTERS];

  VQ_T VQ_INLINE Table(const std::int8_t* repeated, std::size_t half_size) {
    const std::uint8_t* clear = reinterpret_cast<const std::uint8_t*>(repeated);
    if (REGISTERS == 1) {
      entries[0] = half_size ? vcombine_u8(vld1_u8(clear), vld1_u8(clear + half_size)) : vld1q_u8(clear);
    } else {
      VQ_UNROLL
      for (int i = 0; i < REGISTERS; ++i) {
        const bool set = half_size && i >= REGISTERS / 2;
        entries[i] = vld1q_u8(clear + (set ? half_size + 16 * (i - REGISTERS / 2) : std::size_t(16 * i)));
      }
    }
  }
  VQ_T VQ_INLINE uint8x16x4_t four(int first) const {
    return {{entries[first], entries[first + 1], entries[first + 2], entries[first + 3]}};
  }
  // Looks up indices of eight bits in the 256 levels from entries[first] on, or in all if there are fewer.
  VQ_T VQ_INLINE uint8x16_t low_bits(uint8x16_t index, int first) const {
    constexpr int kEnd = REGISTERS < 16 ? REGISTERS : 16;
    uint8x16_t x = vqtbl4q_u8(four(first), index);
    VQ_UNROLL
    for (int i = 4; i < kEnd; i += 4)
      x = vqtbx4q_u8(x, four(first + i), vsubq_u8(index, vdupq_n_u8(static_cast<std::uint8_t>(16 * i))));
    return x;
  }
  // `index` has the low eight bits of the indices; `ninth` is a mask of their ninth bit.
  VQ_T VQ_INLINE int8x16_t at(uint8x16_t index, uint8x16_t ninth) const {
    uint8x16_t x;
    if constexpr (REGISTERS == 1) x = vqtbl1q_u8(entries[0], index);
    if constexpr (REGISTERS == 2) x = vqtbl2q_u8({{entries[0], entries[1]}}, index);
    if constexpr (REGISTERS >= 4) x = low_bits(index, 0);
    if constexpr (REGISTERS == 32) x = vbslq_u8(ninth, low_bits(index, 16), x);
    return vreinterpretq_s8_u8(x);
  }
};

// Calls use(t, levels) with 16 levels from t on; levels past the dimension are arbitrary. Field i of these begins at
// bit i * step, and its window of at most 9 bits lies in the two bytes from there.
template <int REGISTERS, bool TRELLIS, typename Use>
VQ_T VQ_INLINE void each_16(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                            Use& use) {
  const Table<REGISTERS> table(f.repeated, f.tops == 1 ? repeated_size(f.window) : 0);
  const std::uint16_t iota[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  uint8x16_t bytes[2];
  int16x8_t shift[2];
  VQ_UNROLL
  for (std::uint16_t i = 0; i < 2; ++i) {
    const uint16x8_t field = vaddq_u16(vld1q_u16(iota), vdupq_n_u16(static_cast<std::uint16_t>(8 * i)));
    const uint16x8_t begin = vmulq_n_u16(field, static_cast<std::uint16_t>(f.step));
    const uint16x8_t byte = vshrq_n_u16(begin, 3);
    bytes[i] = vreinterpretq_u8_u16(vaddq_u16(vmulq_n_u16(byte, 257), vdupq_n_u16(256)));  // byte, byte + 1
    shift[i] = vnegq_s16(vreinterpretq_s16_u16(vandq_u16(begin, vdupq_n_u16(7))));
  }
  const uint16x8_t mask = vdupq_n_u16(static_cast<std::uint16_t>((1 << f.window) - 1));
  // The place in an index of the newest top bit, then of earlier ones. A ninth bit has no place in a byte: it goes by
  // `ninth`.
  uint8x16_t place[4];
  const int newest = TRELLIS ? f.window + f.tops - 1 : std::max(f.window, 3);
  VQ_UNROLL
  for (int i = 0; i < 4; ++i) place[i] = vdupq_n_u8(static_cast<std::uint8_t>(i < f.tops ? 1 << (newest - i) : 0));
  uint8x16_t before = vdupq_n_u8(0);

  // No load goes past the end of the row: the last ones begin earlier, and their bytes are looked up further on.
  std::uint8_t spare[16] = {};
  if (row_bytes < 16) {
    std::memcpy(spare, row, row_bytes);
    row = spare;
    row_bytes = 16;
  }
  const std::size_t last = row_bytes - 16, group_bytes = 2 * static_cast<std::size_t>(f.step);
  std::size_t from = 0;
  for (std::size_t t = 0; t < f.dim; t += 16, from += group_bytes) {
    const std::size_t base = std::min(from, last);
    const uint8x16_t word = vld1q_u8(row + base);
    const uint8x16_t ahead = vdupq_n_u8(static_cast<std::uint8_t>(std::min<std::size_t>(from - base, 16)));
    uint16x8_t window[2];
    VQ_UNROLL
    for (int i = 0; i < 2; ++i) {
      const uint8x16_t two = vqtbl1q_u8(word, vaddq_u8(bytes[i], ahead));
      window[i] = vandq_u16(vshlq_u16(vreinterpretq_u16_u8(two), shift[i]), mask);
    }
    uint8x16_t index = narrowed(window[0], window[1]);
    uint8x16_t ninth =
        vtstq_u8(vuzp2q_u8(vreinterpretq_u8_u16(window[0]), vreinterpretq_u8_u16(window[1])), vdupq_n_u8(1));
    if (f.tops) {
      uint8x16_t top = sign_mask(signs + t / 8);
      if constexpr (TRELLIS) {
        top = veorq_u8(top, vtstq_u8(index, vdupq_n_u8(1)));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 15), place[1]));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 14), place[2]));
        index = vorrq_u8(index, vandq_u8(vextq_u8(before, top, 13), place[3]));
        before = top;
      }
      index = vorrq_u8(index, vandq_u8(top, place[0]));
      ninth = top;
    }
    use(t, table.at(index, ninth));
  }
}

struct Store {
  std::int8_t* levels;
  VQ_T VQ_INLINE void operator()(std::size_t t, int8x16_t x) { vst1q_s8(levels + t, x); }
};

// Decodes by the kernel for the window's width; returns false if there is none for it.
template <typename Use>
VQ_T VQ_INLINE bool by_window(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                              const std::uint8_t* signs, Use& use) {
  if (f.tops > 1) {
    if (f.window + f.tops == 8) return each_16<16, true>(f, row, row_bytes, signs, use), true;
    if (f.window + f.tops == 9) return each_16<32, true>(f, row, row_bytes, signs, use), true;
    return false;
  }
  switch (f.tops ? std::max(f.window, 3) + 1 : std::max(f.window, 4)) {
    case 4:
      return each_16<1, false>(f, row, row_bytes, signs, use), true;
    case 5:
      return each_16<2, false>(f, row, row_bytes, signs, use), true;
    case 6:
      return each_16<4, false>(f, row, row_bytes, signs, use), true;
    case 7:
      return each_16<8, false>(f, row, row_bytes, signs, use), true;
    case 8:
      return each_16<16, false>(f, row, row_bytes, signs, use), true;
    case 9:
      return each_16<32, false>(f, row, row_bytes, signs, use), true;
    default:
      return false;
  }
}

VQ_T void decode(const Fields& f, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                 std::int8_t* levels) {
  Store store{levels};
  if (!by_window(f, row, row_bytes, signs, store)) return plain::decode(f, row, row_bytes, signs, levels);
  std::memset(levels + f.dim, 0, padded(f.dim, 64) - f.dim);
}

VQ_T std::int64_t decode_dot_one(const Fields& f, const std::uint8_t* row, std::size_t row_bytes,
                                 const std::uint8_t* signs, const std::int16_t* query, std::int8_t* levels) {
  Dot sum(query);
  if (by_window(f, row, row_bytes, signs, sum)) {
    sum.flush();
    return sum.total;
  }
  plain::decode(f, row, row_bytes, signs, levels);
  return dot_s8s16(levels, query, padded(f.dim, 64));
}

VQ_DECODE_DOTS(VQ_T)
VQ_PLAIN_COLLECT(VQ_T)
VQ_PLAIN_DOT_ROWS(VQ_T)

}  // namespace
}  // namespace vqindex
