// Encoding with scalar codes: finds the cell of every coordinate and its level, and packs the rows. Only encode.cpp
// includes this.
#pragma once

#include <algorithm>

#include "encode_block.hpp"

namespace vqindex {

// The fields of eight coordinates of each lane before they are packed: coordinates 0..3 and 4..7.
struct FieldWords {
  alignas(kAlign) std::uint32_t half[2][kLanes];
};

// Finds the field and the level of a coordinate y. Codebooks are symmetric, so |y| is compared with the positive
// thresholds. If it is above m of them, the field is kCells + m for y > 0 and kCells - 1 - m for y <= 0. A negative y
// belongs below -T also if it equals -T. Adding one to the bits of |y| makes that a strict comparison, too.
template <int Bits>
struct Cell {
  static constexpr int kCells = 1 << (Bits - 1);  // positive cells

  // One sum gives both the level and the count: each threshold that is passed adds its difference of levels * 256 + 1.
  alignas(kAlign) std::int32_t threshold[kCells][kLanes];
  std::int32_t gain[kCells];
  std::int32_t first;

  VQ_INLINE void prepare(const EncodeTables& tables, const float* scale) {
    first = tables.levels[0] * 256;
    for (int k = 0; k + 1 < kCells; ++k) {
      gain[k] = (tables.levels[k + 1] - tables.levels[k]) * 256 + 1;
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) threshold[k][i] = float_bits(tables.thresholds[k] * scale[i]);
    }
  }

  // Sums the gains of thresholds K to End - 1. This is a recursion because compilers leave a longer loop rolled, and
  // then don't vectorize the loop around it.
  template <int K, int End>
  VQ_INLINE std::int32_t passed(std::int32_t magnitude, int lane, std::int32_t found) const {
    if constexpr (K < End)
      return passed<K + 1, End>(magnitude, lane, found + (magnitude > threshold[K][lane] ? gain[K] : 0));
    else
      return found;
  }

  // Finds the number of thresholds passed (low byte) and the level (above it). It compares with every threshold:
  // bisection needs a gather for each step and measured three times slower. A loop over lanes takes 32 thresholds,
  // which compilers still vectorize.
  template <int K = 0>
  VQ_INLINE void find(const std::int32_t* magnitude, std::int32_t* found) const {
    constexpr int kEnd = std::min(K + 32, kCells - 1);
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) found[i] = passed<K, kEnd>(magnitude[i], i, K == 0 ? first : found[i]);
    if constexpr (kEnd < kCells - 1) find<kEnd>(magnitude, found);
  }
};

// Bytes per lane of scratch for codes that are being packed: room for whole words of eight fields, or of 32 bits.
inline std::size_t packed_stride(const EncodeTables& tables) { return (code_bytes(tables) + 63) / 64 * 64 + 8; }

// Quantizes `lanes` rows: writes their codes, and <y, yhat> to `dot`.
template <int Bits>
VQ_INLINE void quantize(const EncodeTables& tables, const float* rotated, const float* scale, std::size_t lanes,
                        const float* next, std::uint8_t* packed, std::uint8_t* codes, LaneDoubles& dot) {
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables), stride = packed_stride(tables);
  Cell<Bits> cell;
  cell.prepare(tables, scale);
  Sum64 sum;
  sum.clear();
  for (std::size_t begin = 0; begin < d; begin += 8) {
    FieldWords words = {};
    const std::size_t end = std::min(d, begin + 8);
    fetch_ahead(next, begin, end - begin);
    for (std::size_t j = begin; j < end; ++j) {
      const float* column = rotated + tables.rotation.source[j] * kLanes;
      double* partial = sum.partial[j % 32];
      const int shift = static_cast<int>(j % 4) * Bits;
      std::uint32_t* word = words.half[j % 8 / 4];
      alignas(kAlign) std::int32_t magnitude[kLanes], found[kLanes];
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) magnitude[i] = magnitude_bits(column[i]) + (column[i] > 0.0f ? 0 : 1);
      cell.find(magnitude, found);
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) {
        const std::int32_t below = column[i] > 0.0f ? 0 : -1;
        const std::int32_t field = Cell<Bits>::kCells + ((found[i] & 255) ^ below);
        const std::int32_t level = ((found[i] >> 8) ^ below) - below;
        word[i] |= static_cast<std::uint32_t>(field) << shift;
        partial[i] += static_cast<double>(column[i]) * static_cast<double>(level);
      }
    }
    for (int i = 0; i < kLanes; ++i) {
      const std::uint64_t bits = words.half[0][i] | std::uint64_t{words.half[1][i]} << (4 * Bits);
      std::uint8_t* out = packed + i * stride + begin / 8 * Bits;
      // The bytes past those of these eight fields are zeros. The next eight fields overwrite them.
      for (int b = 0; b < 8; ++b) out[b] = static_cast<std::uint8_t>(bits >> (8 * b));
    }
  }
  std::copy_n(sum.total(), kLanes, dot);
  for (std::size_t i = 0; i < lanes; ++i) std::copy_n(packed + i * stride, bytes, codes + i * bytes);
}

