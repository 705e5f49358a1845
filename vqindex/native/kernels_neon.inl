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

// Adds the products of 16 levels and values of a query of magnitudes up to 127.
VQ_T VQ_INLINE int32x4_t add_narrow(int32x4_t sum, int8x16_t levels, int8x16_t query) {
#ifdef VQ_DOT
  return vdotq_s32(sum, levels, query);
#else
  const int16x8_t pairs = vmull_s8(vget_low_s8(levels), vget_low_s8(query));  // two products are at most 2 * 127 * 127
  return vpadalq_s16(sum, vmlal_high_s8(pairs, levels, query));
#endif
}

VQ_T std::int32_t dot_s8s8(const std::int8_t* levels, const std::int8_t* query, std::size_t stride) {
  int32x4_t sum[4];
  VQ_UNROLL
  for (auto& s : sum) s = vdupq_n_s32(0);
  for (std::size_t at = 0; at < stride; at += 64) VQ_UNROLL
  for (std::size_t i = 0; i < 4; ++i)
    sum[i] = add_narrow(sum[i], vld1q_s8(levels + at + 16 * i), vld1q_s8(query + at + 16 * i));
  return vaddvq_s32(vaddq_s32(vaddq_s32(sum[0], sum[1]), vaddq_s32(sum[2], sum[3])));
}

VQ_DOT_MANY(VQ_T)

#ifdef VQ_DOT
constexpr std::size_t kRegisterRows = 4;  // rows in a register, four coordinates of each
constexpr std::size_t kRegistersAtOnce = 8;

// Order of a tile: [four rows][four coordinates][row], so that sums need no horizontal reduction. Levels stay signed.
VQ_T void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  for (std::size_t r = 0; r < kDotTileRows; r += kRegisterRows, levels += kRegisterRows * stride)
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
  for (std::size_t g = 0; g < kRegistersAtOnce; ++g) vst1q_s32(sums + q * kDotTileRows + g * kRegisterRows, sum[q][g]);
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
  for (std::size_t r = 0; r < kDotTileRows; r += kRows)
    sums_of_registers<Q>(tile + r * stride, stride, dim, queries, base, sums + r);
}

VQ_T void dot_tile_s8s8(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums) {
  if (count == kDotTileQueries) return dot_tile_s8s8_of<kDotTileQueries>(tile, stride, dim, queries, sums);
  dot_tile_s8s8_of<1>(tile, stride, dim, queries, sums);
}
#else
// Keeps the order of rows. Levels stay signed.
VQ_T void arrange_tile_s8(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile) {
  std::memcpy(tile, levels, kDotTileRows * stride);
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
    for (std::size_t r = 0; r < kDotTileRows; r += 4, rows += 4 * stride) {
      int32x4_t sum[4];
      VQ_UNROLL
      for (auto& s : sum) s = vdupq_n_s32(0);
      for (std::size_t at = 0; at < dim; at += 32) {
        const int8x16_t x = vld1q_s8(queries + at), y = vld1q_s8(queries + at + 16);
        VQ_UNROLL
        for (std::size_t i = 0; i < 4; ++i) sum[i] = add_products(sum[i], rows + i * stride + at, x, y);
      }
      const int32x4_t four = vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
      vst1q_s32(sums + q * kDotTileRows + r, vaddq_s32(four, base));
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

#include "kernels_neon_levels.inl"
#include "kernels_neon_narrow.inl"
#include "kernels_neon_signs.inl"

VQ_DECODE_DOTS(VQ_T)
VQ_PLAIN_COLLECT(VQ_T)
VQ_PLAIN_DOT_ROWS(VQ_T)

}  // namespace
}  // namespace vqindex
