// Blocks of 16 vectors go through all steps while they lie in the cache:
//
//   rows -> columns -> scaled columns, |x'|^2 -> rotated columns -> fields and levels -> packed rows, <y, yhat>
//
// All paths run the same body. No step is fused or reordered (-ffp-contract=off), so every float is the reference's.
#include "encode.hpp"

#include <algorithm>
#include <cmath>

namespace vqindex {
namespace {

constexpr std::int32_t kTiny = 1 << 23;          // bits of the least normal float
constexpr std::int32_t kCut = (127 - 31) << 23;  // bits of 2^-31
constexpr float kQueryLimit = 32767.0f;
constexpr float kPeak = 127.0f * 128.0f;  // of the trellis code's values
constexpr std::size_t kBlocks = kBlockRows / kLanes;

// What is known of each vector of a block before it is rotated.
struct Norms {
  alignas(kAlign) LaneDoubles norm2;  // of the scaled vector; 0 only for zero vectors
  alignas(kAlign) LaneDoubles norm;   // its root
  alignas(kAlign) LaneDoubles unit;   // 2^shift: x = x' * unit
};

// Round to float, what would be subnormal to 0.
VQ_INLINE float flush(double value) {
  const float narrow = static_cast<float>(value);
  return magnitude_bits(narrow) < kTiny ? 0.0f : narrow;
}

VQ_INLINE void load_rows(const float* rows, std::size_t lanes, std::size_t d, float* columns) {
  const float* lane[kLanes];
  // Lanes without a row repeat the first one; nothing of them is stored.
  for (std::size_t i = 0; i < kLanes; ++i) lane[i] = rows + (i < lanes ? i * d : 0);
  load_columns(lane, d, columns);
}

// Raise `peak` to the bits of the largest magnitude of each lane.
VQ_INLINE void raise_peaks(const float* columns, std::size_t d, std::int32_t (&peak)[kLanes]) {
  for (std::size_t j = 0; j < d; ++j) {
    const float* column = columns + j * kLanes;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const std::int32_t bits = magnitude_bits(column[i]);
      peak[i] = bits > peak[i] ? bits : peak[i];
    }
  }
}

// Bring columns into the scaled domain.
VQ_INLINE void scale_columns(float* columns, std::size_t d, Norms& norms) {
  alignas(kAlign) std::int32_t peak[kLanes] = {};
  raise_peaks(columns, d, peak);

  alignas(kAlign) float power[kLanes];
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    // peak = m 2^(exponent - 127), m in [1, 2), is brought to 2m; exponent 0 means a zero vector.
    const std::int32_t exponent = peak[i] >> 23;
    const std::int32_t biased = exponent > 0 ? 255 - exponent : 127;
    power[i] = bits_float(biased << 23);
    norms.unit[i] = 1.0 / static_cast<double>(power[i]);
  }

  Sum64 sum;
  sum.clear();
  for (std::size_t j = 0; j < d; ++j) {
    float* column = columns + j * kLanes;
    double* partial = sum.partial[j % 32];
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const float scaled = column[i] * power[i];
      // Masks instead of a condition: compilers don't widen short-circuits.
      const int big = magnitude_bits(column[i]) >= kTiny, kept = magnitude_bits(scaled) >= kCut;
      const std::int32_t keep = -(big & kept);
      const float value = bits_float(float_bits(scaled) & keep);
      const double wide = value;
      column[i] = value;
      partial[i] += wide * wide;
    }
  }
  const LaneDoubles& total = sum.total();
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    norms.norm2[i] = total[i];
    norms.norm[i] = std::sqrt(total[i]);
  }
}

// Load, scale and rotate a block of rows; `columns` is working space.
VQ_INLINE void rotate_rows(const Hadamard& rotation, const float* rows, std::size_t lanes, float* columns,
                           float* rotated, Norms& norms) {
  load_rows(rows, lanes, rotation.dim, columns);
  scale_columns(columns, rotation.dim, norms);
  rotate(rotation, columns, rotated);
}

// Lengths of the scaled domain in those of the metric: units of |x|, or for cosine parts of it.
VQ_INLINE void rescale(const double* values, const Norms& norms, bool cosine, float* out) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) {
    const bool some = norms.norm2[i] > 0.0;
    const double part = values[i] / (some ? norms.norm[i] : 1.0);
    out[i] = flush(cosine ? (some ? part : 0.0) : values[i] * norms.unit[i]);
  }
}

// s: the standard deviation of a coordinate of y.
VQ_INLINE void deviations(const Norms& norms, std::size_t d, float* scale) {
  VQ_LANES
  for (int i = 0; i < kLanes; ++i) scale[i] = static_cast<float>(std::sqrt(norms.norm2[i] / static_cast<double>(d)));
}

