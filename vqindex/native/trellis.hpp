// Viterbi encoding for the trellis codec (definition: vqindex/codes/trellis.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vqindex {

// What the search minimises: windows of `window` bits, `bits` of them new at each coordinate; the cost of level t for
// value v is (clamp(v - t, +-limit) << gain)^2 >> 16.
struct TrellisSpec {
  const std::int16_t* table;  // 2^window levels, in units of v
  int bits;                   // 1 to 4
  int window;                 // bits < window <= 12
  int limit;
  int gain;
  int start_mask;  // bits of the first coordinate's state that must be 0: the highest bits of its fields, or none
};

// int16 values of scratch memory that encoding vectors of d values needs, whatever their number.
std::size_t trellis_scratch(std::size_t d, const TrellisSpec& spec);

// Encode n vectors of d int16 values, row-major. Writes d fields of `bits` bits and the first window's `window - bits`
// oldest bits for each. `isa` is one of supported_isas(); "avx2" and "avx512" have paths of their own here.
void trellis_encode(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                    std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts, const std::string& isa);

}  // namespace vqindex
