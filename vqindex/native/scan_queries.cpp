#include "scan_queries.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace vqindex {
namespace {

void prepare_leads(const Task& task, Prepared& out) {
  const std::size_t d = task.code.fields.dim;
  out.lead.assign(task.queries.count * out.stride, 0);
  for (std::size_t q = 0; q < task.queries.count; ++q)
    std::copy_n(task.queries.lead + q * d, d, out.lead.data() + q * out.stride);
}

void prepare_levels(const Task& task, Prepared& out) {
  const std::size_t d = task.code.fields.dim;
  out.narrow.assign(task.queries.count * out.stride, 0);
  for (std::size_t q = 0; q < task.queries.count; ++q) {
    std::int64_t left2 = 0, norm2 = 0;
    std::int32_t total = 0;
    for (std::size_t i = 0; i < d; ++i) {
      const int x = task.queries.lead[q * d + i], narrow = (x + 256) >> 9;
      out.narrow[q * out.stride + i] = static_cast<std::int8_t>(narrow);
      total += narrow;
      left2 += std::int64_t{x - 512 * narrow} * (x - 512 * narrow);
      norm2 += std::int64_t{x} * x;
    }
    const float left = std::sqrt(static_cast<float>(left2)), norm = std::sqrt(static_cast<float>(norm2));
    out.offset.push_back(128 * total);
    // Codes with more than 8 bits of levels also leave out part of a level: see `weigh`.
    out.slack.push_back((task.code.multiplier > 1 ? std::max(left, norm / 128) : left) + kRoom * (norm + left));
  }
}

// The most units whose entries add up to 255 at most, wherever they begin.
std::size_t units_together(const std::int8_t* signs, std::size_t units) {
  int unit[kTogetherUnits] = {};
  std::size_t units_per_byte_sum = kTogetherUnits;
  for (std::size_t u = 0; u < units; ++u) {
    for (std::size_t i = kTogetherUnits - 1; i > 0; --i) unit[i] = unit[i - 1];
    unit[0] = 0;
    for (std::size_t i = 0; i < 24; ++i) unit[0] += std::abs(signs[24 * u + i]);
    int sum = unit[0];
    for (std::size_t i = 1; i < units_per_byte_sum; ++i)
      if ((sum += unit[i]) > 255) units_per_byte_sum = i;
  }
  return units_per_byte_sum;
}

// sign_bound.py, operation for operation.
void prepare_signs(const Task& task, Prepared& out) {
  const std::size_t d = task.code.fields.dim;
  const std::size_t units = padded((d + 7) / 8, kUnitBytes) / kUnitBytes;
  out.sign_stride = padded(units * 24, kBlockRows);
  out.sign.assign(task.queries.count * out.sign_stride, 0);
  for (std::size_t q = 0; q < task.queries.count; ++q) {
    std::int64_t left2 = 0;
    std::int32_t total = 0;
    std::int8_t* signs = out.sign.data() + q * out.sign_stride;
    for (std::size_t i = 0; i < d; ++i) {
      const int x = task.queries.lead[q * d + i], sign = (kSignLimit * x + (1 << 14)) >> 15;
      signs[i] = static_cast<std::int8_t>(sign);
      total += std::abs(sign);
      left2 += std::int64_t{kSignLimit * x - 32767 * sign} * (kSignLimit * x - 32767 * sign);
    }
    const double scale = task.queries.scale[q], norm = task.queries.norm[q];
    const double variance =
        task.coarse.plane * (norm * norm) + (task.coarse.rounding * static_cast<double>(left2)) * (scale * scale);
    out.bound.push_back({total, static_cast<float>(task.coarse.scale * scale),
                         static_cast<float>(task.coarse.quantile * std::sqrt(variance)),
                         task.queries.norm[q] * task.queries.norm[q], task.code.distance});
    out.units_per_byte_sum.push_back(units_together(signs, units));
  }
}

}  // namespace

Prepared prepare_queries(const Task& task) {
  Prepared prepared;
  prepared.stride = padded(task.code.fields.dim, kBlockRows);
  prepare_leads(task, prepared);
  if (task.coarse.on) prepare_signs(task, prepared);
  if (task.queries.count > 1) prepare_levels(task, prepared);
  return prepared;
}

}  // namespace vqindex