// Write the scalars of a block. `dot` is <y, yhat>, unused unless the codec is renormalised.
VQ_INLINE void store_scalars(const EncodeTables& tables, const Norms& norms, const double* dot, std::size_t lanes,
                             float* factor, float* norm) {
  alignas(kAlign) float factors[kLanes], lengths[kLanes];
  if (tables.renormalised) {
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const bool positive = dot[i] > 0.0;
      const double ratio = (tables.cosine ? norms.norm[i] : norms.norm2[i]) / (positive ? dot[i] : 1.0);
      factors[i] = flush(positive ? ratio * (tables.cosine ? 1.0 : norms.unit[i]) : 0.0);
    }
  } else {
    alignas(kAlign) LaneDoubles values;
    const double step = tables.cell_scale;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) values[i] = norms.norm[i] * step;
    rescale(values, norms, tables.cosine, factors);
  }
  std::copy_n(factors, lanes, factor);
  if (!norm) return;
  rescale(norms.norm, norms, false, lengths);
  std::copy_n(lengths, lanes, norm);
}

// ---- scalar codes

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

// Quantise a block: packed rows of `stride` bytes (whole groups and slack) and the sum of y times level.
template <int Bits>
VQ_INLINE void quantise(const EncodeTables& tables, const float* rotated, const float* scale, Sum64& dot,
                        std::size_t stride, std::uint8_t* packed) {
  const std::size_t d = tables.rotation.dim;
  Cell<Bits> cell;
  cell.prepare(tables, scale);
  dot.clear();
  for (std::size_t begin = 0; begin < d; begin += 8) {
    Group group = {};
    const std::size_t end = std::min(d, begin + 8);
    for (std::size_t j = begin; j < end; ++j) {
      const float* column = rotated + tables.rotation.source[j] * kLanes;
      double* partial = dot.partial[j % 32];
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
}

std::size_t packed_stride(const EncodeTables& tables) { return (tables.rotation.dim + 7) / 8 * tables.bits + 8; }

VQ_INLINE void quantise_block(const EncodeTables& tables, const float* rotated, const float* scale, Sum64& dot,
                              std::uint8_t* packed) {
  const std::size_t stride = packed_stride(tables);
  switch (tables.bits) {
    case 1:
      return quantise<1>(tables, rotated, scale, dot, stride, packed);
    case 2:
      return quantise<2>(tables, rotated, scale, dot, stride, packed);
    case 3:
      return quantise<3>(tables, rotated, scale, dot, stride, packed);
    case 4:
      return quantise<4>(tables, rotated, scale, dot, stride, packed);
    case 5:
      return quantise<5>(tables, rotated, scale, dot, stride, packed);
    case 6:
      return quantise<6>(tables, rotated, scale, dot, stride, packed);
    case 7:
      return quantise<7>(tables, rotated, scale, dot, stride, packed);
    default:
      return quantise<8>(tables, rotated, scale, dot, stride, packed);
  }
}

VQ_INLINE void encode_scalar_code(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                  std::uint8_t* codes, float* factor, float* norm) {
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables), stride = packed_stride(tables);
  float* columns = static_cast<float*>(scratch);
  float* rotated = columns + d * kLanes;
  std::uint8_t* packed = reinterpret_cast<std::uint8_t*>(rotated + d * kLanes);
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min<std::size_t>(kLanes, n - row);
    Norms norms;
    rotate_rows(tables.rotation, rows + row * d, lanes, columns, rotated, norms);
    alignas(kAlign) float scale[kLanes];
    deviations(norms, d, scale);
    Sum64 dot;
    quantise_block(tables, rotated, scale, dot, packed);
    store_scalars(tables, norms, dot.total(), lanes, factor + row, norm ? norm + row : nullptr);
    for (std::size_t i = 0; i < lanes; ++i) std::copy_n(packed + i * stride, bytes, codes + (row + i) * bytes);
  }
}

// ---- trellis codes

// Scratch memory of the trellis code, for a search's rows.
struct TrellisScratch {
  float* columns;
  float* rotated[kBlocks];
  std::int16_t* search;
  std::int16_t* values;   // [kBlockRows][dim]
  std::uint16_t* starts;  // [kBlockRows]
  std::uint8_t* fields;   // [kBlockRows][dim]
  std::size_t bytes;      // of all of them

