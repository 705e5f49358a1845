// The search: which thread scans which rows for which queries, and which rows it keeps. Kernels do the arithmetic; the
// scans only decide about order and memory. docs/scan.md describes the algorithm.
//
// How rows and queries are divided, from large to small:
//
//   rows      segment > RowRange (of a thread) > row tile > group of blocks > block
//   queries   all > QueryGroup (of some threads) > chunk > subset > call of sign_tile
//
//   a row tile of the batch scan:
//
//     |------------- group -------------|------------- group -------------|---- ... up to 8 groups, 2048 rows
//     | block | block | block | block   | block | block | block | block   |
//       64 rows                            one row has a byte in every line of its block of sign bits
//
//   what        constant            value                    why
//   ----------  ------------------  -----------------------  --------------------------------------------------------
//   block       kBlockRows          64 rows                  one 64-byte load of sign bits; one word of a selection
//   group       kGroupBlocks        4 blocks = 256 rows      rows that share one pass over a query's tables; a row's
//                                                            place in its group fits a byte
//   unit        kUnitDim            24 coordinates           three bytes of sign bits make four 6-bit indices for
//                                                            vpermb, or six 4-bit indices for other shuffles
//   tile        kTileRows           128 rows of int8 levels  eight registers of 16 rows: two queries' sums and the rows
//                                                            fit the 32 registers
//   row tile,   kTileIndexBytes     512 KB of indices,       the look-up indices stay in the second-level cache while
//   batch       kTileGroups         8 groups at most         all queries of a chunk use them
//   row tile,   kTileSignBytes      384 KB of sign bits,     the sign bits stay in the second-level cache until those
//   one query   kTileMaxRows        2^15 rows at most        of candidates are copied
//   step        kStepBytes          24 KB of sign bits,      rows that are compared with one value of the threshold; it
//               kStepMaxRows        1024 rows at most        may rise after each step
//   RowRange    (partition_rows)    batch: an even share     a batch scan starts anew with each range
//                                   else: a row tile         ranges get shorter, so that threads finish together
//   sign_tile   kSignTileQueries    8 queries                one call sums these queries over one group
//   dot_tile    kTileQueries        2 queries                one call multiplies these queries with one tile
//   subset      kSubsetTableBytes   128 KB of tables         they stay in the second-level cache beside the indices
//   chunk       kChunkQueries       1024 queries,            the tables stay in the third-level cache; indices and
//               kChunkTableBytes    16 MB of tables          decoded rows are made once per chunk
//   QueryGroup  kThreadQueries      128 queries at least     fewer don't make up for the work that each thread repeats
//                                   if there are several     for every row
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.hpp"
#include "top_k.hpp"

namespace vqindex {

// The rows of a segment, or rows gathered from one. Sign bits are [block of 64 rows][byte of eight coordinates][row].
struct SegmentView {
  const std::uint8_t* signs;  // null for codes without sign bits
  const std::uint8_t* codes;
  std::size_t row_bytes;
  const float* rescale;
  const float* norm;  // null for cosine without a center
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

// Says whether to go on. The calling thread calls it now and then; the other threads stop soon after it returns false.
using Poll = std::function<bool()>;

// Where a search writes. The rows of a query come best score first. Places without a row get row -1 and the worst score
// and rank score.
struct SearchOutput {
  float* scores;          // [query][k]
  std::int64_t* rows;     // [query][k]
  float* rank_scores;     // [query][k]: min(score, sign bound); distances are negated, so larger is better
  std::int64_t* dropped;  // [query]: selected rows that the sign bound dropped unscored; 0 without a sign bound
};

// Finds the k best rows of every query. Returns false if `poll` stopped it. How many rows are dropped depends on their
// order, on the number of threads and on the other queries; nothing else does.
bool search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
            const SearchOutput& out);

// Finds all rows of every query whose rank scores are above its range threshold, best score first. Returns false if
// `poll` stopped it.
bool range_search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  std::vector<std::vector<Hit>>& found);

}  // namespace vqindex
