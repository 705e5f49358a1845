// Finds rows by id: a hash table with open addressing whose slots are row numbers. The ids themselves are not copied;
// they come with every call, in row order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa.hpp"

namespace vqindex {

class IdTable {
 public:
  // Adds the rows below `count` that the table doesn't have yet. A row replaces an earlier one of the same id. If this
  // throws, the table is unchanged.
  void put(const std::int64_t* ids, std::size_t count) {
    if (count <= rows_) return;
    const std::size_t slots_needed = used_ + (count - rows_);
    if (4 * slots_needed > 3 * slots_.size()) grow(ids, slots_needed);
    for (; rows_ < count; ++rows_) place(ids, rows_);
  }

  // Prefetch the slot, and then the id, that `find` looks at first.
  void prefetch_slot(std::int64_t id) const {
    if (!slots_.empty()) prefetch(&slots_[first_slot(id)]);
  }
  void prefetch_id(const std::int64_t* ids, std::int64_t id) const {
    const std::int64_t row = slots_.empty() ? -1 : slots_[first_slot(id)];
    if (row >= 0) prefetch(&ids[row]);
  }

  // Returns the row of an id, or -1 if there is none.
  std::int64_t find(const std::int64_t* ids, std::int64_t id) const {
    return slots_.empty() ? -1 : slots_[slot_of(ids, id)];
  }

  std::size_t bytes() const { return slots_.size() * sizeof(std::int64_t); }

  std::size_t rows() const { return rows_; }

  std::size_t distinct() const { return used_; }

 private:
  // The finalizer of splitmix64. It spreads ids that follow each other or share their low bits.
  static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  std::size_t first_slot(std::int64_t id) const { return mixed(static_cast<std::uint64_t>(id)) & (slots_.size() - 1); }

  // Returns the slot of an id, or the free slot where it belongs; there is always one.
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

  void grow(const std::int64_t* ids, std::size_t slots_needed) {
    std::size_t size = 64;
    while (3 * size < 4 * slots_needed) size *= 2;
    std::vector<std::int64_t> old(size, -1);
    old.swap(slots_);
    used_ = 0;
    for (std::int64_t row : old)
      if (row >= 0) place(ids, static_cast<std::size_t>(row));
  }

  std::vector<std::int64_t> slots_;  // a row or -1; a power of two of them, three quarters in use at most
  std::size_t used_ = 0;             // slots in use, which is the number of distinct ids
  std::size_t rows_ = 0;             // added so far
};

// Whether a row is live: its bit is set, or there are no bits.
inline bool is_live(const std::uint64_t* live, std::int64_t row) { return !live || live[row / 64] >> (row % 64) & 1; }

// Clears the bits of rows and returns how many were set. Skips negative rows.
inline std::size_t clear_bits(std::uint64_t* live, const std::int64_t* rows, std::size_t count) {
  std::size_t cleared = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (rows[i] < 0 || !is_live(live, rows[i])) continue;
    live[rows[i] / 64] &= ~(std::uint64_t{1} << (rows[i] % 64));
    ++cleared;
  }
  return cleared;
}

// The rows of an index: their ids in order, null if row i has id i; and a bit for each row that is not removed, null if
// none is removed.
struct LiveIds {
  const std::int64_t* ids;
  std::size_t count;
  const std::uint64_t* live;

  bool has(std::int64_t row, std::int64_t id) const {
    return row >= 0 && static_cast<std::size_t>(row) < count && (ids ? ids[row] : row) == id && is_live(live, row);
  }
};

// Calls use(i, row) with the row of each id of `lookup`, or -1 if there is none. It first tries the row at the same
// distance from the id as the last row found. If that row is live and has the id, it is the right one, because no two
// live rows have the same id. Other ids are looked up in the table, 16 at a time, so that their cache misses overlap.
template <typename Use>
void find_rows(IdTable& table, const LiveIds& rows, const std::int64_t* lookup, std::size_t size, Use use) {
  constexpr std::size_t kBatch = 16;
  std::size_t waiting[kBatch], batch = 0;
  std::uint64_t shift = rows.ids && rows.count ? -static_cast<std::uint64_t>(rows.ids[0]) : 0;  // row = id + shift
  IdTable earlier;  // for a caller with an earlier snapshot than the table's, in which an id may be in another row
  IdTable& known = table.rows() > rows.count ? earlier : table;
  const auto look_up = [&] {
    known.put(rows.ids, rows.count);
    for (std::size_t j = 0; j < batch; ++j) known.prefetch_slot(lookup[waiting[j]]);
    for (std::size_t j = 0; j < batch; ++j) known.prefetch_id(rows.ids, lookup[waiting[j]]);
    for (std::size_t j = 0; j < batch; ++j) {
      const std::int64_t id = lookup[waiting[j]], row = known.find(rows.ids, id);
      if (row >= 0) shift = static_cast<std::uint64_t>(row) - static_cast<std::uint64_t>(id);
      use(waiting[j], row >= 0 && is_live(rows.live, row) ? row : -1);
    }
    batch = 0;
  };
  for (std::size_t i = 0; i < size; ++i) {
    const std::int64_t row = static_cast<std::int64_t>(static_cast<std::uint64_t>(lookup[i]) + shift);
    if (rows.has(row, lookup[i]))
      use(i, row);
    else if (!rows.ids)
      use(i, -1);
    else if (waiting[batch++] = i, batch == kBatch)
      look_up();
  }
  if (batch) look_up();
}

}  // namespace vqindex