// The four steps of encoding as plain loops. Other structs do the same with other instructions:
//   load      transposes rows into columns and finds the bits of each row's largest magnitude
//   scale     scale_columns
//   rotate    rotate of rotate.hpp
//   quantize  finds fields, packs them into rows of codes, and sums <y, yhat>; prefetches the next rows meanwhile
struct PlainSteps {
  VQ_INLINE static void load(const float* const (&rows)[kLanes], std::size_t d, float* columns,
                             std::int32_t (&peak)[kLanes]) {
    load_columns(rows, d, columns);
    raise_peaks(columns, d, peak);
  }

  VQ_INLINE static void scale(float* columns, std::size_t d, const float* power, const std::int32_t* limit,
                              LaneDoubles& norm2) {
    scale_columns(columns, d, power, limit, norm2);
  }

  VQ_INLINE static void rotate(const Hadamard& tables, float* columns, float* other) {
    vqindex::rotate(tables, columns, other);
  }

  VQ_INLINE static void short_stages(float* values, std::size_t n) { vqindex::short_stages(values, n); }

  template <int Bits>
  VQ_INLINE static void quantize(const EncodeTables& tables, const float* rotated, const float* scale,
                                 std::size_t lanes, const float* next, std::uint8_t* packed, std::uint8_t* codes,
                                 LaneDoubles& dot) {
    vqindex::quantize<Bits>(tables, rotated, scale, lanes, next, packed, codes, dot);
  }
};

template <typename Steps>
VQ_INLINE void quantize_block(const EncodeTables& tables, const float* rotated, const float* scale, std::size_t lanes,
                              const float* next, std::uint8_t* packed, std::uint8_t* codes, LaneDoubles& dot) {
  switch (tables.bits) {
    case 1:
      return Steps::template quantize<1>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 2:
      return Steps::template quantize<2>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 3:
      return Steps::template quantize<3>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 4:
      return Steps::template quantize<4>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 5:
      return Steps::template quantize<5>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 6:
      return Steps::template quantize<6>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 7:
      return Steps::template quantize<7>(tables, rotated, scale, lanes, next, packed, codes, dot);
    default:
      return Steps::template quantize<8>(tables, rotated, scale, lanes, next, packed, codes, dot);
  }
}

template <typename Steps>
VQ_INLINE void encode_scalar_code(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                  std::uint8_t* codes, float* rescale, float* norm) {
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables);
  float* columns = static_cast<float*>(scratch);
  float* other = columns + d * kLanes;
  std::uint8_t* packed = reinterpret_cast<std::uint8_t*>(other + d * kLanes);
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min<std::size_t>(kLanes, n - row);
    Norms norms;
    rotate_rows<Steps>(tables.rotation, rows + row * d, lanes, columns, other, norms);
    alignas(kAlign) float scale[kLanes];
    deviations(norms, d, scale);
    alignas(kAlign) LaneDoubles dot;
    const float* next = next_block(rows + row * d, n - row, d);
    quantize_block<Steps>(tables, columns, scale, lanes, next, packed, codes + row * bytes, dot);
    store_scalars(tables, norms, dot, lanes, rescale + row, norm ? norm + row : nullptr);
  }
}

}  // namespace vqindex
