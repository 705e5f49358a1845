// Rows by id: open addressing over row numbers. The ids stay where they are, in row order, and come with every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa.hpp"

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

  // Asks for the memory that `find` will look at first.
  void prefetch_slot(std::int64_t id) const {
    if (!slots_.empty()) prefetch(&slots_[first_slot(id)]);
  }
  void prefetch_id(const std::int64_t* ids, std::int64_t id) const {
    const std::int64_t row = slots_.empty() ? -1 : slots_[first_slot(id)];
    if (row >= 0) prefetch(&ids[row]);
  }

  // The row of an id, -1 if there is none.
  std::int64_t find(const std::int64_t* ids, std::int64_t id) const {
    return slots_.empty() ? -1 : slots_[slot_of(ids, id)];
  }

  std::size_t bytes() const { return slots_.size() * sizeof(std::int64_t); }

  std::size_t rows() const { return rows_; }

  std::size_t distinct() const { return used_; }

 private:
  // The finalizer of splitmix64: ids that follow each other, or that share their low bits, lie apart.
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  std::size_t first_slot(std::int64_t id) const { return mixed(static_cast<std::uint64_t>(id)) & (slots_.size() - 1); }

  // Where an id is, or the free slot where it belongs; there is always one.
  std::size_t slot_of(const std::int64_t* ids, std::int64_t id) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = first_slot(id);
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
  std::size_t used_ = 0;             // slots, and so distinct ids
  std::size_t rows_ = 0;             // taken in
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

// The rows that an index has: their ids in order, or none if row i has id i; and bits of those not removed, or none.
struct LiveIds {
  const std::int64_t* ids;
  std::size_t count;
  const std::uint64_t* live;

  bool has(std::int64_t row, std::int64_t id) const {
    return row >= 0 && static_cast<std::size_t>(row) < count && (ids ? ids[row] : row) == id && is_live(live, row);
  }
};

// Calls take(i, row) with the row of each wanted id, -1 if there is none. No two live rows have the same id, so one
// that lies where the ids before make it likely is the row; the others are looked up in the table, in groups, so that
// the memory of one is on its way while that of others is asked for.
template <typename Take>
void find_rows(IdTable& table, const LiveIds& rows, const std::int64_t* wanted, std::size_t size, Take take) {
  constexpr std::size_t kGroup = 16;
  std::size_t waiting[kGroup], group = 0;
  std::uint64_t shift = rows.ids && rows.count ? -static_cast<std::uint64_t>(rows.ids[0]) : 0;  // row = id + shift
  IdTable earlier;  // for one who looks at an earlier state than the table has, in which an id may lie in another row
  IdTable& known = table.rows() > rows.count ? earlier : table;
  const auto look_up = [&] {
    known.put(rows.ids, rows.count);
    for (std::size_t j = 0; j < group; ++j) known.prefetch_slot(wanted[waiting[j]]);
    for (std::size_t j = 0; j < group; ++j) known.prefetch_id(rows.ids, wanted[waiting[j]]);
    for (std::size_t j = 0; j < group; ++j) {
      const std::int64_t id = wanted[waiting[j]], row = known.find(rows.ids, id);
      if (row >= 0) shift = static_cast<std::uint64_t>(row) - static_cast<std::uint64_t>(id);
      take(waiting[j], row >= 0 && is_live(rows.live, row) ? row : -1);
    }
    group = 0;
  };
  for (std::size_t i = 0; i < size; ++i) {
    const std::int64_t row = static_cast<std::int64_t>(static_cast<std::uint64_t>(wanted[i]) + shift);
    if (rows.has(row, wanted[i]))
      take(i, row);
    else if (!rows.ids)
      take(i, -1);
    else if (waiting[group++] = i, group == kGroup)
      look_up();
  }
  if (group) look_up();
}

}  // namespace vqindex
