#include "graph_bindings.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "array_views.hpp"
#include "graph_link.hpp"
#include "graph_search.hpp"

namespace vqindex::python {
namespace {

using Hidden = Array<const std::int64_t, nb::ndim<1>>;
using Selection = nb::ndarray<const std::uint64_t, nb::ndim<2>, nb::device::cpu>;

nb::tuple walk(const Scanner& scanner, nb::sequence blocks, const LayoutTuple& layout, ByteRows links,
               std::size_t slots, Entries entries, CodeQueries code_query, Floats code_scale, Floats norm,
               std::size_t k, std::size_t effort, std::size_t budget, std::size_t need, std::size_t threads,
               nb::object selection, std::optional<Hidden> hidden) {
  const Records records = records_of(record_layout(scanner, layout), blocks);
  const LinkView view = link_view(links, slots, records);
  const std::size_t nq = code_query.shape(0);
  if (code_query.shape(1) != scanner.dim() || code_scale.shape(0) != nq || norm.shape(0) != nq || k < 1 || effort < 1)
    throw std::invalid_argument(
        "expected queries of the scanner's dimension, with a scale and a norm each, k and effort");
  const EntryRows starts = entries_of(entries, view.rows, scanner, records);
  const std::uint64_t* words = nullptr;
  std::size_t stride = 0;
  if (!selection.is_none()) {
    const auto given = nb::cast<Selection>(selection, false);
    const std::size_t lines = given.shape(0);
    if ((lines != 1 && lines != nq) || given.shape(1) < (records.count() + 63) / 64 ||
        (given.shape(1) > 1 && given.stride(1) != 1))
      throw std::invalid_argument("expected uint64 words (1 or nq, ceil(rows / 64)) of rows that may be found");
    words = given.data();
    stride = lines == 1 ? 0 : static_cast<std::size_t>(given.stride(0));
  }
  auto scores = make_array<float>({nq, k});
  auto rows = make_array<std::int64_t>({nq, k}), scored = make_array<std::int64_t>({nq});
  auto gave_up = make_array<bool>({nq});
  const GraphOutput out{scores.data(), rows.data(), scored.data(), gave_up.data()};
  const GraphRequest request{scanner.code(),
                             records,
                             view,
                             starts,
                             {nq, code_query.data(), code_scale.data(), norm.data()},
                             k,
                             effort,
                             WalkLimit(budget, need),
                             words,
                             stride,
                             hidden ? hidden->data() : nullptr};
  if (hidden && hidden->shape(0) != nq) throw std::invalid_argument("expected a hidden row for each query");
  for (std::size_t i = 0; hidden && i < nq; ++i)
    if (hidden->data()[i] >= static_cast<std::int64_t>(records.count()))
      throw std::invalid_argument("expected hidden rows that are rows");
  interruptible([&](const Poll& poll) { return graph_search(request, scanner.kernels(), threads, poll, out); });
  return nb::make_tuple(scores, rows, scored, gave_up);
}

using Links = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RuleTuple = std::tuple<std::size_t, std::size_t, float, std::size_t, std::size_t>;  // LinkRule of codes/graph.py

LinkRequest link_request(const Scanner& scanner, const Records& records, const Links& links, const RuleTuple& rule) {
  const auto [slots, kept, alpha, effort, children] = rule;
  if (slots < 1 || slots > 4096 || kept < 1 || kept > slots || !(alpha >= 1) || effort < 1 || children < 1)
    throw std::invalid_argument(
        "expected a rule (slots, kept, alpha, effort, children) with kept <= slots and alpha >= 1");
  const std::size_t rows = links.shape(0), width = links.shape(1) / slots;
  if (width * slots != links.shape(1) || (width != 3 && width != 4) || rows > records.count())
    throw std::invalid_argument(
        "expected links of 3 or 4 bytes, (rows, bytes) uint8, for at most as many rows as records");
  return {scanner.code(), records, {links.data(), rows, slots, width}, {slots, kept, effort, children, alpha}};
}

void link(const Scanner& scanner, nb::sequence blocks, const LayoutTuple& layout, Links links, std::size_t first,
          std::size_t last, const RuleTuple& rule, std::size_t threads) {
  const Records records = records_of(record_layout(scanner, layout), blocks);
  const LinkRequest request = link_request(scanner, records, links, rule);
  if (first > last || last > request.links.rows || (last - first) % kLinkBatch)
    throw std::invalid_argument("expected first <= last <= rows, and whole batches of 512 rows between them");
  interruptible([&](const Poll& poll) { return link_rows(request, first, last, scanner.kernels(), threads, poll); });
}

void relink(const Scanner& scanner, nb::sequence blocks, const LayoutTuple& layout, Links links,
            Array<const std::uint64_t, nb::ndim<1>> live, const RuleTuple& rule, std::size_t threads) {
  const Records records = records_of(record_layout(scanner, layout), blocks);
  const LinkRequest request = link_request(scanner, records, links, rule);
  if (live.size() * 64 < request.links.rows) throw std::invalid_argument("expected a bit for each row");
  interruptible([&](const Poll& poll) { return relink_rows(request, live.data(), scanner.kernels(), threads, poll); });
}

}  // namespace

void bind_graph(nb::class_<Scanner>& scanner) {
  scanner.def("walk", &walk, nb::arg("records"), nb::arg("layout"), nb::arg("links").noconvert(), nb::arg("slots"),
              nb::arg("entries"), nb::arg("code_query"), nb::arg("code_scale"), nb::arg("norm"), nb::arg("k"),
              nb::arg("effort"), nb::arg("budget"), nb::arg("need"), nb::arg("threads"),
              nb::arg("selection").none() = nb::none(), nb::arg("hidden").none() = nb::none(),
              "Walk a graph over records for each query; return the k best scores and rows, (nq, k), and how many rows "
              "were scored (nq,).");
  scanner.def(
      "link", &link, nb::arg("records"), nb::arg("layout"), nb::arg("links").noconvert(), nb::arg("first"),
      nb::arg("last"), nb::arg("rule"), nb::arg("threads"),
      "Link rows [first, last) to the rows before them, in batches of 512; `links`, (n, bytes), change in place.");
  scanner.def("relink", &relink, nb::arg("records"), nb::arg("layout"), nb::arg("links").noconvert(),
              nb::arg("live").noconvert(), nb::arg("rule"), nb::arg("threads"),
              "Replace the links of live rows to removed ones; `links`, (n, bytes), change in place.");
}

}  // namespace vqindex::python
