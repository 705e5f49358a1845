// The rows of a graph and their links in memory. Rows are records: all that scoring one row needs lies together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "isa.hpp"

namespace vqindex {

// Where the parts of a record are, in bytes (codes/records.py). Sign bits, if there are any, are at its beginning.
struct RecordLayout {
  std::size_t size, sign_bytes, code_at, code_bytes, rescale_at;
  bool has_norm;
  std::size_t norm_at;

  static float float_at(const std::uint8_t* record, std::size_t at) {
    float value;
    std::memcpy(&value, record + at, sizeof value);
    return value;
  }
  float rescale_of(const std::uint8_t* record) const { return float_at(record, rescale_at); }
  float norm_of(const std::uint8_t* record) const { return has_norm ? float_at(record, norm_at) : 1.0f; }
};

// Prefetches the cache lines of memory at any address, each once.
VQ_INLINE void prefetch_lines(const std::uint8_t* from, std::size_t bytes) {
  constexpr std::uintptr_t kLine = 64;
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(from);
  for (std::uintptr_t at = begin & ~(kLine - 1); at < begin + bytes; at += kLine)
    prefetch(reinterpret_cast<const void*>(at));
}

// Records that follow each other.
struct RecordBlock {
  const std::uint8_t* data;
  std::size_t count;
};

// Finds the record of a row in a list of blocks. Row numbers go on from block to block.
class Records {
 public:
  Records(const RecordLayout& layout, const std::vector<RecordBlock>& blocks) : layout_(layout) {
    for (const RecordBlock& block : blocks) {
      if (block.count) blocks_.push_back({block.data, count_});
      count_ += block.count;
    }
    blocks_.push_back({nullptr, count_});
    // A table of the block that each 2^shift_ rows begin in. There are some entries for each block, so few rows have
    // to look further than one block on.
    while ((count_ >> shift_) > 4 * blocks_.size()) ++shift_;
    for (std::size_t at = 0, b = 0; at <= count_; at += std::size_t{1} << shift_) {
      while (b + 2 < blocks_.size() && at >= blocks_[b + 1].first) ++b;
      near_.push_back(b);
    }
  }

  const RecordLayout& layout() const { return layout_; }
  std::size_t count() const { return count_; }

  VQ_INLINE const std::uint8_t* of(std::size_t row) const {
    const Block* block = blocks_.data() + near_[row >> shift_];
    while (row >= block[1].first) ++block;
    return block->data + (row - block->first) * layout_.size;
  }

 private:
  struct Block {
    const std::uint8_t* data;
    std::size_t first;  // row
  };

  RecordLayout layout_;
  std::vector<Block> blocks_;  // and one behind the last row
  std::vector<std::size_t> near_;
  std::size_t count_ = 0;
  int shift_ = 6;
};

constexpr std::uint32_t kNoRow = 0xffffffff;  // fills the slots that have no link

// Links to rows, of three or four bytes each. They may come from a file and hold any numbers.
struct LinkView {
  const std::uint8_t* data;
  std::size_t rows, slots, width;

  const std::uint8_t* of(std::size_t row) const { return data + row * slots * width; }
  VQ_INLINE void prefetch_row(std::size_t row) const { prefetch_lines(of(row), slots * width); }

  // Calls use(row) with the links of a row, up to the first free slot. Numbers of no row are left out.
  template <typename Use>
  VQ_INLINE void each(std::size_t row, Use use) const {
    const std::uint8_t* at = of(row);
    if (width == 4) {
      for (std::size_t i = 0; i < slots; ++i, at += 4) {
        const std::uint32_t link = four_bytes(at);
        if (link == kNoRow) return;
        if (link < rows) use(link);
      }
      return;
    }
    // All links but the last are read as four bytes. The fourth belongs to the next link.
    for (std::size_t i = 0; i < slots; ++i, at += 3) {
      const std::uint32_t link = i + 1 < slots ? four_bytes(at) & kNoRow >> 8 : at[0] | at[1] << 8 | at[2] << 16;
      if (link == kNoRow >> 8) return;
      if (link < rows) use(link);
    }
  }

  static std::uint32_t four_bytes(const std::uint8_t* at) {
    std::uint32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
};

// The same to be changed. Threads may change different rows at the same time.
struct LinkTable {
  std::uint8_t* data;
  std::size_t rows, slots, width;

  LinkView view(std::size_t first_rows) const { return {data, first_rows, slots, width}; }

  // The first link of a row, of any number, or kNoRow.
  std::uint32_t first(std::size_t row) const {
    std::uint32_t link = 0;
    std::memcpy(&link, data + row * slots * width, width);
    return link == kNoRow >> (32 - 8 * width) ? kNoRow : link;
  }
  // Links to no row, and of a row to itself, which a file may have, are left out.
  void read(std::uint32_t row, std::vector<std::uint32_t>& links) const {
    links.clear();
    view(rows).each(row, [&](std::uint32_t link) {
      if (link != row) links.push_back(link);
    });
  }
  void write(std::size_t row, const std::vector<std::uint32_t>& links) const {
    std::uint8_t* at = data + row * slots * width;
    for (std::size_t i = 0; i < slots; ++i, at += width) {
      const std::uint32_t link = i < links.size() ? links[i] : kNoRow;
      std::memcpy(at, &link, width);
    }
  }
};

}  // namespace vqindex
