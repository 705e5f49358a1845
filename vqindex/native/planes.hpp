// Bringing packed code rows into the layout that is stored and searched (bitplanes.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vqindex {

struct PlaneLayout {
  std::size_t lead;  // fields before the first that has a sign
  std::size_t row_bytes, sign_bytes, rest_bytes;
};

// Rows of `bits`-bit fields become column start, start + 1, ... of the sign plane [row / 64][byte][row % 64], and rows
// of rest_bytes bytes. `bits` is 4 at most if there are fields without a sign.
void split_rows(const std::uint8_t* codes, std::size_t n, const PlaneLayout& layout, int bits, std::size_t start,
                std::uint8_t* signs, std::uint8_t* rest);

}  // namespace vqindex
