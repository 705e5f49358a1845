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

// Which scan a search takes. The choice changes its time and nothing else.
enum class ScanKind {
  levels,      // scan_levels.hpp
  one_by_one,  // scan_signs.hpp
  batch,       // scan_batch.hpp
  tiles,       // scan_tiles.hpp
};

// A scan by tiles costs the same for few queries as for many per row, which is decoded as a whole; with a sign bound
// other scans decode few rows. A batch scan shares what each group of rows needs among the queries, and needs more of
// it than a scan of one query after another.
inline ScanKind choose_scan(const SearchRequest& request, const Kernels& kernels) {
  const std::size_t nq = request.queries.count;
  const bool has_bound = request.sign_bound.enabled;
  if (const TileKernels* tiles = kernels.tiles)
    if (nq >= (has_bound ? tiles->least_queries_with_bound : tiles->least_queries)) return ScanKind::tiles;
  if (!has_bound) return ScanKind::levels;
  return nq <= kernels.few_queries ? ScanKind::one_by_one : ScanKind::batch;
}

// The queries of a search and their int8 versions, the same for all threads. `code_query` and `narrow_query` are padded
// with zeros to `stride`, `sign_query` to `sign_stride`.
struct PreparedQueries {
  ScanKind kind;
  std::size_t stride;
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

  bool is_tiled() const { return kind == ScanKind::tiles; }
  const std::int16_t* code_query_of(std::size_t q) const { return code_query.data() + q * stride; }
  const std::int8_t* sign_query_of(std::size_t q) const { return sign_query.data() + q * sign_stride; }
};

// Leaves out what the scan doesn't use: sign queries without a sign bound, and narrow queries where rows are scored
// exactly at once.
PreparedQueries prepare_queries(const SearchRequest& request, ScanKind kind);

}  // namespace vqindex
