// Vectors to codes, and queries to the integer grid (definition: codes/estimator.py and backends/reference.py), for
// codecs without a second projection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "rotate.hpp"
#include "trellis.hpp"

namespace vqindex {

// The part of a codec that the trellis code adds.
struct TrellisCode {
  TrellisSpec search;
  const std::int8_t* levels;  // [2^window], in grid steps
  float grid;                 // values of the search per unit of u
};

// Views of the tables of one codec. The scalar codebooks are symmetric, so their positive halves say everything.
struct EncodeTables {
  Hadamard rotation;
  int bits;           // 1 to 8; trellis 1 to 4
  bool cosine;        // scalars are relative to |x|
  bool renormalised;  // factor is |x|^2 / <y, decoded>, else cell_scale |x|
  float cell_scale;
  const float* thresholds;     // [2^(bits - 1) - 1], ascending, above 0; unused by the trellis code
  const std::int32_t* levels;  // [2^(bits - 1)], ascending, the first above 0: the level above each of them and above 0
  const TrellisCode* trellis;  // null for scalar codes
};

// Rows that share a step; pieces of work should be multiples of it.
constexpr std::size_t kEncodeRows = 32;

// Bytes of one packed row.
std::size_t code_bytes(const EncodeTables& tables);

// Bytes of scratch memory, aligned to kAlign, for each of the functions below, whatever the number of rows.
std::size_t encode_scratch(const EncodeTables& tables);
std::size_t prepare_scratch(const EncodeTables& tables);

// Encode n finite rows of dim floats: codes [n][code_bytes], factor [n] and, if `norm` is not null, norm [n]. `isa` is
// one of supported_isas(); "avx2" and "avx512" have paths of their own here.
void encode_rows(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::uint8_t* codes,
                 float* factor, float* norm, const std::string& isa);

// Prepare n finite queries of dim floats: lead [n][dim], lead_scale [n] and norm [n].
void prepare_queries(const EncodeTables& tables, const float* rows, std::size_t n, void* scratch, std::int16_t* lead,
                     float* lead_scale, float* norm, const std::string& isa);

}  // namespace vqindex
