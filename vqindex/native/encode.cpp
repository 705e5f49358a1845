// The encoder takes 16 vectors at a time through all steps while they are in the cache:
//
//   rows -> columns -> scaled columns, |x'|^2 -> rotated columns -> fields and levels -> packed rows, <y, yhat>
//
// All instruction sets run the same body, over plain loops or over steps written for one of them (encode_avx512.hpp).
// No rounding is left out or reordered (-ffp-contract=off), so every float equals the reference's.
#include "encode.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "encode_avx512.hpp"
#include "encode_cells.hpp"
#include "encode_trellis.hpp"
#include "prepare_row.hpp"

namespace vqindex {
namespace {

constexpr std::size_t kFewQueries = 4;  // so many take less time one by one than as 16 side by side

template <typename Steps>
VQ_INLINE void encode_body(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                           std::uint8_t* codes, float* rescale, float* norm, const std::string& isa) {
  if (tables.trellis) return encode_trellis_code<Steps>(tables, rows, n, scratch, codes, rescale, norm, isa);
  encode_scalar_code<Steps>(tables, rows, n, scratch, codes, rescale, norm);
}

template <typename Steps>
VQ_INLINE void prepare_body(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                            std::int16_t* code_query, float* code_scale, float* norm) {
  const std::size_t d = tables.rotation.dim;
  float* columns = static_cast<float*>(scratch);
  float* other = columns + d * kLanes;
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min<std::size_t>(kLanes, n - row);
    if (lanes <= kFewQueries) {
      for (; row < n; ++row)
        prepare_row<Steps>(tables, rows + row * d, columns, code_query + row * d, code_scale + row, norm + row);
      return;
    }
    Norms norms;
    rotate_rows<Steps>(tables.rotation, rows + row * d, lanes, columns, other, norms);
    alignas(kAlign) std::int32_t peak[kLanes] = {};
    raise_peaks(columns, d, peak);
    alignas(kAlign) float inverse[kLanes], scalars[kLanes];
    alignas(kAlign) LaneDoubles step;
    VQ_LANES
    for (int i = 0; i < kLanes; ++i) {
      const float largest = bits_float(peak[i]);
      inverse[i] = kQueryLimit / (peak[i] > 0 ? largest : 1.0f);
      step[i] = static_cast<double>(largest) / static_cast<double>(kQueryLimit);
    }
    const float* next = next_block(rows + row * d, n - row, d);
    store_integers(tables.rotation, columns, inverse, kQueryLimit, lanes, next, code_query + row * d);
    metric_lengths(step, norms, tables.cosine, scalars);
    std::copy_n(scalars, lanes, code_scale + row);
    metric_lengths(norms.norm, norms, tables.cosine, scalars);
    std::copy_n(scalars, lanes, norm + row);
  }
}

// ---- one function per instruction set

void encode_scalar(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                   float* rescale, float* norm, const std::string& isa) {
  encode_body<PlainSteps>(tables, rows, n, scratch, codes, rescale, norm, isa);
}

void prepare_scalar(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                    std::int16_t* code_query, float* code_scale, float* norm) {
  prepare_body<PlainSteps>(tables, rows, n, scratch, code_query, code_scale, norm);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void encode_avx2(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                std::uint8_t* codes, float* rescale, float* norm, const std::string& isa) {
  encode_body<PlainSteps>(tables, rows, n, scratch, codes, rescale, norm, isa);
}

VQ_TARGET_AVX2 void prepare_avx2(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                 std::int16_t* code_query, float* code_scale, float* norm) {
  prepare_body<PlainSteps>(tables, rows, n, scratch, code_query, code_scale, norm);
}

VQ_TARGET_AVX512 void encode_avx512(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                    std::uint8_t* codes, float* rescale, float* norm, const std::string& isa) {
  encode_body<Avx512Steps>(tables, rows, n, scratch, codes, rescale, norm, isa);
}

VQ_TARGET_AVX512 void prepare_avx512(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                                     std::int16_t* code_query, float* code_scale, float* norm) {
  prepare_body<Avx512Steps>(tables, rows, n, scratch, code_query, code_scale, norm);
}
#endif

}  // namespace

std::size_t code_bytes(const EncodeTables& tables) {
  const std::size_t warmup_bits = tables.trellis ? tables.trellis->search.window - tables.bits : 0;
  return (tables.rotation.dim * tables.bits + warmup_bits + 7) / 8;
}

std::size_t encode_scratch(const EncodeTables& tables) {
  if (tables.trellis) return TrellisScratch(nullptr, tables).bytes;
  return prepare_scratch(tables, kLanes) + kLanes * packed_stride(tables);
}

std::size_t prepare_scratch(const EncodeTables& tables, std::size_t n) {
  return 2 * tables.rotation.dim * (n <= kFewQueries ? 1 : kLanes) * sizeof(float);
}

void encode_rows(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                 float* rescale, float* norm, const std::string& isa) {
#ifdef VQ_X86
  if (width_of(isa) == Width::avx512) return encode_avx512(tables, rows, n, scratch, codes, rescale, norm, isa);
  if (width_of(isa) == Width::avx2) return encode_avx2(tables, rows, n, scratch, codes, rescale, norm, isa);
#endif
  encode_scalar(tables, rows, n, scratch, codes, rescale, norm, isa);
}

void prepare_queries(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                     std::int16_t* code_query, float* code_scale, float* norm,
                     [[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (width_of(isa) == Width::avx512) return prepare_avx512(tables, rows, n, scratch, code_query, code_scale, norm);
  if (width_of(isa) == Width::avx2) return prepare_avx2(tables, rows, n, scratch, code_query, code_scale, norm);
#endif
  prepare_scalar(tables, rows, n, scratch, code_query, code_scale, norm);
}

}  // namespace vqindex
