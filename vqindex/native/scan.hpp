// The search: which thread scans which rows for which queries, and which rows it keeps. Kernels do the arithmetic; the
// scans only decide about order and memory. docs/scan.md describes the algorithm.
//
// How rows, queries and coordinates are divided, from large to small:
//
//   rows, batch scan        segment > RowRange (of a thread) > row tile > group of blocks > block
//   rows, single query      segment > RowRange > row tile > slice > block
//   rows, all levels        segment > RowRange > dot tile (or block, with one or two queries)
//   rows, tiles             segment > RowRange > slab > 32 rows > tile of 16 rows
//   queries, batch scan     all > QueryGroup (of some threads) > chunk > subset > call of sign_tile_u8u16
//   queries, all levels     all > QueryGroup > call of dot_tile_s8s8
//   queries, tiles          all > QueryGroup > call of find_hits > tile of 16 queries
//   coordinates             row > call of sign_tile_u8u16 > unit > byte of sign bits
//
// clang-format off
//   A row tile of the batch scan has up to 8 groups, 2048 rows:
//
//     |------------- group, 256 rows -------------|------------- group, 256 rows -------------|---- ...
//     |  block   |  block   |  block   |  block   |  block   |  block   |  block   |  block   |  block ...
//     | 64 rows  | 64 rows  | 64 rows  | 64 rows  | 64 rows  | 64 rows  | 64 rows  | 64 rows  | 64 rows ...
//
//   A block of sign bits is [bytes of a row] x [64 rows], so each row has one byte in every line:
//
//                   row 0   row 1   row 2   ...   row 63
//                 +-------+-------+-------+-----+--------+
//     byte 0      |       |       |       |     |        |   signs of coordinates 0 to 7 of 64 rows, one load
//     byte 1      |       |       |       |     |        |   signs of coordinates 8 to 15
//     ...         |       |       |       |     |        |
//     last byte   |       |       |       |     |        |
//                 +-------+-------+-------+-----+--------+
//
//   Sizes, one constant a line. "Batch", "single", "levels" and "tiles" name the one scan that uses a size.
//
//   what              constant             value                why
//   ----------------  -------------------  -------------------  ------------------------------------------------------
//   unit              kUnitDim             24 coordinates       3 sign bytes give four 6-bit or six 4-bit indices
//   unit              kUnitTable           256 bytes at most    one query's tables for a unit, a byte an entry
//   unit              kUnitIndex           256 bytes            the look-up indices of one block for a unit
//   sign query        kSignLimit           5                    largest magnitude: the sum of two units fits a byte
//   sign query        kSignDim             6144 coordinates     most that have a sign bound (sign_bound.py)
//   block             kBlockRows           64 rows              one 64-byte load of sign bits, one selection word
//   group             kGroupBlocks         4 blocks, 256 rows   share each load of a table; a place fits a byte
//   group             kGroupCandidates     2^14 candidates      bounds its list to 48 KB; full lists are scored early
//   row tile, batch   kRowTileIndexBytes   512 KB of indices    stay in the second-level cache for a whole chunk
//   row tile, batch   kRowTileGroups       8 groups at most     bounds the lists, which all groups keep at once
//   row tile, single  kRowTileSignBytes    384 KB of sign bits  stay in the second-level cache until copied
//   row tile, single  kRowTileMaxRows      2^15 rows at most    bounds the sums of short rows
//   slice, single     kSliceBytes          24 KB of sign bits   rows that one value of the threshold serves
//   slice, single     kSliceMaxRows        1024 rows at most    bounds the candidates that wait for their scores
//   dot tile, levels  kDotTileRows         128 rows             8 registers of 16 rows; 16 more hold two queries' sums
//   dot tile, levels  kDotTileQueries      2 queries            one more would need more than 32 registers
//   slab, tiles       kSlabBytes           768 KB of levels     as tiles they stay in 2 MB of second-level cache
//   slab, tiles       kSlabRows            1024 rows at most    bounds the rows that one value of a threshold serves
//   call, tiles       kTileQueries         32 queries           two tiles of them; four tiles hold the sums of
//   call, tiles       kTileRows            32 rows              32 queries and 32 rows
//   RowRange, batch   partition_rows       an even share        a batch scan starts anew with each range or gathering
//   RowRange, others  partition_rows       1/4 to 1 row tile    shorter towards the end: threads finish together
//   sweep, batch      kSweeps              8 sweeps             strided: thresholds see rows from all over early
//   kernel call       kSignTileQueries     8 queries at most    share a group's indices in the first-level cache
//   kernel call       Kernels::call_units  32 units (AVX-512)   32 KB of indices stay in the first-level cache
//   subset, batch     kSubsetTableBytes    128 KB of tables     stay in the second-level cache beside the indices
//   chunk, batch      kChunkTableBytes     16 MB of tables      stay in the third-level cache, if that has the room
//   chunk, batch      kChunkQueries        1024 queries         bounds a chunk's memory; numbers fit 16 bits
//   QueryGroup        kThreadQueries       128 or more queries  when split; fewer don't repay the row work of each
// clang-format on
//
// Cache sizes are those of one thread, and assume 1 MB of second-level cache for it. Each thread has tables of its own:
// 4 KB a query at d = 384, so 4 MB for a full chunk; 16 MB a chunk from d = 1513 on. So T threads hold up to T x 16 MB.
// If the third-level cache they share is smaller, some tables come from memory. Only the speed depends on this.
//
// RowRanges of the scans other than the batch are longer where a selection leaves few rows. A thread alone gets whole
// segments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "poll.hpp"
#include "top_k.hpp"

