// Rows by id: open addressing over row numbers. The ids stay where they are, in row order, and come with every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vqindex {

class IdTable {
 public:
  // Takes rows from `first` to `last` in; a row replaces an earlier one of the same id. Unchanged if it throws.
  void put(const std::int64_t* ids, std::size_t first, std::size_t last) {
    const std::size_t most = used_ + (last - first);
    if (4 * most > 3 * slots_.size()) grow(ids, most);
    for (std::size_t row = first; row < last; ++row) place(ids, row);
  }

  // The row of an id, -1 if there is none.
  std::int64_t find(const std::int64_t* ids, std::int64_t id) const {
    return slots_.empty() ? -1 : slots_[slot_of(ids, id)];
  }

  std::size_t bytes() const { return slots_.size() * sizeof(std::int64_t); }

 private:
  // The finalizer of splitmix64: ids that follow each other, or that share their low bits, lie apart.
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  // Where an id is, or the free slot where it belongs; there is always one.
  std::size_t slot_of(const std::int64_t* ids, std::int64_t id) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = mixed(static_cast<std::uint64_t>(id)) & mask;
    while (slots_[slot] >= 0 && ids[slots_[slot]] != id) slot = (slot + 1) & mask;
    return slot;
  }

  void place(const std::int64_t* ids, std::size_t row) {
    std::int64_t& slot = slots_[slot_of(ids, ids[row])];
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
  std::size_t used_ = 0;
};

}  // namespace vqindex
