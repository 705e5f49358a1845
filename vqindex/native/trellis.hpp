// The Viterbi search of trellis codes (definition: vqindex/codes/trellis.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vqindex {

// The cost that the search minimizes. Each coordinate shifts `bits` new bits into a window of `window` bits, which
// looks up a level t. The cost of level t for value v is (clamp(v - t, +-limit) << gain)^2 >> 16.
struct TrellisSpec {
  const std::int16_t* table;  // 2^window levels, in units of v
  int bits;                   // 1 to 4
  int window;                 // bits < window <= 12
  int limit;
  int gain;
  int start_mask;  // bits of the first state that must be 0: the highest bits of its fields, or none
};

// How many int16 values of scratch a search for vectors of d values needs, whatever their number.
std::size_t trellis_scratch(std::size_t d, const TrellisSpec& spec);

// Searches for n vectors of d int16 values, row by row. Writes for each d fields of `bits` bits, and the `window -
// bits` oldest bits of the first window. `isa` is one of supported_isas(). The loops are compiled for "avx2" and for
// "avx512", which also serves its extensions; other names run the baseline.
void trellis_encode(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                    std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts, const std::string& isa);

}  // namespace vqindex