namespace vqindex {

// A value of each row: `stride` floats from one row's to the next's. Null if there are none.
struct StridedFloats {
  const float* first = nullptr;
  std::size_t stride = 1;

  explicit operator bool() const { return first; }
  float operator[](std::size_t row) const { return first[row * stride]; }
};

// The rows of a segment, or rows gathered from one. Sign bits are [block of 64 rows][byte of eight coordinates][row].
// Codes and scalars are arrays of their own, or parts of records.
struct SegmentView {
  const std::uint8_t* signs;  // null for codes without sign bits, and where nothing needs them
  const std::uint8_t* codes;
  std::size_t row_bytes;   // of a code
  std::size_t row_stride;  // from one code to the next
  StridedFloats rescale;
  StridedFloats norm;  // null for cosine without a center
  std::size_t count;
  // A row r may be found if bit r % 64 of word r / 64 is set; null selects all rows. The words of one query and the
  // next are `selection_stride` words apart, or 0 if one selection serves all queries.
  const std::uint64_t* selection = nullptr;
  std::size_t selection_stride = 0;
  // Gathered rows leave their codes in place: row r has the code of row code_row[r]. Null if rows are not gathered.
  const std::size_t* code_row = nullptr;
};

// How a code maps windows to levels. fields.table has round(level / multiplier) as int8. `wide` has the exact levels
// for the same windows.
struct Code {
  Fields fields;
  Fields index;              // the same fields with their own values instead of levels: indices into `wide`
  const std::int16_t* wide;  // null if the multiplier is 1, because fields.table is then exact
  int multiplier;
  bool distance;  // scores are squared distances
};

struct QueryBatch {
  std::size_t count;
  const std::int16_t* code_query;
  const float* scale;
  const float* norm;
};

// The sign bound of a search (sign_bound.py). It is off for confidence 1 and for codes without sign bits.
struct SignBoundParameters {
  bool enabled;
  double scale;              // of the product of query and signs, for queries of scale 1
  double variance;           // of the estimate, for a unit query and a unit row
  double rounding_variance;  // of the query's rounding, per squared unit of the rounding error
  double quantile;           // how many standard errors the bound lies above the estimate
};

struct SearchRequest {
  Code code;
  std::vector<SegmentView> segments;
  QueryBatch queries;
  SignBoundParameters sign_bound;
  std::size_t k;                            // how many rows a search finds
  const float* range_thresholds = nullptr;  // of a range search: each query finds all rows with higher rank scores
};

// Where a search writes. The rows of a query come best score first. Places without a row get row -1 and the worst score
// and rank score.
struct SearchOutput {
  float* scores;          // [query][k]
  std::int64_t* rows;     // [query][k]
  float* rank_scores;     // [query][k]: min(score, sign bound); distances are negated, so larger is better
  std::int64_t* dropped;  // [query]: selected rows that the sign bound dropped unscored; 0 without one, or by tiles
};

// Finds the k best rows of every query. Returns false if `poll` stopped it. Only `dropped` depends on the order of the
// rows, on the number of threads and on the other queries; the rows and their scores do not.
bool search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
            const SearchOutput& out);

// Finds all rows of every query whose rank scores are above its range threshold, best score first. Returns false if
// `poll` stopped it.
bool range_search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  std::vector<std::vector<Hit>>& found);

}  // namespace vqindex
