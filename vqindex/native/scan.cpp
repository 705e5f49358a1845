// Runs a search and writes what it found; schedule.hpp divides the work.
#include "scan.hpp"

#include <algorithm>
#include <limits>

#include "schedule.hpp"

namespace vqindex {
namespace {

bool by_score(const Hit& a, const Hit& b) { return a.score != b.score ? a.score > b.score : a.row < b.row; }

// Subtracting from 0 turns distances back without making a negative zero.
float shown_score(const SearchRequest& request, float score) { return request.code.distance ? 0.0f - score : score; }

// Writes the k hits of the best rank scores, best score first, as entries from `at` on.
void write(std::vector<Hit>& hits, const SearchRequest& request, std::size_t at, const SearchOutput& out) {
  const std::size_t kept = std::min(request.k, hits.size());
  std::partial_sort(hits.begin(), hits.begin() + kept, hits.end(), better);
  std::sort(hits.begin(), hits.begin() + kept, by_score);
  constexpr float worst = -std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < request.k; ++i) {
    const Hit hit = i < kept ? hits[i] : Hit{worst, worst, -1};
    out.scores[at + i] = shown_score(request, hit.score);
    out.rows[at + i] = hit.row;
    out.rank_scores[at + i] = hit.rank_score;
  }
}

// How many rows query q may find.
std::size_t count_rows(const SearchRequest& request, std::size_t q) {
  std::size_t count = 0;
  for (const SegmentView& segment : request.segments) count += count_selected(segment, q, 0, segment.count);
  return count;
}

}  // namespace

bool search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
            const SearchOutput& out) {
  const auto selects_per_query = [](const SegmentView& segment) { return segment.selection_stride != 0; };
  const bool per_query = std::any_of(request.segments.begin(), request.segments.end(), selects_per_query);
  const bool has_bound = request.sign_bound.enabled;
  const std::size_t common = has_bound && !per_query ? count_rows(request, 0) : 0;
  return scan_all(request, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits, std::size_t candidates) {
    write(hits, request, q * request.k, out);
    const std::size_t rows = has_bound && per_query ? count_rows(request, q) : common;
    out.dropped[q] = has_bound ? static_cast<std::int64_t>(rows - candidates) : 0;
  });
}

bool range_search(const SearchRequest& request, const Kernels& kernels, std::size_t threads, const Poll& poll,
                  std::vector<std::vector<Hit>>& found) {
  found.resize(request.queries.count);
  return scan_all(request, kernels, threads, poll, [&](std::size_t q, std::vector<Hit>& hits, std::size_t) {
    std::sort(hits.begin(), hits.end(), by_score);
    for (Hit& hit : hits) hit.score = shown_score(request, hit.score);
    found[q] = std::move(hits);
  });
}

}  // namespace vqindex
