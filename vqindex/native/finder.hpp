// A search for a few queries in one call, from the caller's numbers to the best scores and rows:
//
//   queries -> finite? -> residuals -> code queries, norms < max -> scan or walk -> re-ranked, or cosines -> results
//
// Each step is the one that a call of its own makes: residuals.hpp, encode.hpp, scan.hpp, graph_search.hpp, rerank.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "buffer.hpp"
#include "encode_parallel.hpp"
#include "finite.hpp"
#include "graph_search.hpp"
#include "pool.hpp"
#include "rerank.hpp"
#include "residuals.hpp"
#include "scan.hpp"

namespace vqindex {

// How queries are prepared, and their scores converted (center.py, encoder.py).
struct QueryRules {
  const EncodeTables& tables;
  Metric metric;       // of the caller's vectors
  const float* point;  // the center; null without one
  float norm_of_zero;  // of a zero query, with a center
  float max_norm;      // no query has this norm or a larger one
  std::string isa;

  // Whether the codes' scores are squared distances of unit vectors, and the caller's are cosines.
  bool is_angular() const { return point && metric == Metric::cosine; }
};

// Prepared queries and their memory.
class FewQueries {
 public:
  // Returns false if some number is not finite, or a norm is too large.
  bool prepare(const QueryRules& rules, const float* queries, std::size_t count) {
    const std::size_t d = rules.tables.rotation.dim;
    if (!all_finite(queries, count * d)) return false;
    if (rules.point) {
      residuals_.resize(count * d);
      is_zero_.resize(count);
      const Centering centering{d, rules.point, rules.metric == Metric::cosine};
      subtract_point(centering, queries, count, residuals_.data(), is_zero_.data(), rules.isa);
      queries = residuals_.data();
    }
    code_query_.resize(count * d);
    scale_.resize(count);
    norm_.resize(count);
    prepare_parallel(rules.tables, queries, count, 1, code_query_.data(), scale_.data(), norm_.data(), rules.isa);
    for (std::size_t q = 0; q < count; ++q) {
      if (rules.point && is_zero_[q]) norm_[q] = rules.norm_of_zero;
      if (!(norm_[q] < rules.max_norm)) return false;
    }
    return true;
  }

  QueryBatch batch() const { return {norm_.size(), code_query_.data(), scale_.data(), norm_.data()}; }

 private:
  std::vector<float> residuals_, scale_, norm_;
  std::vector<std::uint8_t> is_zero_;
  Buffer<std::int16_t> code_query_;
};

// Rows that are scanned.
struct ScanRows {
  Code code;
  const Kernels& kernels;
  std::vector<SegmentView> segments;
  SignBoundParameters sign_bound;  // but for its quantile; not enabled for codes without one
};

// Rows that walks of a graph find.
struct WalkRows {
  Code code;
  const Kernels& kernels;
  Records records;
  LinkView links;
  EntryRows entries;
  const std::uint64_t* selection;  // of the rows that may be found; null for all
};

struct FewRequest {
  const float* queries;  // [count][dim]
  std::size_t count, k;
  std::size_t threads;         // 0: as many as processors
  const VectorParts* vectors;  // re-rank a shortlist; null to leave it out
  std::size_t shortlist;       // its length, at least k

  // How many rows a query's scan or walk has to return.
  std::size_t rows_wanted() const { return vectors ? shortlist : k; }
};

enum class Outcome { found, refused, stopped };

// Prepares the queries and calls find(batch, threads, scores, rows), which returns `rows_wanted` rows of each, or false
// if it was stopped. Writes the k best scores and rows of each query. Refuses queries that `FewQueries` does.
template <typename Find>
Outcome find_few(const QueryRules& rules, const FewRequest& request, const Poll& poll, const Find& find, float* scores,
                 std::int64_t* rows) {
  FewQueries queries;
  if (!queries.prepare(rules, request.queries, request.count)) return Outcome::refused;
  const std::size_t threads = request.threads ? request.threads : processors();
  if (!request.vectors) {
    if (!find(queries.batch(), threads, scores, rows)) return Outcome::stopped;
    for (std::size_t i = 0; rules.is_angular() && i < request.count * request.k; ++i)
      scores[i] = 1.0f - 0.5f * scores[i];
    return Outcome::found;
  }
  const std::size_t m = request.shortlist;
  std::vector<float> listed_scores(request.count * m);
  std::vector<std::int64_t> listed_rows(request.count * m);
  if (!find(queries.batch(), threads, listed_scores.data(), listed_rows.data())) return Outcome::stopped;
  const Shortlists lists{request.queries, request.count, listed_rows.data(), m};
  return rerank(*request.vectors, rules.metric, lists, request.k, threads, rules.isa, poll, scores, rows)
             ? Outcome::found
             : Outcome::stopped;
}

// Scans rows, with a sign bound of so many standard errors if the code has one and the quantile is finite.
inline Outcome scan_few(const QueryRules& rules, const ScanRows& stored, double quantile, const FewRequest& request,
                        const Poll& poll, float* scores, std::int64_t* rows) {
  const std::size_t k = request.rows_wanted();
  std::vector<float> rank_scores(request.count * k);
  std::vector<std::int64_t> dropped(request.count);
  const auto find = [&](const QueryBatch& batch, std::size_t threads, float* best, std::int64_t* best_rows) {
    SearchRequest scan{stored.code, stored.segments, batch, stored.sign_bound, k};
    scan.sign_bound.quantile = quantile;
    scan.sign_bound.enabled = scan.sign_bound.enabled && quantile < std::numeric_limits<double>::infinity();
    return search(scan, stored.kernels, threads, poll, {best, best_rows, rank_scores.data(), dropped.data()});
  };
  return find_few(rules, request, poll, find, scores, rows);
}

// Walks the graph.
inline Outcome walk_few(const QueryRules& rules, const WalkRows& graph, std::size_t effort, const FewRequest& request,
                        const Poll& poll, float* scores, std::int64_t* rows) {
  std::vector<std::int64_t> scored(request.count);
  const auto find = [&](const QueryBatch& batch, std::size_t threads, float* best, std::int64_t* best_rows) {
    const GraphRequest walk{
        graph.code, graph.records,   graph.links, graph.entries, batch, request.rows_wanted(), effort,
        {},         graph.selection, 0,           nullptr};
    return graph_search(walk, graph.kernels, threads, poll, {best, best_rows, scored.data(), nullptr});
  };
  return find_few(rules, request, poll, find, scores, rows);
}

}  // namespace vqindex
