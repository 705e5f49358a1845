// Decoding of packed rows to int8 levels, and exact sums of int16 queries with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vqindex {

// Decode n rows of `row_bytes` bytes to d levels each: level t is table[w], w the `window` bits of the row's stream
// from bit t * bits on (scalar codes: window = bits). bits <= 8, window <= 12.
void decode_levels(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, std::size_t d, int bits, int window,
                   const std::int8_t* table, std::int8_t* levels);

// int16 values of scratch memory for integer_sums.
std::size_t sums_scratch(std::size_t d);

// out[q * n + r] = float32 of the exact sum over d of queries[q][i] * levels[r][i].
void integer_sums(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n, std::size_t d,
                  std::int16_t* scratch, float* out, const std::string& isa);

}  // namespace vqindex
