// Bringing packed code rows into the layout that is stored and searched (planes.py).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vqindex {

// Rows of `row_bytes` bytes become column start, start + 1, ... of the sign plane [row / 64][byte][row % 64], and rows
// of rest_bytes bytes.
void split_rows(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, int bits, std::size_t sign_bytes,
                std::size_t start, std::uint8_t* signs, std::uint8_t* rest, std::size_t rest_bytes);

}  // namespace vqindex
