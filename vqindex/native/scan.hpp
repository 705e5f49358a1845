// The search: which rows meet which queries, what is kept. Kernels do the sums; this file's job is order and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hits.hpp"
#include "kernels.hpp"

namespace vqindex {

// Stored rows. The sign plane is [block of 64 rows][byte of eight coordinates][row]; null where a code has none.
struct Rows {
  const std::uint8_t* signs;
  const std::uint8_t* codes;
  std::size_t row_bytes;
  const float* factor;
  const float* norm;  // null for cosine
  std::size_t count;
  // Bit r % 64 of word r / 64: row r may be found. Null for all rows; lines of words for each query are `allowed_step`
  // words apart, 0 if there is one for all.
  const std::uint64_t* allowed = nullptr;
  std::size_t allowed_step = 0;
  // Which row of the codes each row is: gathered rows leave their codes where they are. Null if they all are here.
  const std::size_t* number = nullptr;
};

// Levels of a code: table (in Fields) holds levels / multiplier rounded to int8; wide the levels, by the same window.
struct Code {
  Fields fields;
  Fields index;              // the fields themselves in the place of levels
  const std::int16_t* wide;  // null if the multiplier is 1: then the table is exact
  int multiplier;
  bool distance;  // scores are squared distances
};

struct QueryBlock {
  std::size_t count;
  const std::int16_t* lead;
  const float* scale;
  const float* norm;
};

// The coarse stage (sign_bound.py): none if width is infinite or the code has no sign plane.
struct Coarse {
  bool on;
  double scale;     // of a sum, times the query's scale
  double plane;     // variance for a unit query and row
  double rounding;  // the same for the rounding of the query, per squared unit of its rounding
  double quantile;  // how many standard errors
};

struct Task {
  Code code;
  std::vector<Rows> rows;
  QueryBlock queries;
  Coarse coarse;
  std::size_t k;                      // how many rows a search finds
  const float* thresholds = nullptr;  // for a range search: rows whose keys are above this are found, for each query
};

// What a search returns: arrays of the caller's. Those of k entries a query are in the same order, best score first;
// places without a row hold -1 and the worst scores.
struct SearchOutput {
  float* scores;          // [query][k]
  std::int64_t* rows;     // [query][k]
  float* rank_scores;     // [query][k]: min(score, sign bound), larger is better, distances negated
  std::int64_t* dropped;  // [query]: selected rows whose codes the sign bound left unread; 0 without that bound
};

// Writes the k best rows of every query. How many rows are dropped depends on their order, on threads and on batches.
// `poll` is called now and then from the calling thread; when it returns false, search stops and returns false.
bool search(const Task& task, const Kernels& kernels, std::size_t threads, const std::function<bool()>& poll,
            const SearchOutput& out);

// Finds the rows above the thresholds, of every query, best first; scores are those to show, as in `search`.
bool range_search(const Task& task, const Kernels& kernels, std::size_t threads, const std::function<bool()>& poll,
                  std::vector<std::vector<Hit>>& found);

}  // namespace vqindex
