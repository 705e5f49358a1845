#include "finder_bindings.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "array_views.hpp"
#include "encode_tables.hpp"
#include "finder.hpp"

namespace vqindex::python {
namespace {

using Words = Array<const std::uint64_t, nb::ndim<1>>;

// What a finder reads, with the Python objects that hold it.
template <typename Rows>
struct Held {
  Rows rows;
  std::size_t count, dim;
  std::vector<nb::object> holders;
};

struct HeldRules {
  std::vector<float> point;
  QueryRules rules;
  nb::object tables;
};

void init_rules(HeldRules* held, nb::object tables, const std::string& metric, std::optional<Floats> point,
                float norm_of_zero, float max_norm, const std::string& isa) {
  const EncodeTables& views = nb::cast<const CodecTables&>(tables).views();
  if (point && point->shape(0) != views.rotation.dim)
    throw std::invalid_argument("expected a point of the tables' dimension");
  std::vector<float> copy;
  if (point) copy = copied(*point);
  const float* data = point ? copy.data() : nullptr;  // stays where it is when the vector moves
  new (held) HeldRules{
      std::move(copy), {views, metric_of(metric), data, norm_of_zero, max_norm, checked_isa(isa)}, std::move(tables)};
}

// Checks the arguments that all finders share, and calls search(request, poll) with them. Returns whether it found
// results; if not, the queries are no plain array of float32, or were refused.
template <typename Rows, typename Search>
bool find_in(const Held<Rows>& held, const HeldRules& rules, nb::handle queries, Array<float>& scores,
             Array<std::int64_t>& rows, std::size_t threads, const KeptVectors* vectors, std::size_t shortlist,
             const Search& search) {
  Array<const float> given;
  if (!nb::try_cast(queries, given, false) || given.ndim() < 1 || given.ndim() > 2) return false;
  const std::size_t dim = given.shape(given.ndim() - 1), count = given.ndim() == 2 ? given.shape(0) : 1;
  if (dim != rules.rules.tables.rotation.dim) return false;
  const std::size_t k = scores.ndim() ? scores.shape(scores.ndim() - 1) : 0;
  if (k < 1 || dim != held.dim || scores.size() != count * k || rows.size() != count * k)
    throw std::invalid_argument("expected rules of the rows' dimension, and room for k scores and rows of each query");
  if (vectors && (shortlist < k || vectors->vectors.dim != dim || vectors->vectors.rows() < held.count))
    throw std::invalid_argument("expected a shortlist of at least k rows, and a vector for each row");
  const FewRequest request{given.data(), count, k, threads, vectors ? &vectors->vectors : nullptr, shortlist};
  Outcome outcome = Outcome::refused;
  interruptible([&](const Poll& poll) {
    outcome = search(request, poll);
    return outcome != Outcome::stopped;
  });
  return outcome == Outcome::found;
}

// ---- scans

using HeldScan = Held<ScanRows>;
using Terms = std::tuple<double, double, double>;  // SignBoundTerms of codes/sign_bound.py

void init_scan(HeldScan* held, nb::object scanner, nb::sequence segments, std::optional<Terms> sign_bound,
               nb::object selection) {
  const Scanner& of = nb::cast<const Scanner&>(scanner);
  SignBoundParameters bound{};
  if (sign_bound) {
    if (of.dim() > kSignDim) throw std::invalid_argument("expected sign bits of at most 6144 coordinates");
    const auto [scale, variance, rounding] = *sign_bound;
    bound = {true, scale, variance, rounding, 0};
  }
  std::vector<SegmentView> views;
  std::size_t count = 0;
  for (nb::handle segment : segments) {
    views.push_back(segment_view(of, segment, of.decodes_signs() || bound.enabled));
    count += views.back().count;
  }
  if (!selection.is_none()) add_selection(nb::cast<nb::sequence>(selection), 1, views);
  new (held)
      HeldScan{{of.code(), of.kernels(), std::move(views), bound}, count, of.dim(), {scanner, segments, selection}};
}

bool scan(const HeldScan& held, const HeldRules& rules, nb::handle queries, Array<float> scores,
          Array<std::int64_t> rows, double quantile, std::size_t threads, const KeptVectors* vectors,
          std::size_t shortlist) {
  return find_in(held, rules, queries, scores, rows, threads, vectors, shortlist,
                 [&](const FewRequest& request, const Poll& poll) {
                   return scan_few(rules.rules, held.rows, quantile, request, poll, scores.data(), rows.data());
                 });
}

// ---- walks

using HeldWalk = Held<WalkRows>;

void init_walk(HeldWalk* held, nb::object scanner, nb::sequence blocks, const LayoutTuple& layout, ByteRows links,
               std::size_t slots, Entries entries, std::optional<Words> selection) {
  const Scanner& of = nb::cast<const Scanner&>(scanner);
  Records records = records_of(record_layout(of, layout), blocks);
  const LinkView view = link_view(links, slots, records);
  if (selection && selection->size() * 64 < records.count()) throw std::invalid_argument("expected a bit for each row");
  const std::size_t count = records.count();
  std::vector<nb::object> holders{scanner, blocks, nb::cast(links)};
  if (selection) holders.push_back(nb::cast(*selection));
  EntryRows starts = entries_of(entries, view.rows, of, records);
  new (held) HeldWalk{
      {of.code(), of.kernels(), std::move(records), view, std::move(starts), selection ? selection->data() : nullptr},
      count,
      of.dim(),
      std::move(holders)};
}

bool walk(const HeldWalk& held, const HeldRules& rules, nb::handle queries, Array<float> scores,
          Array<std::int64_t> rows, std::size_t effort, std::size_t threads, const KeptVectors* vectors,
          std::size_t shortlist) {
  if (effort < 1) throw std::invalid_argument("expected an effort of at least 1");
  return find_in(held, rules, queries, scores, rows, threads, vectors, shortlist,
                 [&](const FewRequest& request, const Poll& poll) {
                   return walk_few(rules.rules, held.rows, effort, request, poll, scores.data(), rows.data());
                 });
}

}  // namespace

void bind_finders(nb::module_& m) {
  nb::class_<HeldRules>(m, "QueryRules", "How queries are prepared, and scores converted, for one code and center.")
      .def("__init__", &init_rules, nb::arg("tables"), nb::arg("metric"), nb::arg("point").none(),
           nb::arg("norm_of_zero"), nb::arg("max_norm"), nb::arg("isa") = "");
  nb::class_<HeldScan>(m, "ScanRows", "Stored rows to be scanned for few queries.")
      .def("__init__", &init_scan, nb::arg("scanner"), nb::arg("segments"), nb::arg("sign_bound").none(),
           nb::arg("selection").none() = nb::none())
      .def("find", &scan, nb::arg("rules"), nb::arg("queries"), nb::arg("scores").noconvert(),
           nb::arg("rows").noconvert(), nb::arg("quantile"), nb::arg("threads"), nb::arg("vectors").none(),
           nb::arg("shortlist"),
           "Write the k best scores and rows of each query into arrays (k,) or (nq, k). Returns False for queries that "
           "are no contiguous float32 array, or whose numbers or norms are too large.");
  nb::class_<HeldWalk>(m, "WalkRows", "Records and links to be walked for few queries.")
      .def("__init__", &init_walk, nb::arg("scanner"), nb::arg("records"), nb::arg("layout"),
           nb::arg("links").noconvert(), nb::arg("slots"), nb::arg("entries"), nb::arg("selection").none() = nb::none())
      .def("find", &walk, nb::arg("rules"), nb::arg("queries"), nb::arg("scores").noconvert(),
           nb::arg("rows").noconvert(), nb::arg("effort"), nb::arg("threads"), nb::arg("vectors").none(),
           nb::arg("shortlist"), "The same for the rows that walks of an effort find.");
}

}  // namespace vqindex::python
