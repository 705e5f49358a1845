// Rows by id: open addressing over row numbers. The ids stay where they are, in row order, and come with every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vqindex {

class IdTable {
 public:
  // Takes the rows below `count` in that are not there yet; a row replaces an earlier one of the same id. Unchanged if
  // it throws.
  void put(const std::int64_t* ids, std::size_t count) {
    if (count <= rows_) return;
    const std::size_t most = used_ + (count - rows_);
    if (4 * most > 3 * slots_.size()) grow(ids, most);
    for (; rows_ < count; ++rows_) place(ids, rows_);
  }

  // The row of an id among the first `count` ones, -1 if there is none.
  std::int64_t find(const std::int64_t* ids, std::size_t count, std::int64_t id) const {
    return slots_.empty() ? -1 : slots_[slot_of(ids, count, id)];
  }

  std::size_t bytes() const { return slots_.size() * sizeof(std::int64_t); }

  std::size_t distinct() const { return used_; }

 private:
  // The finalizer of splitmix64: ids that follow each other, or that share their low bits, lie apart.
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  // Where an id of the first `count` rows is, or the free slot where it belongs; there is always one. Rows from `count`
  // on, which one who looks at an earlier state does not know, are passed over.
  std::size_t slot_of(const std::int64_t* ids, std::size_t count, std::int64_t id) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = mixed(static_cast<std::uint64_t>(id)) & mask;
    while (slots_[slot] >= 0 && (static_cast<std::size_t>(slots_[slot]) >= count || ids[slots_[slot]] != id))
      slot = (slot + 1) & mask;
    return slot;
  }

  void place(const std::int64_t* ids, std::size_t row) {
    std::int64_t& slot = slots_[slot_of(ids, row, ids[row])];
    used_ += slot < 0;
    slot = static_cast<std::int64_t>(row);
  }

  void grow(const std::int64_t* ids, std::size_t most) {
    std::size_t size = 64;
    while (3 * size < 4 * most) size *= 2;
    std::vector<std::int64_t> old(size, -1);
    old.swap(slots_);
    used_ = 0;
    for (std::int64_t row : old)
      if (row >= 0) place(ids, static_cast<std::size_t>(row));
  }

  std::vector<std::int64_t> slots_;  // a row or -1; a power of two of them, at most three quarters used
  std::size_t used_ = 0;  // slots, and so distinct ids
  std::size_t rows_ = 0;  // taken in
};

// Whether the bit of a row is set; all are if there are no bits.
inline bool is_live(const std::uint64_t* live, std::int64_t row) { return !live || live[row / 64] >> (row % 64) & 1; }

// Clears the bits of rows that are set, negative rows being none; returns how many those were.
inline std::size_t clear_bits(std::uint64_t* live, const std::int64_t* rows, std::size_t count) {
  std::size_t cleared = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (rows[i] < 0 || !is_live(live, rows[i])) continue;
    live[rows[i] / 64] &= ~(std::uint64_t{1} << (rows[i] % 64));
    ++cleared;
  }
  return cleared;
}

}  // namespace vqindex
