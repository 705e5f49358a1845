// The kernels of the scan, as tables of functions: one table per instruction set, all with the same results.
//
// A kernel sees pointers, sizes and scalars, owns nothing and starts nothing; the scans (scan_*.hpp) call it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "isa.hpp"

namespace vqindex {

constexpr std::size_t kBlock = 64;          // rows of a block of the sign plane, and of a selection
constexpr std::size_t kTile = 128;          // rows of a tile of levels
constexpr std::size_t kTileBlocks = 4;      // blocks of the sign plane that share one pass over a query's tables
constexpr std::size_t kUnitBytes = 3;       // bytes of the sign plane that make one step of its kernels: 24 coordinates
constexpr std::size_t kUnitTable = 256;     // bytes of a query's tables for one unit; no kernel needs more
constexpr std::size_t kUnitIndex = 4 * 64;  // bytes of look-up indices for one unit of a block
constexpr int kSignLimit = 5;               // largest |coordinate| of a query that meets the sign plane
constexpr std::size_t kSignDim = 6144;      // most coordinates that a sign plane is searched for (sign_bound.py)
constexpr std::size_t kTileQueries = 8;     // queries that one call of `sign_tile` may take
constexpr std::size_t kQueries = 2;         // queries that share one pass over a tile of levels

inline std::size_t padded(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Where the fields of a row lie and what they mean: level t = table[window t], where window t is the `window` bits of
// the row that begin at bit t * step, with `tops` bits on top of them where there is a sign plane:
//   one      sign bit t;
//   several  top bits t - tops + 1 .. t of a trellis, where top bit t is sign bit t ^ the lowest bit of window t, and
//            those before the first are 0.
struct Fields {
  std::size_t dim;
  int step;
  int window;
  int tops;
  const std::int8_t* table;  // 2^(window + tops) entries

  // The same as constants for vectors of 64 bytes (FieldTables makes them).
  const std::uint8_t* gather;   // byte of a group of 64 rows' fields that each byte of eight 64-bit words takes
  const std::uint8_t* shift;    // bit of its word at which the window of each byte begins
  const std::int8_t* repeated;  // the part of the table for each value of the top bits, repeated to 64 entries if less
};

inline std::size_t repeated_size(int window) { return std::size_t{1} << (window < 6 ? 6 : window); }

// Owns what Fields points to.
class FieldTables {
 public:
  FieldTables(std::size_t dim, int step, int window, int tops, std::vector<std::int8_t> table)
      : dim_(dim), step_(step), window_(window), tops_(tops), table_(std::move(table)) {
    // A trellis looks up both together.
    const int together = tops > 1 ? window + tops : window;
    const std::size_t size = repeated_size(together), values = std::size_t{1} << together;
    for (std::size_t part = 0; part < table_.size() / values; ++part)
      for (std::size_t i = 0; i < size; ++i) repeated_.push_back(table_[part * values + i % values]);
    for (int i = 0; i < 64; ++i) {
      gather_[i] = static_cast<std::uint8_t>(i / 8 * step + i % 8);  // word i / 8 begins with field 8 (i / 8)
      shift_[i] = static_cast<std::uint8_t>(i % 8 * step);
    }
  }

  Fields fields() const { return {dim_, step_, window_, tops_, table_.data(), gather_, shift_, repeated_.data()}; }

 private:
  std::size_t dim_;
  int step_, window_, tops_;
  std::vector<std::int8_t> table_, repeated_;
  std::uint8_t gather_[64], shift_[64];
};

// Constants of a query in the selections below.
struct Test {
  std::int32_t offset;
  float gain, slack, bar, lean;
};

// Constants of a query that meets the sign plane: the bound of <query, row> is (fl(scale * sum) + width) * size.
struct Bound {
  std::int32_t offset;  // the sum of the query's magnitudes
  float scale, width;
  float query2;   // |query|^2, for distances
  bool distance;  // the bound is of 2 <query, row> - (size^2 + query2)
};

// Float32 operations in this order, none fused: sign_bound.py. `sum` is of the query's coordinates times signs.
VQ_INLINE float bound_of(std::int32_t sum, const Bound& bound, float size) {
  const float ip = (static_cast<float>(sum) * bound.scale + bound.width) * size;
  return bound.distance ? 2.0f * ip - (size * size + bound.query2) : ip;
}

// The same of a row's agreement with the query: see Kernels::sign_tables.
VQ_INLINE float bound_of_agreement(std::int32_t agreed, const Bound& bound, float size) {
  return bound_of(2 * agreed - bound.offset, bound, size);
}

// One pass of queries over look-up indices of a group of rows, or over those of some of its coordinates.
struct SignPass {
  std::size_t units, blocks;  // of the indices
  std::size_t count;          // queries, kTileQueries at most
  std::size_t step;           // bytes from the tables of one to those of the next
  std::size_t together;       // units whose entries add up to 255 at most, for all of them
  bool more;                  // adds to the sums of an earlier pass
};

// Rows of a group, 256 at most, that queries want to be scored: row places[i] by query queries[i].
struct Catch {
  std::size_t count;
  const std::uint8_t* places;
  const std::uint16_t* queries;
};

struct Kernels {
  std::size_t pass_units;  // units after which `sign_tile` is better called again, for its indices leave the cache

  // Levels of one row of row_bytes bytes (signs: its sign bits, in padded(dim, 64) / 8 bytes); writes padded(dim, 64)
  // bytes, the last of them zero.
  void (*decode)(const Fields& fields, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                 std::int8_t* levels);
  // sums[i] = sum of products of the levels of row rows[i] with an int16 query of padded(dim, 64) values, for `count`
  // rows whose signs follow each other; `levels` is room for decoding one.
  void (*row_dots)(const Fields& fields, const std::uint8_t* const* rows, std::size_t row_bytes,
                   const std::uint8_t* signs, std::size_t count, const std::int16_t* query, std::int8_t* levels,
                   std::int64_t* sums);
  // Sum of products with an int16 query; stride is a multiple of 64.
  std::int64_t (*dot)(const std::int8_t* levels, const std::int16_t* query, std::size_t stride);
  // Which of a catch have sums, as of tile_sums, above the limits of their queries, and the sums of those; returns how
  // many. Levels and int8 queries are `stride` bytes apart, a multiple of 64. Three behind the last may be overwritten.
  std::size_t (*row_sums)(const std::int8_t* levels, std::size_t stride, const Catch& rows, const std::int8_t* queries,
                          const std::int32_t* limits, std::uint32_t* passing, std::int32_t* sums);
  // Sum of squares.
  std::int64_t (*square)(const std::int8_t* levels, std::size_t stride);

  // A tile of 128 rows of levels, `stride` (a multiple of 64) apart, in the order that `tile_sums` wants.
  void (*arrange)(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile);
  // sums[q * 128 + r] = 128 * sum(query q) + <row r, query q> for count <= kQueries int8 queries of `stride` bytes
  // whose magnitudes are at most 64 and which are zero from `dim` on.
  void (*tile_sums)(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                    std::size_t count, std::int32_t* sums);
  // Bit r: gain * (weight[r] * (sums[r] - offset) + slack * error[r]) > bar + lean * size[r].
  std::uint64_t (*passing)(const std::int32_t* sums, const Test& test, const float* weight, const float* error,
                           const float* size);

  // The sign plane's sums are of agreement: the sum of the magnitudes of those coordinates of a query whose signs are a
  // row's sign bits. The product with the signs is twice that less the sum of all magnitudes.
  //
  // Tables of a query whose coordinates are int8 of magnitude <= kSignLimit: `units` * kUnitTable bytes.
  void (*sign_tables)(const std::int8_t* query, std::size_t units, std::uint8_t* tables);
  // Look-up indices of `blocks` blocks of the sign plane, `bytes` * 64 bytes each: units * blocks * kUnitIndex bytes.
  void (*sign_expand)(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, std::uint8_t* index);
  // sums[64 * (blocks * q + b) + r] = agreement of row r of block b, for the tables of several queries.
  void (*sign_tile)(const std::uint8_t* index, const std::uint8_t* tables, const SignPass& pass, std::uint16_t* sums);
  // The same for one query straight from the sign plane, `bytes` * 64 bytes a block; for `together` see SignPass.
  void (*sign_plane)(const std::uint8_t* plane, std::size_t bytes, std::size_t blocks, const std::uint8_t* tables,
                     std::size_t together, std::uint16_t* sums);
  // Sum of +-query[j] by one row's sign bits, in stride / 8 bytes; query is zero from the dimension on.
  std::int32_t (*sign_sum)(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride);
  // The sign bits of those of a block's 64 rows that `wanted` has, one after the other, a row every `stride` bytes, a
  // multiple of 8. What lies behind a row's bytes up to a multiple of 8 may be overwritten.
  void (*sign_rows)(const std::uint8_t* block, std::size_t bytes, std::uint64_t wanted, std::uint8_t* rows,
                    std::size_t stride);
  // Bit r of hits[b]: sums[64 * b + r] > bar. Returns whether there is any.
  bool (*above)(const std::uint16_t* sums, std::size_t blocks, std::uint16_t bar, std::uint64_t* hits);
  // largest[b] = the largest of those sums[64 * b + r] whose rows are in allowed[b]; 0 if there are none.
  void (*most)(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* allowed, std::uint16_t* largest);
  // Collects, for each query i of `count`, the rows of `allowed` (a word a block) whose sums, at 64 * blocks * i, are
  // floors[i] or more: their places and queries, `first` + i, in that order, and their bits in `wanted`. Adds to
  // counts[i] how many query i has; returns how many all have. May write up to 64 entries past the end.
  std::size_t (*collect)(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* floors, std::size_t count,
                         const std::uint64_t* allowed, std::size_t first, std::uint64_t* wanted, std::uint8_t* places,
                         std::uint16_t* queries, std::size_t* counts);
  // Bit r: the bound of a row of agreement sums[r] is above bar. Float32 operations in this order, none fused.
  std::uint64_t (*bounded)(const std::uint16_t* sums, const Bound& bound, const float* size, float bar);
};

const Kernels& scalar_kernels();
#ifdef VQ_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();      // no VNNI, no VBMI
const Kernels& avx512vnni_kernels();  // no VBMI
const Kernels& avx512vbmi_kernels();  // with VNNI
#elif defined(VQ_ARM)
const Kernels& neon_kernels();
const Kernels& neondot_kernels();
#endif

// The table for a name of supported_isas().
const Kernels& kernels_for(const std::string& isa);

}  // namespace vqindex
