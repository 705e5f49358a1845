// The kernels of the scan as tables of functions. Each instruction set has one table, and all tables give the same
// results, bit for bit.
//
// A kernel takes pointers, sizes and scalars. It owns no memory and starts no threads. The scans (scan_*.hpp) call it.
//
// Names read operation_types: dot_s8s16 multiplies int8 by int16 values and sums the products, mask_gt_u16 compares
// uint16 values and returns a bit mask. The head of scan.hpp draws rows, groups and blocks, and gives the reason for
// each size below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "isa.hpp"

namespace vqindex {

constexpr std::size_t kBlockRows = 64;            // rows of a block of sign bits, and of a word of a selection
constexpr std::size_t kGroupBlocks = 4;           // blocks that share each load of a query's look-up tables
constexpr std::size_t kDotTileRows = 128;         // rows of a dot tile, of decoded levels
constexpr std::size_t kUnitBytes = 3;             // bytes of sign bits of a unit, which the sign kernels sum at once
constexpr std::size_t kUnitDim = 8 * kUnitBytes;  // coordinates of a unit
constexpr std::size_t kUnitTable = 256;           // bytes of a query's look-up tables for one unit, at most
constexpr std::size_t kUnitIndex = 4 * 64;        // bytes of look-up indices for one unit of one block
constexpr std::size_t kSignTileQueries = 8;       // most queries in one call of sign_tile_u8u16
constexpr std::size_t kDotTileQueries = 2;        // most queries in one call of dot_tile_s8s8
constexpr std::size_t kTileQueries = 32;          // queries in one call of TileKernels::find_hits
constexpr std::size_t kTileRows = 32;             // rows whose sums are in the tile registers at once
constexpr int kSignLimit = 5;                     // largest magnitude of a query's coordinates for the sign bits
constexpr std::size_t kSignDim = 6144;            // most coordinates that have a sign bound (sign_bound.py)

inline std::size_t padded(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// Where the fields of a packed row are, and what they mean. A field begins `step` bits after the one before it: window
// t is the `window` bits of the row from bit t * step on. The level of coordinate t is table[w], where w is window t
// with `tops` more bits above it. Only codes with sign bits have top bits:
//   tops = 1   sign bit t;
//   tops > 1   the top bits t - tops + 1 .. t of a trellis. Top bit t is sign bit t XOR the lowest bit of window t;
//              top bits before the first are 0.
struct Fields {
  std::size_t dim;
  int step;
  int window;
  int tops;
  const std::int8_t* table;  // 2^(window + tops) entries

  // The same as constants for vectors of 64 bytes. FieldTables makes them.
  const std::uint8_t* gather;   // for each byte of eight 64-bit words: which byte of 64 packed fields it takes
  const std::uint8_t* shift;    // the bit of its word at which the window of each byte begins
  const std::int8_t* repeated;  // the table for each value of the top bits, each repeated up to 64 entries if smaller
};

inline std::size_t repeated_size(int window) { return std::size_t{1} << (window < 6 ? 6 : window); }

// Owns what Fields points to.
class FieldTables {
 public:
  FieldTables(std::size_t dim, int step, int window, int tops, std::vector<std::int8_t> table)
      : dim_(dim), step_(step), window_(window), tops_(tops), table_(std::move(table)) {
    // A trellis looks up the window and all top bits at once; other codes look up the window for each sign.
    const int index_bits = tops > 1 ? window + tops : window;
    const std::size_t size = repeated_size(index_bits), values = std::size_t{1} << index_bits;
    for (std::size_t top = 0; top < table_.size() / values; ++top)
      for (std::size_t i = 0; i < size; ++i) repeated_.push_back(table_[top * values + i % values]);
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

// The constants of one query in mask_upper_bound_gt. A row has an int8 sum s and the terms (weight, error, norm2). Its
// upper bound is above the threshold if
//   gain * (weight * (s - offset) + slack * error) > threshold + norm2_weight * norm2.
// The scale of the query is the gain, doubled for distances.
struct UpperBoundTest {
  std::int32_t offset;
  float gain, slack, threshold, norm2_weight;
};

// The constants of one query in its sign bound. The bound of <query, row> is (fl(scale * sum) + width) * norm.
struct SignBoundTerms {
  std::int32_t offset;  // the sum of the magnitudes of the query's rounded coordinates
  float scale, width;
  float query2;   // |query|^2, for distances
  bool distance;  // bounds 2 <query, row> - (norm^2 + query2) instead
};

// Float32 operations in the order of sign_bound.py, none fused. `sum` is the product of the rounded query and the
// signs.
VQ_INLINE float sign_bound_from_sum(std::int32_t sum, const SignBoundTerms& terms, float norm) {
  const float ip = (static_cast<float>(sum) * terms.scale + terms.width) * norm;
  return terms.distance ? 2.0f * ip - (norm * norm + terms.query2) : ip;
}

// The same from a row's agreement with the query (see Kernels::sign_tables_s8u8).
VQ_INLINE float sign_bound_from_agreement(std::int32_t agreement, const SignBoundTerms& terms, float norm) {
  return sign_bound_from_sum(2 * agreement - terms.offset, terms, norm);
}

// What one call of sign_tile_u8u16 sums: some queries over the look-up indices of a group of blocks, or over some units
// of them.
struct SignCall {
  std::size_t units, blocks;       // of the indices
  std::size_t queries;             // kSignTileQueries at most
  std::size_t table_stride;        // bytes from the tables of one query to those of the next
  std::size_t units_per_byte_sum;  // so many units' entries add up to 255 at most, for all of these queries
  bool accumulate;                 // adds to the sums of an earlier call
};

// Candidates: (row, query) pairs that the sign bound did not drop. Pair i is row places[i] of a group of 256 rows, and
// query queries[i].
struct Candidates {
  std::size_t count;
  const std::uint8_t* places;
  const std::uint16_t* queries;
};

// An int8 query for levels. Magnitudes are at most 127; there are padded(dim, 64) values, zero from the dimension on.
struct NarrowQuery {
  const std::int8_t* values;
  std::int32_t offset;  // 128 * their sum: what levels that are read as unsigned, 128 too large, add to a sum
};

// A (row, query) pair whose sum passed its limit: numbers within a call, and the sum.
struct TileHit {
  std::uint16_t row, query;
  std::int32_t sum;
};

// One call of TileKernels::find_hits: 32 queries and some rows, both as its tiles.
struct TileCall {
  const std::int8_t* queries;
  const std::int8_t* rows;
  std::size_t stride;     // coordinates, a multiple of 64
  std::size_t row_count;  // a multiple of 32
  bool distance;          // norm2_weight and norm2 count
  // The limit of a sum is threshold * per_weight + norm2_weight * norm2 - slack * error; see TileScan.
  const float *threshold, *slack, *norm2_weight;  // of each query
  const float *per_weight, *error, *norm2;        // of each row
};

// Kernels for a matrix unit: registers of tiles, 16 rows of 64 bytes each, and an instruction that multiplies two of
// them. Every thread configures its own unit before it uses it.
struct TileKernels {
  // Batches of at least so many queries are scanned by tiles, with a sign bound and without.
  std::size_t least_queries_with_bound, least_queries;

  // Makes the unit ready for this thread.
  void (*configure)();
  // Releases it, so that a switch to another thread need not save its registers.
  void (*release)();
  // Reorders 16 rows of levels, `stride` bytes apart, to [four coordinates][row][coordinate]. 64 coordinates are a
  // tile.
  void (*arrange_rows_s8)(const std::int8_t* levels, std::size_t stride, std::int8_t* tiles);
  // Multiplies 32 queries and all rows of the call. Queries are tiles of [16 queries][64 coordinates]; those of 16
  // queries follow each other. Writes all pairs whose sums are above their limits, or whose limits are NaN, and returns
  // how many. There must be room for all pairs.
  std::size_t (*find_hits)(const TileCall& call, TileHit* hits);
};

struct Kernels {
  // One call of sign_tile_u8u16 takes at most so many units. With AVX-512 the indices of more would leave the
  // first-level cache; elsewhere one call takes all units.
  std::size_t call_units;
  // Up to so many queries are faster scanned one after another by sign_blocks_u8u16 than together by sign_tile_u8u16.
  std::size_t few_queries;

  // ---- levels of packed rows

  // Decodes one row of row_bytes bytes, whose sign bits are the padded(dim, 64) / 8 bytes at `signs`. Writes
  // padded(dim, 64) levels; those from dim on are zero.
  void (*decode_s8)(const Fields& fields, const std::uint8_t* row, std::size_t row_bytes, const std::uint8_t* signs,
                    std::int8_t* levels);
  // sums[i] = <levels of packed row rows[i], query>, for `count` rows and an int16 query of padded(dim, 64) values. The
  // rows' sign bits follow each other at `signs`. `levels` is scratch for one decoded row.
  void (*decode_dot_s8s16)(const Fields& fields, const std::uint8_t* const* rows, std::size_t row_bytes,
                           const std::uint8_t* signs, std::size_t count, const std::int16_t* query, std::int8_t* levels,
                           std::int64_t* sums);
  // Returns <levels, query>; stride is a multiple of 64.
  std::int64_t (*dot_s8s16)(const std::int8_t* levels, const std::int16_t* query, std::size_t stride);
  // For each candidate: the sum 128 * sum(query) + <levels of its row, its query>, as in dot_tile_s8s8. Keeps those
  // whose sum is above the limit of their query. Writes their numbers to `survivors` and their sums to `sums`, and
  // returns how many. Levels and int8 queries are `stride` bytes apart, a multiple of 64. May write up to three entries
  // past the end.
  std::size_t (*dot_rows_s8s8)(const std::int8_t* levels, std::size_t stride, const Candidates& candidates,
                               const std::int8_t* queries, const std::int32_t* limits, std::uint32_t* survivors,
                               std::int32_t* sums);
  // sums[i] = <levels of packed row i, query>, for `count` rows that lie anywhere. Row i has its sign bits at
  // records[i], if the code has any, and its row_bytes bytes at records[i] + code_at. Eight bytes of sign bits are read
  // at a time, so the bytes that follow them are part of a record too. `levels` is scratch for one decoded row.
  void (*decode_dot_s8s8)(const Fields& fields, const std::uint8_t* const* records, std::size_t code_at,
                          std::size_t row_bytes, std::size_t count, const NarrowQuery& query, std::int8_t* levels,
                          std::int32_t* sums);
  // sums[i] = <levels of row i, query>, for `count` decoded rows of `stride` levels, a multiple of 64.
  void (*dot_many_s8s8)(const std::int8_t* const* rows, std::size_t stride, std::size_t count, const NarrowQuery& query,
                        std::int32_t* sums);
  // Returns the sum of squares.
  std::int64_t (*square_s8)(const std::int8_t* levels, std::size_t stride);

  // Reorders a dot tile, 128 rows of levels, `stride` bytes apart (a multiple of 64), for dot_tile_s8s8.
  void (*arrange_tile_s8)(const std::int8_t* levels, std::size_t stride, std::uint8_t* tile);
  // sums[q * 128 + r] = 128 * sum(query q) + <levels of row r, query q>, for count <= kDotTileQueries int8 queries of
  // `stride` bytes. Their magnitudes are at most 64, and they are zero from `dim` on.
  void (*dot_tile_s8s8)(const std::uint8_t* tile, std::size_t stride, std::size_t dim, const std::int8_t* queries,
                        std::size_t count, std::int32_t* sums);
  // Bit r of the result: the upper bound of row r is above the query's threshold (see UpperBoundTest), r < 64.
  std::uint64_t (*mask_upper_bound_gt)(const std::int32_t* sums, const UpperBoundTest& test, const float* weight,
                                       const float* error, const float* norm2);

  // ---- sign bits
  //
  // The agreement of a row and a query is the sum of the magnitudes of those query coordinates whose signs are the
  // row's sign bits. The product of the query and the row's signs is twice the agreement less the sum of all
  // magnitudes.

  // Makes the look-up tables of a query of int8 coordinates, magnitudes <= kSignLimit: units * kUnitTable bytes. An
  // entry is the agreement of four or six coordinates; their sign bits are its index.
  void (*sign_tables_s8u8)(const std::int8_t* query, std::size_t units, std::uint8_t* tables);
  // Makes the look-up indices of `blocks` blocks of sign bits, `bytes` * 64 bytes each: units * blocks * kUnitIndex
  // bytes.
  void (*sign_expand_u8)(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks, std::uint8_t* index);
  // sums[64 * (blocks * q + b) + r] = agreement of query q and row r of block b, for several queries' tables.
  void (*sign_tile_u8u16)(const std::uint8_t* index, const std::uint8_t* tables, const SignCall& call,
                          std::uint16_t* sums);
  // The same for one query, straight from blocks of sign bits; for units_per_byte_sum see SignCall.
  void (*sign_blocks_u8u16)(const std::uint8_t* signs, std::size_t bytes, std::size_t blocks,
                            const std::uint8_t* tables, std::size_t units_per_byte_sum, std::uint16_t* sums);
  // Returns <query, signs> for one row's sign bits in stride / 8 bytes; the query is zero from the dimension on.
  std::int32_t (*dot_signs_s8)(const std::uint8_t* signs, const std::int8_t* query, std::size_t stride);
  // Copies the sign bits of the rows in `mask` out of a block of 64 rows, one row every `stride` bytes, a multiple
  // of 8. May overwrite bytes past a row's own, up to the next multiple of 8.
  void (*sign_rows_u8)(const std::uint8_t* block, std::size_t bytes, std::uint64_t mask, std::uint8_t* rows,
                       std::size_t stride);

  // ---- selection of rows by their agreement

  // Bit r of masks[b]: sums[64 * b + r] > threshold. Returns whether any bit is set.
  bool (*mask_gt_u16)(const std::uint16_t* sums, std::size_t blocks, std::uint16_t threshold, std::uint64_t* masks);
  // largest[b] = the largest sums[64 * b + r] among the rows r in selected[b]; 0 if there are none.
  void (*block_max_u16)(const std::uint16_t* sums, std::size_t blocks, const std::uint64_t* selected,
                        std::uint16_t* largest);
  // Collects candidates. Query i of `count` takes the rows in `selected` (one word per block) whose sums, at
  // sums[64 * blocks * i], are integer_thresholds[i] or more. Writes their places and the query's number first + i, in
  // this order, and sets their bits in `masks`. Adds to counts[i] how many query i has, and returns how many all have.
  // May write up to 64 entries past the end.
  std::size_t (*collect_ge_u16)(const std::uint16_t* sums, std::size_t blocks, const std::uint16_t* integer_thresholds,
                                std::size_t count, const std::uint64_t* selected, std::size_t first,
                                std::uint64_t* masks, std::uint8_t* places, std::uint16_t* queries,
                                std::size_t* counts);
  // Bit r of the result: the sign bound of a row of agreement sums[r] and norm norms[r] is above the threshold, r < 64.
  std::uint64_t (*mask_sign_bound_gt)(const std::uint16_t* sums, const SignBoundTerms& terms, const float* norms,
                                      float threshold);

  // ---- the matrix unit

  const TileKernels* tiles = nullptr;  // null if there is none
};

const Kernels& scalar_kernels();
const TileKernels& emulated_tile_kernels();
#ifdef VQ_X86
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();        // no VNNI, no VBMI
const Kernels& avx512vnni_kernels();    // no VBMI
const Kernels& avx512vbmi_kernels();    // with VNNI
const TileKernels* amx_tile_kernels();  // null if the compiler knows no AMX
#elif defined(VQ_ARM)
const Kernels& neon_kernels();
const Kernels& neondot_kernels();
#endif

}  // namespace vqindex
