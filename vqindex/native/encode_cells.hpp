// Scalar codes: the cell of every coordinate, its level, and the packed rows. Only for encode.cpp.
#pragma once

#include <algorithm>

#include "encode_block.hpp"

namespace vqindex {

// Fields of eight coordinates on their way into bytes: coordinates 0..3 and 4..7 of each lane.
struct Group {
  alignas(kAlign) std::uint32_t half[2][kLanes];
};

// The field and the level of one coordinate. Codebooks are symmetric: with m the number of positive thresholds passed,
// the field is cells + m above zero and cells - 1 - m below, where a negative y "passes" -T if it is not above it. That
// is a strict comparison again after one is added to |y|'s bits.
template <int Bits>
struct Cell {
  static constexpr int kCells = 1 << (Bits - 1);  // positive cells

  // Levels and counts are found together: a threshold passed adds its difference of levels * 256 + 1.
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

  // Add up the gains of thresholds K to End - 1. Recursion, because compilers leave longer loops rolled, and then don't
  // widen the loop around them.
  template <int K, int End>
  VQ_INLINE std::int32_t passed(std::int32_t magnitude, int lane, std::int32_t found) const {
    if constexpr (K < End)
      return passed<K + 1, End>(magnitude, lane, found + (magnitude > threshold[K][lane] ? gain[K] : 0));
    else
      return found;
  }

  // Find the number of thresholds passed (low byte) and the level (above it). Every threshold is compared: a search by
  // halves needs a gather for each step and measured three times slower. Kept to what a loop body may hold.
  template <int K = 0>
  VQ_INLINE void find(const std::int32_t* magnitude, std::int32_t* found) const {
    constexpr int kEnd = std::min(K + 32, kCells - 1);
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) found[i] = passed<K, kEnd>(magnitude[i], i, K == 0 ? first : found[i]);
    if constexpr (kEnd < kCells - 1) find<kEnd>(magnitude, found);
  }
};

// Room for a block's codes on their way: whole groups and slack, or columns of 32 bits of every lane.
inline std::size_t packed_stride(const EncodeTables& tables) { return (code_bytes(tables) + 63) / 64 * 64 + 8; }

// Quantise a block: the codes of `lanes` rows and the sum of y times level.
template <int Bits>
VQ_INLINE void quantise(const EncodeTables& tables, const float* rotated, const float* scale, std::size_t lanes,
                        const float* next, std::uint8_t* packed, std::uint8_t* codes, LaneDoubles& dot) {
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables), stride = packed_stride(tables);
  Cell<Bits> cell;
  cell.prepare(tables, scale);
  Sum64 sum;
  sum.clear();
  for (std::size_t begin = 0; begin < d; begin += 8) {
    Group group = {};
    const std::size_t end = std::min(d, begin + 8);
    fetch_ahead(next, begin, end - begin);
    for (std::size_t j = begin; j < end; ++j) {
      const float* column = rotated + tables.rotation.source[j] * kLanes;
      double* partial = sum.partial[j % 32];
      const int shift = static_cast<int>(j % 4) * Bits;
      std::uint32_t* word = group.half[j % 8 / 4];
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
      const std::uint64_t bits = group.half[0][i] | std::uint64_t{group.half[1][i]} << (4 * Bits);
      std::uint8_t* out = packed + i * stride + begin / 8 * Bits;
      // Past the group's bytes lie zeros, which the next group overwrites.
      for (int b = 0; b < 8; ++b) out[b] = static_cast<std::uint8_t>(bits >> (8 * b));
    }
  }
  std::copy_n(sum.total(), kLanes, dot);
  for (std::size_t i = 0; i < lanes; ++i) std::copy_n(packed + i * stride, bytes, codes + i * bytes);
}

// The four steps that a block goes through, as plain loops. Other structs of steps do the same with other instructions:
//   load      rows to columns, and the bits of the largest magnitude of each
//   scale     scale_columns
//   rotate    rotate of rotate.hpp
//   quantise  fields, packed into rows of codes, and <y, yhat>; the next block is fetched meanwhile
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

  template <int Bits>
  VQ_INLINE static void quantise(const EncodeTables& tables, const float* rotated, const float* scale,
                                 std::size_t lanes, const float* next, std::uint8_t* packed, std::uint8_t* codes,
                                 LaneDoubles& dot) {
    vqindex::quantise<Bits>(tables, rotated, scale, lanes, next, packed, codes, dot);
  }
};

template <typename Steps>
VQ_INLINE void quantise_block(const EncodeTables& tables, const float* rotated, const float* scale, std::size_t lanes,
                              const float* next, std::uint8_t* packed, std::uint8_t* codes, LaneDoubles& dot) {
  switch (tables.bits) {
    case 1:
      return Steps::template quantise<1>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 2:
      return Steps::template quantise<2>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 3:
      return Steps::template quantise<3>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 4:
      return Steps::template quantise<4>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 5:
      return Steps::template quantise<5>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 6:
      return Steps::template quantise<6>(tables, rotated, scale, lanes, next, packed, codes, dot);
    case 7:
      return Steps::template quantise<7>(tables, rotated, scale, lanes, next, packed, codes, dot);
    default:
      return Steps::template quantise<8>(tables, rotated, scale, lanes, next, packed, codes, dot);
  }
}

template <typename Steps>
VQ_INLINE void encode_scalar_code(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                  std::uint8_t* codes, float* factor, float* norm) {
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
    quantise_block<Steps>(tables, columns, scale, lanes, next, packed, codes + row * bytes, dot);
    store_scalars(tables, norms, dot, lanes, factor + row, norm ? norm + row : nullptr);
  }
}

}  // namespace vqindex
