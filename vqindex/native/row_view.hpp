// Access to the rows that a thread scans: addresses, prefetches, sign bits, and which rows a query may find.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scan.hpp"
#include "selection.hpp"

namespace vqindex {

// Prefetches memory at scattered addresses, which hardware does not foresee. It is always inlined: GCC takes a function
// that only prefetches for one without effects and drops calls of it.
VQ_INLINE void prefetch_bytes(const std::uint8_t* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) prefetch(from + i);
  if (bytes) prefetch(from + bytes - 1);
}

class RowView {
 public:
  const std::size_t sign_bytes;      // of one row in a block
  const std::size_t sign_row_bytes;  // of one row copied out of a block: the dimension padded to 64 bits

  RowView(const Kernels& kernels, std::size_t dim)
      : sign_bytes((dim + 7) / 8), sign_row_bytes(padded(dim, 64) / 8), kernels_(kernels) {}

  // Looks at another segment from here on. Its row 0 is row `first_row` of the whole search.
  void set(const SegmentView& segment, std::int64_t first_row) {
    segment_ = &segment;
    first_row_ = first_row;
  }

  const SegmentView& segment() const { return *segment_; }
  bool has_norms() const { return segment_->norm.first; }
  float norm_of(std::size_t row) const { return segment_->norm ? segment_->norm[row] : 1.0f; }
  float rescale_of(std::size_t row) const { return segment_->rescale[row]; }
  // The row's number in the whole search.
  std::int64_t number_of(std::size_t row) const { return first_row_ + static_cast<std::int64_t>(code_row(row)); }

  const std::uint8_t* code_of(std::size_t row) const { return segment_->codes + code_row(row) * segment_->row_stride; }
  // The sign bits of the block that begins with `row`.
  const std::uint8_t* sign_block(std::size_t row) const { return segment_->signs + row * sign_bytes; }

  VQ_INLINE void prefetch_code(std::size_t row) const { prefetch_bytes(code_of(row), segment_->row_bytes); }
  // Prefetches what scoring the row needs.
  VQ_INLINE void prefetch_row(std::size_t row) const {
    prefetch_code(row);
    prefetch(segment_->rescale.first + row * segment_->rescale.stride);
  }
  VQ_INLINE void prefetch_codes(std::size_t at, std::size_t count) const {
    if (!segment_->code_row)
      return prefetch_bytes(segment_->codes + at * segment_->row_stride, count * segment_->row_stride);
    for (std::size_t row = at; row < at + count; ++row) prefetch_code(row);
  }

  // Copies the sign bits of the rows in `mask` out of a block, one row after the other.
  void copy_signs(std::size_t block, std::uint64_t mask, std::uint8_t* signs) const {
    kernels_.sign_rows_u8(sign_block(block), sign_bytes, mask, signs, sign_row_bytes);
  }
  // Copies those of all rows from `at` to `stop`, in whole blocks.
  void copy_all_signs(std::size_t at, std::size_t stop, std::uint8_t* signs) const {
    for (; at < stop; at += kBlockRows, signs += kBlockRows * sign_row_bytes) copy_signs(at, ~std::uint64_t{0}, signs);
  }

  // ---- selections

  // The rows that query q may find in the block of `row`, as a mask.
  std::uint64_t selected(std::size_t q, std::size_t row) const {
    return segment_->selection ? segment_->selection[q * segment_->selection_stride + row / kBlockRows]
                               : ~std::uint64_t{0};
  }
  bool has_selection_per_query() const { return segment_->selection && segment_->selection_stride; }

  // Whether any of the `count` queries from q on may find any of the rows from `at` to `stop`.
  bool any_selected(std::size_t q, std::size_t count, std::size_t at, std::size_t stop) const {
    if (!segment_->selection) return true;
    for (std::size_t last = q + (segment_->selection_stride ? count : 1); q < last; ++q)
      for (std::size_t row = at; row < stop; row += kBlockRows)
        if (selected(q, row)) return true;
    return false;
  }

 private:
  std::size_t code_row(std::size_t row) const { return segment_->code_row ? segment_->code_row[row] : row; }

  const Kernels& kernels_;
  const SegmentView* segment_ = nullptr;
  std::int64_t first_row_ = 0;
};

}  // namespace vqindex
