// Makes the links of a graph, from codes alone (codes/graph.py). The links are the same for any number of threads.
#pragma once

#include "graph_records.hpp"
#include "scan.hpp"

namespace vqindex {

constexpr std::size_t kLinkBatch = 512;  // rows that are linked at a time

struct LinkRule {
  std::size_t slots;     // most links of a row
  std::size_t kept;      // most links that are chosen for it
  std::size_t effort;    // of the walks that find candidates
  std::size_t children;  // most children of a row
  float alpha;           // the larger, the fewer candidates does a link occlude
};

struct LinkRequest {
  Code code;
  const Records& records;
  LinkTable links;
  LinkRule rule;
};

// Links rows [first, last), whole batches, to the graph of the rows before them. Returns false if `poll` stopped it;
// the links are then of no use.
bool link_rows(const LinkRequest& request, std::size_t first, std::size_t last, const Kernels& kernels,
               std::size_t threads, const Poll& poll);

// Gives new links to each live row that links to rows that are not: `live` has a bit for each row.
bool relink_rows(const LinkRequest& request, const std::uint64_t* live, const Kernels& kernels, std::size_t threads,
                 const Poll& poll);

}  // namespace vqindex
