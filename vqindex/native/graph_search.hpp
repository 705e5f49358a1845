// Searches by walks over the graph: the rows that each walk finds get exact scores.
#pragma once

#include "graph_walk.hpp"
#include "scan.hpp"

namespace vqindex {

struct GraphRequest {
  Code code;
  const Records& records;  // of all rows; those after the rows of `links` are not linked, and each walk scores them
  LinkView links;
  const EntryRows& entries;  // rows that walks start from
  QueryBatch queries;
  std::size_t k, effort;
  WalkLimit limit;
  const std::uint64_t* selection;  // as in SegmentView
  std::size_t selection_stride;
  const std::int64_t* hidden;  // [query]: a row that its walk leaves out, or a negative number; null for none
};

struct GraphOutput {
  float* scores;         // [query][k]
  std::int64_t* rows;    // [query][k]; places without a row get row -1 and the worst score
  std::int64_t* scored;  // [query]: how many rows the walk scored
  bool* gave_up;         // [query]: whether the walk gave up; null for none
};

// Returns false if `poll` stopped it. Results do not depend on the threads or on the other queries.
bool graph_search(const GraphRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  const GraphOutput& out);

}  // namespace vqindex
