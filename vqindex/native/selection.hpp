// Counting rows of bitmap selections.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scan.hpp"

namespace vqindex {

// A word with its lowest `count` bits set; all of them from 64 on.
inline std::uint64_t first_bits(std::size_t count) {
  return count < kBlockRows ? (std::uint64_t{1} << count) - 1 : ~std::uint64_t{0};
}

// How many blocks the rows from `at`, a multiple of 64, to `stop` take.
inline std::size_t blocks_of(std::size_t at, std::size_t stop) { return (stop - at + kBlockRows - 1) / kBlockRows; }

// Whether the segment has a selection that serves all queries.
inline bool has_common_selection(const SegmentView& segment) { return segment.selection && !segment.selection_stride; }

// How many rows from `first`, a multiple of 64, to `last` query q may find.
inline std::size_t count_selected(const SegmentView& segment, std::size_t q, std::size_t first, std::size_t last) {
  if (!segment.selection) return last - first;
  const std::uint64_t* words = segment.selection + q * segment.selection_stride;
  std::size_t count = 0;
  for (std::size_t at = first; at < last; at += kBlockRows)
    count += count_bits(words[at / kBlockRows] & first_bits(last - at));
  return count;
}

}  // namespace vqindex
