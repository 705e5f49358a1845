// Splits packed code rows into the bit planes that are stored and searched (bitplanes.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vqindex {

struct SplitLayout {
  std::size_t warmup_fields;  // fields before the first that has a sign bit
  std::size_t row_bytes, sign_bytes, rest_bytes;
};

// Splits n rows of `bits`-bit fields. Their sign bits become columns start, start + 1, ... of the blocks
// [row / 64][byte][row % 64] in `signs`, and their other bits rows of rest_bytes bytes in `rest`. `bits` is 4 at most
// if there are warm-up fields.
void split_rows(const std::uint8_t* codes, std::size_t n, const SplitLayout& layout, int bits, std::size_t start,
                std::uint8_t* signs, std::uint8_t* rest);

}  // namespace vqindex
