// Views of the arrays of Python that hold an index: stored rows, records, links, and vectors that it keeps. The arrays
// outlive the views. None is converted, because a copy would not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "binding_tools.hpp"
#include "graph_walk.hpp"
#include "rerank.hpp"
#include "scanner.hpp"

namespace vqindex::python {

// Views of records: rows of adjacent bytes some bytes apart, or one value of each row.
template <typename T>
using ByteRowsApart = nb::ndarray<T, nb::numpy, nb::device::cpu, nb::ndim<2>>;
using FloatsApart = nb::ndarray<const float, nb::numpy, nb::device::cpu, nb::ndim<1>>;

// Whether the bytes of each row follow each other, and rows come in order.
template <typename T>
bool has_adjacent_bytes(const ByteRowsApart<T>& rows) {
  return (rows.shape(1) < 2 || rows.stride(1) == 1) && (rows.shape(0) < 2 || rows.stride(0) >= 0);
}

// Bytes from one row to the next; 0 where nothing lies there.
template <typename T>
std::size_t row_stride(const ByteRowsApart<T>& rows) {
  return rows.shape(0) < 2 || rows.shape(1) == 0 ? 0 : static_cast<std::size_t>(rows.stride(0));
}

inline StridedFloats strided(const FloatsApart& values) {
  if (values.shape(0) < 2) return {values.data(), 0};
  if (values.stride(0) < 0) throw std::invalid_argument("expected scalars in the order of their rows");
  return {values.data(), static_cast<std::size_t>(values.stride(0))};
}

// Nothing is converted: the caller's arrays outlive the call, but copies of them would not.
inline SegmentView segment_view(const Scanner& scanner, nb::handle segment, bool with_signs) {
  const auto codes = nb::cast<ByteRowsApart<const std::uint8_t>>(segment[1], false);
  const auto rescale = nb::cast<FloatsApart>(segment[2], false);
  const std::size_t n = codes.shape(0);
  if (!scanner.holds_row(codes.shape(1)) || !has_adjacent_bytes(codes))
    throw std::invalid_argument("expected rows that hold dim windows");
  SegmentView view{nullptr, codes.data(), codes.shape(1), row_stride(codes), strided(rescale), {}, n};
  bool matches = rescale.shape(0) == n;
  if (with_signs) {
    const auto signs = nb::cast<Array<const std::uint8_t, nb::ndim<3>>>(segment[0], false);
    matches = matches && signs.shape(0) * 64 >= n && signs.shape(1) == scanner.sign_bytes() && signs.shape(2) == 64;
    view.signs = signs.data();
  }
  if (scanner.has_norms()) {
    const auto norm = nb::cast<FloatsApart>(segment[3], false);
    matches = matches && norm.shape(0) == n;
    view.norm = strided(norm);
  }
  if (!matches) throw std::invalid_argument("expected segments of (sign bits, codes, rescale, norm) with as many rows");
  return view;
}

// Adds the selection to each segment: words (1 or nq, ceil(rows / 64)), or None for all rows.
inline void add_selection(nb::sequence selection, std::size_t nq, std::vector<SegmentView>& segments) {
  if (nb::len(selection) != segments.size())
    throw std::invalid_argument("expected an entry of the selection for each segment");
  for (std::size_t i = 0; i < segments.size(); ++i) {
    nb::object entry = selection[i];
    if (entry.is_none()) continue;
    // Not converted: the caller's words outlive the call, but a copy of them would not.
    const auto words = nb::cast<nb::ndarray<const std::uint64_t, nb::ndim<2>, nb::device::cpu>>(entry, false);
    const std::size_t lines = words.shape(0), width = (segments[i].count + 63) / 64;
    if ((lines != 1 && lines != nq) || words.shape(1) < width || (words.shape(1) > 1 && words.stride(1) != 1))
      throw std::invalid_argument("expected uint64 words (1 or nq, ceil(rows / 64)) of rows that may be found");
    if (lines == 0) continue;  // no queries, and so no words at data()
    segments[i].selection = words.data();
    segments[i].selection_stride = lines == 1 ? 0 : static_cast<std::size_t>(words.stride(0));
  }
}

inline Metric metric_of(const std::string& name) {
  if (name == "ip") return Metric::ip;
  if (name == "cosine") return Metric::cosine;
  if (name == "l2") return Metric::l2;
  throw std::invalid_argument("expected metric ip, cosine or l2");
}

// Vectors that an index keeps, and the arrays that hold them.
struct KeptVectors {
  VectorParts vectors;
  std::string isa;
  std::vector<nb::ndarray<nb::ro>> arrays;
};

// size, sign bytes, code at, code bytes, rescale at, norm at (-1 if there is none), as in codes/records.py
using LayoutTuple = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::int64_t>;
using Entries = Array<const std::int64_t, nb::ndim<1>>;

inline RecordLayout record_layout(const Scanner& scanner, const LayoutTuple& tuple) {
  const auto [size, sign_bytes, code_at, code_bytes, rescale_at, norm_at] = tuple;
  constexpr std::size_t kMost = std::size_t{1} << 20;
  const auto holds = [size = size](std::size_t at, std::size_t bytes) { return at < kMost && at + bytes <= size; };
  const bool has_norm = norm_at >= 0;
  const std::size_t signs = scanner.decodes_signs() ? scanner.sign_bytes() : 0;
  if (size > kMost || sign_bytes != signs || code_at < signs || code_bytes > kMost || !holds(code_at, code_bytes) ||
      !scanner.holds_row(code_bytes) || !holds(rescale_at, 4) || has_norm != scanner.has_norms() ||
      (has_norm && !holds(static_cast<std::size_t>(norm_at), 4)) || (signs && size < scanner.stride() / 8))
    throw std::invalid_argument(
        "expected a layout (size, sign_bytes, code_at, code_bytes, rescale_at, norm_at or -1) of records of this code");
  return {
      size, sign_bytes, code_at, code_bytes, rescale_at, has_norm, has_norm ? static_cast<std::size_t>(norm_at) : 0};
}

// Records are not converted: the caller's arrays outlive the call, but copies of them would not.
inline Records records_of(const RecordLayout& layout, nb::sequence blocks) {
  std::vector<RecordBlock> all;
  for (nb::handle block : blocks) {
    const auto rows = nb::cast<ByteRows>(block, false);
    if (rows.shape(1) != layout.size) throw std::invalid_argument("expected records (rows, size)");
    all.push_back({rows.data(), rows.shape(0)});
  }
  const Records records(layout, all);
  if (records.count() > kMaxGraphRows) throw std::invalid_argument("expected at most 2^31 records");
  return records;
}

inline LinkView link_view(const ByteRows& links, std::size_t slots, const Records& records) {
  const std::size_t n = links.shape(0), width = slots ? links.shape(1) / slots : 0;
  if (slots < 1 || slots > 4096 || width * slots != links.shape(1) || (width != 3 && width != 4) || n > records.count())
    throw std::invalid_argument(
        "expected links of 3 or 4 bytes, (rows, bytes) uint8, for at most as many rows as records");
  return {links.data(), n, slots, width};
}

inline EntryRows entries_of(const Entries& entries, std::size_t rows, const Scanner& scanner, const Records& records) {
  if (entries.size() > kMaxEntries) throw std::invalid_argument("expected at most 8192 entries");
  std::vector<std::uint32_t> found;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries.data()[i] < 0 || static_cast<std::size_t>(entries.data()[i]) >= rows)
      throw std::invalid_argument("expected entries that are linked rows");
    found.push_back(static_cast<std::uint32_t>(entries.data()[i]));
  }
  return EntryRows(std::move(found), scanner.code().fields, records, scanner.kernels());
}

}  // namespace vqindex::python
