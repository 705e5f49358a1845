// Encoding with trellis codes: rounds rows to the integers of the search, searches for kEncodeRows of them together,
// and packs the rows. Only encode.cpp includes this.
#pragma once

#include <algorithm>
#include <string>

#include "encode_block.hpp"

namespace vqindex {

constexpr float kPeak = 127.0f * 128.0f;  // largest value of the search
constexpr std::size_t kBlocks = kEncodeRows / kLanes;

// The scratch memory of one search.
struct TrellisScratch {
  float* columns;
  float* rotated[kBlocks];
  std::int16_t* search;
  std::int16_t* values;   // [kEncodeRows][dim]
  std::uint16_t* starts;  // [kEncodeRows]
  std::uint8_t* fields;   // [kEncodeRows][dim]
  std::size_t bytes;      // of all of them

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
    search =
        reinterpret_cast<std::int16_t*>(allocate(trellis_scratch(d, tables.trellis->search) * sizeof(std::int16_t)));
    values = reinterpret_cast<std::int16_t*>(allocate(kEncodeRows * d * sizeof(std::int16_t)));
    starts = reinterpret_cast<std::uint16_t*>(allocate(kEncodeRows * sizeof(std::uint16_t)));
    fields = allocate(kEncodeRows * d);
  }
};

// Packs a row's fields after the `filled` bits of `first`.
inline void pack_after(std::uint32_t first, int filled, const std::uint8_t* fields, std::size_t count, int bits,
                       std::uint8_t* out, std::size_t bytes) {
  std::uint32_t word = first;
  std::size_t next = 0;
  for (std::size_t t = 0; t < count; ++t) {
    word |= std::uint32_t{fields[t]} << filled;
    filled += bits;
    while (filled >= 8) {
      out[next++] = static_cast<std::uint8_t>(word);
      word >>= 8;
      filled -= 8;
    }
  }
  while (next < bytes) {
    out[next++] = static_cast<std::uint8_t>(word);
    word >>= 8;
  }
}

// Replaces the highest bit of each field by the coordinate's sign bit (trellis.py). `start` has the warm-up fields.
inline void store_signs(const TrellisSpec& code, std::uint16_t start, std::size_t d, std::uint8_t* fields) {
  const std::size_t warmup_fields = static_cast<std::size_t>(code.window / code.bits - 1);
  for (std::size_t t = 0; t < d; ++t) {
    const unsigned oldest =
        t < warmup_fields ? unsigned{start} >> (t * static_cast<std::size_t>(code.bits)) : fields[t - warmup_fields];
    fields[t] = static_cast<std::uint8_t>(fields[t] ^ (oldest & 1) << (code.bits - 1));
  }
}

// Sums y times the level that each coordinate's window decodes to.
VQ_INLINE void trellis_dot(const EncodeTables& tables, const float* rotated, const std::uint8_t* fields,
                           const std::uint16_t* starts, std::size_t lanes, float* levels, Sum64& dot) {
  const std::size_t d = tables.rotation.dim;
  const TrellisCode& code = *tables.trellis;
  const int newest = code.search.window - code.search.bits;
  std::fill_n(levels, d * kLanes, 0.0f);
  for (std::size_t i = 0; i < lanes; ++i) {
    unsigned state = starts[i];
    for (std::size_t t = 0; t < d; ++t) {
      const unsigned window = state | unsigned{fields[i * d + t]} << newest;
      levels[t * kLanes + i] = code.levels[window];
      state = window >> code.search.bits;
    }
  }
  dot.clear();
  for (std::size_t j = 0; j < d; ++j) {
    const float* column = rotated + tables.rotation.source[j] * kLanes;
    const float* level = levels + j * kLanes;
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
  const int warmup_bits = code.search.window - code.search.bits;
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
      store_integers(tables.rotation, s.rotated[b], inverse, kPeak, lanes, next_block(block, n - row - b * kLanes, d),
                     s.values + b * kLanes * d);
    }
    trellis_encode(s.values, count, d, code.search, s.search, s.fields, s.starts, isa);
    for (std::size_t b = 0; b * kLanes < count; ++b) {
      const std::size_t first = b * kLanes, lanes = std::min<std::size_t>(kLanes, count - first);
      Sum64 dot;
      trellis_dot(tables, s.rotated[b], s.fields + first * d, s.starts + first, lanes, s.columns, dot);
      float* norm_out = norm ? norm + row + first : nullptr;
      store_scalars(tables, norms[b], dot.total(), lanes, rescale + row + first, norm_out);
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (code.search.start_mask) store_signs(code.search, s.starts[i], d, s.fields + i * d);
      pack_after(s.starts[i], warmup_bits, s.fields + i * d, d, tables.bits, codes + (row + i) * bytes, bytes);
    }
  }
}

}  // namespace vqindex
