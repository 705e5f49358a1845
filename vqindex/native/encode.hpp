// Encodes vectors, and prepares queries as int16 integers, for codecs without a second projection. The definition is in
// codes/estimator.py and backends/reference.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "rotate.hpp"
#include "trellis.hpp"

namespace vqindex {

// What a trellis code has besides the tables of all codecs.
struct TrellisCode {
  TrellisSpec search;
  const std::int8_t* levels;  // [2^window], in grid steps
  float grid;                 // a normalized coordinate times this is a value of the search
};

// Views of the tables of one codec. Scalar codebooks are symmetric about 0, so only their positive halves are here.
struct EncodeTables {
  Hadamard rotation;
  int bits;           // 1 to 8; trellis 1 to 4
  bool cosine;        // scalars are divided by |x|
  bool renormalized;  // rescale is |x|^2 / <y, yhat>, else cell_scale |x|
  float cell_scale;
  const float* thresholds;     // [2^(bits - 1) - 1] between the positive cells, ascending; not for trellis codes
  const std::int32_t* levels;  // [2^(bits - 1)] of the positive cells, ascending
  const TrellisCode* trellis;  // null for scalar codes
};

// Rows that the trellis search takes at a time. Threads should get multiples of it.
constexpr std::size_t kEncodeRows = 32;

// Bytes of one packed row.
std::size_t code_bytes(const EncodeTables& tables);

// Bytes of scratch memory, aligned to kAlign, for each of the two functions below: for any number of rows, and for n
// queries or fewer.
std::size_t encode_scratch(const EncodeTables& tables);
std::size_t prepare_scratch(const EncodeTables& tables, std::size_t n);

// Encodes n finite rows of dim floats: codes [n][code_bytes], rescale [n] and, if `norm` is not null, norm [n]. `isa`
// is one of supported_isas(). The loops are compiled for "avx2"; all of "avx512" have steps of their own.
void encode_rows(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                 float* rescale, float* norm, const std::string& isa);

// Prepares n finite queries of dim floats: code_query [n][dim], code_scale [n] and norm [n].
void prepare_queries(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch,
                     std::int16_t* code_query, float* code_scale, float* norm, const std::string& isa);

}  // namespace vqindex
