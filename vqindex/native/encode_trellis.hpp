// Encoding with trellis codes: rounds rows to the integers of the search, searches for kEncodeRows of them together,
// and packs the rows. Values and windows stay in columns, [coordinate][row]. Only encode.cpp includes this.
#pragma once

#include <algorithm>
#include <string>

#include "encode_block.hpp"

namespace vqindex {

constexpr float kPeak = 127.0f * 128.0f;  // largest value of the search
constexpr std::size_t kBlocks = kEncodeRows / kLanes;
static_assert(kEncodeRows == kTrellisLanes);

// The scratch memory of one search.
struct TrellisScratch {
  float* columns;
  float* rotated[kBlocks];
  std::uint8_t* search;
  std::int16_t* values;    // [dim][kEncodeRows]
  std::uint16_t* windows;  // [dim][kEncodeRows]
  std::uint16_t* starts;   // [kEncodeRows]
  std::uint8_t* packed;    // [code_bytes][kEncodeRows]
  std::size_t bytes;       // of all of them

  TrellisScratch(void* memory, const EncodeTables& tables) {
    const std::size_t d = tables.rotation.dim;
    bytes = 0;
    // With null memory this only measures.
    auto allocate = [this, memory](std::size_t size) -> std::uint8_t* {
      std::uint8_t* start = memory ? static_cast<std::uint8_t*>(memory) + bytes : nullptr;
      bytes += (size + kAlign - 1) / kAlign * kAlign;
      return start;
    };
    columns = reinterpret_cast<float*>(allocate(d * kLanes * sizeof(float)));
    for (float*& block : rotated) block = reinterpret_cast<float*>(allocate(d * kLanes * sizeof(float)));
    search = allocate(trellis_scratch(d, tables.trellis->search));
    values = reinterpret_cast<std::int16_t*>(allocate(kEncodeRows * d * sizeof(std::int16_t)));
    windows = reinterpret_cast<std::uint16_t*>(allocate(kEncodeRows * d * sizeof(std::uint16_t)));
    starts = reinterpret_cast<std::uint16_t*>(allocate(kEncodeRows * sizeof(std::uint16_t)));
    packed = allocate(kEncodeRows * code_bytes(tables));
  }
};

// Rounds a block's coordinates to the values of the search. Prefetches the next block's rows meanwhile.
VQ_INLINE void store_values(const Hadamard& rotation, const float* rotated, const float* inverse, const float* next,
                            std::int16_t* values) {
  for (std::size_t t = 0; t < rotation.dim; ++t) {
    fetch_ahead(next, t, 1);
    const float* column = rotated + rotation.source[t] * kLanes;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i)
      values[t * kEncodeRows + i] =
          static_cast<std::int16_t>(static_cast<std::int32_t>(clipped_integer(column[i], inverse[i], kPeak)));
  }
}

// Packs the fields of all rows, in columns, after the bits of their starts. Where sign bits are stored, one replaces
// the highest bit of each field (trellis.py).
VQ_INLINE void pack_columns(const TrellisSpec& code, const std::uint16_t* windows, const std::uint16_t* starts,
                            std::size_t d, std::size_t bytes, std::uint8_t* packed) {
  const int newest = code.window - code.bits, sign_at = code.bits - 1;
  const std::uint32_t oldest_bit = code.start_mask ? 1 : 0;
  alignas(kAlign) std::uint32_t words[kEncodeRows];
  std::copy_n(starts, kEncodeRows, words);
  int filled = newest;
  std::size_t at = 0;
  const auto put_bytes = [&] {
    for (std::size_t i = 0; i < kEncodeRows; ++i) {
      packed[at * kEncodeRows + i] = static_cast<std::uint8_t>(words[i]);
      words[i] >>= 8;
    }
    ++at;
    filled -= 8;
  };
  for (std::size_t t = 0; t < d; ++t) {
    const std::uint16_t* column = windows + t * kEncodeRows;
    for (std::size_t i = 0; i < kEncodeRows; ++i) {
      const std::uint32_t window = column[i];
      words[i] |= (window >> newest ^ (window & oldest_bit) << sign_at) << filled;
    }
    filled += code.bits;
    while (filled >= 8) put_bytes();
  }
  while (at < bytes) put_bytes();
}

// Sums y times the level that each coordinate's window decodes to, for the rows of one block.
VQ_INLINE void trellis_dot(const EncodeTables& tables, const float* rotated, const std::uint16_t* windows, Sum64& dot) {
  dot.clear();
  for (std::size_t j = 0; j < tables.rotation.dim; ++j) {
    const float* column = rotated + tables.rotation.source[j] * kLanes;
    alignas(kAlign) std::int32_t level[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) level[i] = tables.trellis->levels[windows[j * kEncodeRows + i]];
    double* partial = dot.partial[j % 32];
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) partial[i] += static_cast<double>(column[i]) * static_cast<double>(level[i]);
  }
}

template <typename Steps>
VQ_INLINE void encode_trellis_code(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                   std::uint8_t* codes, float* rescale, float* norm, const std::string& isa) {
  const TrellisCode& code = *tables.trellis;
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables);
  const TrellisScratch s(scratch, tables);
  std::fill_n(s.values, kEncodeRows * d, std::int16_t{0});  // also of lanes that get no row
  for (std::size_t row = 0; row < n; row += kEncodeRows) {
    const std::size_t count = std::min(kEncodeRows, n - row);
    Norms norms[kBlocks];
    for (std::size_t b = 0; b * kLanes < count; ++b) {
      const std::size_t lanes = std::min<std::size_t>(kLanes, count - b * kLanes);
      const float* block = rows + (row + b * kLanes) * d;
      rotate_rows<Steps>(tables.rotation, block, lanes, s.rotated[b], s.columns, norms[b]);
      alignas(kAlign) float inverse[kLanes];
      deviations(norms[b], d, inverse);
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) {
        const float ratio = code.grid / (inverse[i] > 0.0f ? inverse[i] : 1.0f);
        inverse[i] = inverse[i] > 0.0f ? ratio : 0.0f;
      }
      const float* next = next_block(block, n - row - b * kLanes, d);
      store_values(tables.rotation, s.rotated[b], inverse, next, s.values + b * kLanes);
    }
    trellis_search(s.values, d, code.search, s.search, s.windows, s.starts, isa);
    for (std::size_t b = 0; b * kLanes < count; ++b) {
      const std::size_t first = b * kLanes, lanes = std::min<std::size_t>(kLanes, count - first);
      Sum64 dot;
      trellis_dot(tables, s.rotated[b], s.windows + first, dot);
      float* norm_out = norm ? norm + row + first : nullptr;
      store_scalars(tables, norms[b], dot.total(), lanes, rescale + row + first, norm_out);
    }
    pack_columns(code.search, s.windows, s.starts, d, bytes, s.packed);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t at = 0; at < bytes; ++at) codes[(row + i) * bytes + at] = s.packed[at * kEncodeRows + i];
  }
}

}  // namespace vqindex
