// Rounds queries to int8 and computes the constants of their bounds.
#include "scan_queries.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace vqindex {
namespace {

void copy_code_queries(const SearchRequest& request, PreparedQueries& out) {
  const std::size_t d = request.code.fields.dim;
  out.code_query.assign(request.queries.count * out.stride, 0);
  for (std::size_t q = 0; q < request.queries.count; ++q)
    std::copy_n(request.queries.code_query + q * d, d, out.code_query.data() + q * out.stride);
}

// Where coordinate i of query q is in a buffer of narrow queries.
std::size_t narrow_place(const PreparedQueries& out, std::size_t q, std::size_t i) {
  return out.is_tiled() ? q / 16 * 16 * out.stride + i / 64 * 1024 + q % 16 * 64 + i % 64 : q * out.stride + i;
}

// Magnitudes are at most 64, or 127 for tiles, which need no room for sums of products in 16 bits.
void make_narrow_queries(const SearchRequest& request, PreparedQueries& out) {
  const std::size_t d = request.code.fields.dim;
  const int step = out.narrow_step;
  out.narrow_query.assign(padded(request.queries.count, out.is_tiled() ? kTileQueries : 1) * out.stride, 0);
  for (std::size_t q = 0; q < request.queries.count; ++q) {
    std::int64_t error2 = 0, norm2 = 0;
    std::int32_t total = 0;
    for (std::size_t i = 0; i < d; ++i) {
      const int x = request.queries.code_query[q * d + i];
      const int narrow = std::clamp((x + step / 2) >> (step == 512 ? 9 : 8), -127, 127);
      out.narrow_query[narrow_place(out, q, i)] = static_cast<std::int8_t>(narrow);
      total += narrow;
      error2 += std::int64_t{x - step * narrow} * (x - step * narrow);
      norm2 += std::int64_t{x} * x;
    }
    const float error = std::sqrt(static_cast<float>(error2)), norm = std::sqrt(static_cast<float>(norm2));
    out.offset.push_back(out.is_tiled() ? 0 : 128 * total);
    // Codes with levels of more than 8 bits also leave out the low part of each level: see int8_prefilter.hpp.
    out.slack.push_back((request.code.multiplier > 1 ? std::max(error, norm / 128) : error) + kRoom * (norm + error));
  }
}

// Returns the most units whose entries add up to 255 at most, whichever unit is the first.
std::size_t find_units_per_byte_sum(const std::int8_t* sign_query, std::size_t units) {
  int recent[kMaxUnitsPerByteSum] = {};  // the sum of magnitudes of unit u, u - 1, u - 2, ...
  std::size_t most = kMaxUnitsPerByteSum;
  for (std::size_t u = 0; u < units; ++u) {
    for (std::size_t i = kMaxUnitsPerByteSum - 1; i > 0; --i) recent[i] = recent[i - 1];
    recent[0] = 0;
    for (std::size_t i = 0; i < kUnitDim; ++i) recent[0] += std::abs(sign_query[kUnitDim * u + i]);
    int sum = recent[0];
    for (std::size_t i = 1; i < most; ++i)
      if ((sum += recent[i]) > 255) most = i;
  }
  return most;
}

// sign_bound.py, operation for operation.
void make_sign_queries(const SearchRequest& request, PreparedQueries& out) {
  const std::size_t d = request.code.fields.dim;
  const std::size_t units = padded((d + 7) / 8, kUnitBytes) / kUnitBytes;
  const SignBoundParameters& parameters = request.sign_bound;
  out.sign_stride = padded(units * kUnitDim, kBlockRows);
  out.sign_query.assign(request.queries.count * out.sign_stride, 0);
  for (std::size_t q = 0; q < request.queries.count; ++q) {
    std::int64_t error2 = 0;
    std::int32_t total = 0;
    std::int8_t* sign_query = out.sign_query.data() + q * out.sign_stride;
    for (std::size_t i = 0; i < d; ++i) {
      const int x = request.queries.code_query[q * d + i], rounded = (kSignLimit * x + (1 << 14)) >> 15;
      sign_query[i] = static_cast<std::int8_t>(rounded);
      total += std::abs(rounded);
      error2 += std::int64_t{kSignLimit * x - 32767 * rounded} * (kSignLimit * x - 32767 * rounded);
    }
    const double scale = request.queries.scale[q], norm = request.queries.norm[q];
    const double variance = parameters.variance * (norm * norm) +
                            (parameters.rounding_variance * static_cast<double>(error2)) * (scale * scale);
    out.sign_bound.push_back({total, static_cast<float>(parameters.scale * scale),
                              static_cast<float>(parameters.quantile * std::sqrt(variance)),
                              request.queries.norm[q] * request.queries.norm[q], request.code.distance});
    out.units_per_byte_sum.push_back(find_units_per_byte_sum(sign_query, units));
  }
}

}  // namespace

PreparedQueries prepare_queries(const SearchRequest& request, ScanKind kind) {
  PreparedQueries prepared;
  prepared.kind = kind;
  prepared.narrow_step = prepared.is_tiled() ? 256 : 512;
  prepared.stride = padded(request.code.fields.dim, 64);
  copy_code_queries(request, prepared);
  if (request.sign_bound.enabled) make_sign_queries(request, prepared);
  if (request.queries.count > 1 && kind != ScanKind::one_by_one) make_narrow_queries(request, prepared);
  return prepared;
}

}  // namespace vqindex
