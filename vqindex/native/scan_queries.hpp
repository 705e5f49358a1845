// The narrow versions of a batch of queries that the kernels use before the exact int16 query.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "scan.hpp"

namespace vqindex {

constexpr float kRoom = 2e-6f;  // relative; a score is at most five float32 roundings away from the exact value

// Most units whose table entries are added as bytes before they are widened. An entry sum of a unit is at most
// 24 * kSignLimit = 120, so two units always fit.
constexpr std::size_t kMaxUnitsPerByteSum = 8;
static_assert(2 * kUnitDim * kSignLimit <= 255);

// The queries of a search and their int8 versions, the same for all threads. `code_query` and `narrow_query` are padded
// with zeros to `stride`, `sign_query` to `sign_stride`.
struct PreparedQueries {
  std::size_t stride;
  bool tiled;       // whether the queries are for a scan by tiles
  int narrow_step;  // what 1 in a narrow query stands for: 512, or 256 for tiles
  Buffer<std::int16_t> code_query;
  // rint(code query / narrow_step), for the int8 prefilter. For tiles [16 queries][64 coordinates][query][coordinate],
  // and zero queries up to a multiple of 32.
  Buffer<std::int8_t> narrow_query;
  std::vector<std::int32_t> offset;  // 128 * the sum of the narrow query; 0 for tiles
  std::vector<float> slack;  // norm of the rounding error in steps of the code query, with room for float errors
  std::size_t sign_stride;
  Buffer<std::int8_t> sign_query;  // rint(code query * 5 / 32767), for the sign bits
  std::vector<SignBoundTerms> sign_bound;
  std::vector<std::size_t> units_per_byte_sum;  // so many units' entries add up to 255 at most

  const std::int16_t* code_query_of(std::size_t q) const { return code_query.data() + q * stride; }
  const std::int8_t* sign_query_of(std::size_t q) const { return sign_query.data() + q * sign_stride; }
};

// Whether the batch is scanned by tiles (scan_tiles.hpp). That costs the same for few queries as for many per row,
// which is decoded as a whole; with a sign bound other scans decode few rows.
inline bool scans_by_tiles(const SearchRequest& request, const Kernels& kernels) {
  if (!kernels.tiles) return false;
  const TileKernels& tiles = *kernels.tiles;
  return request.queries.count >= (request.sign_bound.enabled ? tiles.least_queries_with_bound : tiles.least_queries);
}

// Leaves out what the search doesn't use: sign queries without a sign bound, and narrow queries if there is only one
// query, which is scored exactly at once.
PreparedQueries prepare_queries(const SearchRequest& request, bool tiled);

}  // namespace vqindex