  TrellisScratch(void* memory, const EncodeTables& tables) {
    const std::size_t d = tables.rotation.dim;
    bytes = 0;
    auto take = [this, memory](std::size_t size) -> std::uint8_t* {
      std::uint8_t* here = memory ? static_cast<std::uint8_t*>(memory) + bytes : nullptr;  // null: only to be measured
      bytes += (size + kAlign - 1) / kAlign * kAlign;
      return here;
    };
    columns = reinterpret_cast<float*>(take(d * kLanes * sizeof(float)));
    for (float*& block : rotated) block = reinterpret_cast<float*>(take(d * kLanes * sizeof(float)));
    search = reinterpret_cast<std::int16_t*>(take(trellis_scratch(d, tables.trellis->search) * sizeof(std::int16_t)));
    values = reinterpret_cast<std::int16_t*>(take(kBlockRows * d * sizeof(std::int16_t)));
    starts = reinterpret_cast<std::uint16_t*>(take(kBlockRows * sizeof(std::uint16_t)));
    fields = take(kBlockRows * d);
  }
};

// Row-major integers of rotated columns: round(y * inverse), clipped to +-limit.
VQ_INLINE void store_integers(const Hadamard& rotation, const float* rotated, const float* inverse, float limit,
                              std::size_t lanes, std::int16_t* out) {
  const std::size_t d = rotation.dim;
  alignas(kAlign) float tile[kLanes][kLanes] = {}, turned[kLanes][kLanes];
  const float* tile_rows[kLanes];
  for (int c = 0; c < kLanes; ++c) tile_rows[c] = tile[c];
  for (std::size_t begin = 0; begin < d; begin += kLanes) {
    const std::size_t width = std::min<std::size_t>(kLanes, d - begin);
    for (std::size_t c = 0; c < width; ++c) {
      const float* column = rotated + rotation.source[begin + c] * kLanes;
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) {
        float value = column[i] * inverse[i];
        value = value > -limit ? value : -limit;
        value = value < limit ? value : limit;
        tile[c][i] = round_even(value);
      }
    }
    load_columns(tile_rows, kLanes, turned[0]);
    for (std::size_t i = 0; i < lanes; ++i) {
      alignas(kAlign) std::int16_t whole[kLanes];
      VQ_LANES
      for (int c = 0; c < kLanes; ++c) whole[c] = static_cast<std::int16_t>(static_cast<std::int32_t>(turned[i][c]));
      if (width == kLanes)
        std::memcpy(out + i * d + begin, whole, sizeof whole);
      else
        std::copy_n(whole, width, out + i * d + begin);
    }
  }
}

// Pack a row's fields behind the `filled` bits that are already there.
void pack_behind(std::uint32_t first, int filled, const std::uint8_t* fields, std::size_t count, int bits,
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

// trellis.py: signs take the place of the highest bits of a row's fields. `start` holds the fields before the first.
void store_signs(const TrellisSpec& code, std::uint16_t start, std::size_t d, std::uint8_t* fields) {
  const std::size_t lead = static_cast<std::size_t>(code.window / code.bits - 1);
  for (std::size_t t = 0; t < d; ++t) {
    const unsigned oldest = t < lead ? unsigned{start} >> (t * static_cast<std::size_t>(code.bits)) : fields[t - lead];
    fields[t] = static_cast<std::uint8_t>(fields[t] ^ (oldest & 1) << (code.bits - 1));
  }
}

// The sum of y times the level that each coordinate's window decodes to.
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

VQ_INLINE void encode_trellis_code(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                   std::uint8_t* codes, float* factor, float* norm, const std::string& isa) {
  const TrellisCode& code = *tables.trellis;
  const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables);
  const TrellisScratch s(scratch, tables);
  const int lead_bits = code.search.window - code.search.bits;
  for (std::size_t row = 0; row < n; row += kBlockRows) {
    const std::size_t count = std::min(kBlockRows, n - row);
    Norms norms[kBlocks];
    for (std::size_t b = 0; b * kLanes < count; ++b) {
      const std::size_t lanes = std::min<std::size_t>(kLanes, count - b * kLanes);
      rotate_rows(tables.rotation, rows + (row + b * kLanes) * d, lanes, s.columns, s.rotated[b], norms[b]);
      alignas(kAlign) float inverse[kLanes];
      deviations(norms[b], d, inverse);
      VQ_LANES
      for (int i = 0; i < kLanes; ++i) {
        const float ratio = code.grid / (inverse[i] > 0.0f ? inverse[i] : 1.0f);
        inverse[i] = inverse[i] > 0.0f ? ratio : 0.0f;
      }
      store_integers(tables.rotation, s.rotated[b], inverse, kPeak, lanes, s.values + b * kLanes * d);
    }
    trellis_encode(s.values, count, d, code.search, s.search, s.fields, s.starts, isa);
    for (std::size_t b = 0; b * kLanes < count; ++b) {
      const std::size_t first = b * kLanes, lanes = std::min<std::size_t>(kLanes, count - first);
      Sum64 dot;
      trellis_dot(tables, s.rotated[b], s.fields + first * d, s.starts + first, lanes, s.columns, dot);
      float* norm_out = norm ? norm + row + first : nullptr;
      store_scalars(tables, norms[b], dot.total(), lanes, factor + row + first, norm_out);
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (code.search.start_mask) store_signs(code.search, s.starts[i], d, s.fields + i * d);
      pack_behind(s.starts[i], lead_bits, s.fields + i * d, d, tables.bits, codes + (row + i) * bytes, bytes);
    }
  }
}

