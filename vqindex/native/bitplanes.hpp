// Splits packed code rows into the bit planes that are stored and searched (bitplanes.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vqindex {

struct SplitLayout {
  std::size_t warmup_fields;  // fields before the first that has a sign bit
  std::size_t row_bytes, sign_bytes, rest_bytes;
};

// Where the parts of rows go, from their first row on. Rows of `rest` and `sign_rows` may lie in records, so they are
// some bytes apart.
struct SplitOutput {
  std::uint8_t* signs;  // blocks [row / 64][byte][row % 64]
  std::uint8_t* rest;   // rows of rest_bytes bytes
  std::size_t rest_stride;
  std::uint8_t* sign_rows;  // rows of sign_bytes bytes, or null
  std::size_t sign_row_stride;
};

// Splits n rows of `bits`-bit fields. Their sign bits become columns start, start + 1, ... of the blocks, and also rows
// if there are any. Their other bits become rows of `rest`. If rest_bytes is kWholeRows, these get the whole code rows
// instead. `bits` is 4 at most if there are warm-up fields.
constexpr std::size_t kWholeRows = ~std::size_t{0};
void split_rows(const std::uint8_t* codes, std::size_t n, const SplitLayout& layout, int bits, std::size_t start,
                const SplitOutput& out);

}  // namespace vqindex