VQ_INLINE void encode_body(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                           std::uint8_t* codes, float* factor, float* norm, const std::string& isa) {
  if (tables.trellis) return encode_trellis_code(tables, rows, n, scratch, codes, factor, norm, isa);
  encode_scalar_code(tables, rows, n, scratch, codes, factor, norm);
}

// ---- queries

VQ_INLINE void prepare_body(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                            std::int16_t* lead, float* lead_scale, float* norm) {
  const std::size_t d = tables.rotation.dim;
  float* columns = static_cast<float*>(scratch);
  float* rotated = columns + d * kLanes;
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min<std::size_t>(kLanes, n - row);
    Norms norms;
    rotate_rows(tables.rotation, rows + row * d, lanes, columns, rotated, norms);
    alignas(kAlign) std::int32_t peak[kLanes] = {};
    raise_peaks(rotated, d, peak);
    alignas(kAlign) float inverse[kLanes], scalars[kLanes];
    alignas(kAlign) LaneDoubles step;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const float largest = bits_float(peak[i]);
      inverse[i] = kQueryLimit / (peak[i] > 0 ? largest : 1.0f);
      step[i] = static_cast<double>(largest) / static_cast<double>(kQueryLimit);
    }
    store_integers(tables.rotation, rotated, inverse, kQueryLimit, lanes, lead + row * d);
    rescale(step, norms, tables.cosine, scalars);
    std::copy_n(scalars, lanes, lead_scale + row);
    rescale(norms.norm, norms, tables.cosine, scalars);
    std::copy_n(scalars, lanes, norm + row);
  }
}

// ---- one function per instruction set

void encode_scalar(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                   float* factor, float* norm, const std::string& isa) {
  encode_body(tables, rows, n, scratch, codes, factor, norm, isa);
}

void prepare_scalar(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::int16_t* lead,
                    float* lead_scale, float* norm) {
  prepare_body(tables, rows, n, scratch, lead, lead_scale, norm);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void encode_avx2(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                std::uint8_t* codes, float* factor, float* norm, const std::string& isa) {
  encode_body(tables, rows, n, scratch, codes, factor, norm, isa);
}

VQ_TARGET_AVX2 void prepare_avx2(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                 std::int16_t* lead, float* lead_scale, float* norm) {
  prepare_body(tables, rows, n, scratch, lead, lead_scale, norm);
}

VQ_TARGET_AVX512 void encode_avx512(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                    std::uint8_t* codes, float* factor, float* norm, const std::string& isa) {
  encode_body(tables, rows, n, scratch, codes, factor, norm, isa);
}

VQ_TARGET_AVX512 void prepare_avx512(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                     std::int16_t* lead, float* lead_scale, float* norm) {
  prepare_body(tables, rows, n, scratch, lead, lead_scale, norm);
}
#endif

}  // namespace

std::size_t code_bytes(const EncodeTables& tables) {
  const std::size_t lead = tables.trellis ? tables.trellis->search.window - tables.bits : 0;
  return (tables.rotation.dim * tables.bits + lead + 7) / 8;
}

std::size_t encode_scratch(const EncodeTables& tables) {
  if (tables.trellis) return TrellisScratch(nullptr, tables).bytes;
  return prepare_scratch(tables) + kLanes * packed_stride(tables);
}

std::size_t prepare_scratch(const EncodeTables& tables) { return 2 * tables.rotation.dim * kLanes * sizeof(float); }

void encode_rows(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                 float* factor, float* norm, const std::string& isa) {
#ifdef VQ_X86
  if (isa.rfind("avx512", 0) == 0) return encode_avx512(tables, rows, n, scratch, codes, factor, norm, isa);
  if (isa == "avx2") return encode_avx2(tables, rows, n, scratch, codes, factor, norm, isa);
#endif
  encode_scalar(tables, rows, n, scratch, codes, factor, norm, isa);
}

void prepare_queries(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::int16_t* lead,
                     float* lead_scale, float* norm, const std::string& isa) {
#ifdef VQ_X86
  if (isa.rfind("avx512", 0) == 0) return prepare_avx512(tables, rows, n, scratch, lead, lead_scale, norm);
  if (isa == "avx2") return prepare_avx2(tables, rows, n, scratch, lead, lead_scale, norm);
#endif
  prepare_scalar(tables, rows, n, scratch, lead, lead_scale, norm);
}

}  // namespace vqindex
