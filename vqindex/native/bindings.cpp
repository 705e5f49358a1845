// The extension module. Only this file, graph_bindings.cpp and finder_bindings.cpp know Python: they check types and
// shapes, allocate results, and release the interpreter lock around the work.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "array_views.hpp"
#include "binding_tools.hpp"
#include "bitplanes.hpp"
#include "dispatch.hpp"
#include "encode_parallel.hpp"
#include "encode_tables.hpp"
#include "finder_bindings.hpp"
#include "finite.hpp"
#include "graph_bindings.hpp"
#include "id_table.hpp"
#include "rerank.hpp"
#include "residuals.hpp"
#include "scanner.hpp"
#include "trellis.hpp"

namespace {

using namespace vqindex::python;
using vqindex::CodecTables;
using vqindex::Scanner;

// ---- search

vqindex::SearchRequest make_request(const Scanner& scanner, nb::sequence segments, const CodeQueries& code_query,
                                    const Floats& code_scale, const Floats& norm, nb::object sign_bound,
                                    nb::object selection) {
  vqindex::SearchRequest request{scanner.code(), {}, {}, {}, 0};
  const std::size_t nq = code_query.shape(0);
  if (code_query.shape(1) != scanner.dim() || code_scale.shape(0) != nq || norm.shape(0) != nq)
    throw std::invalid_argument("expected queries of the scanner's dimension with a scale and a norm each");
  request.queries = {nq, code_query.data(), code_scale.data(), norm.data()};
  if (!sign_bound.is_none()) {
    const auto [scale, variance, rounding, quantile] = nb::cast<std::tuple<double, double, double, double>>(sign_bound);
    if (scanner.dim() > vqindex::kSignDim)
      throw std::invalid_argument("expected sign bits of at most 6144 coordinates");
    request.sign_bound = {true, scale, variance, rounding, quantile};
  }
  const bool with_signs = scanner.decodes_signs() || request.sign_bound.enabled;
  for (nb::handle segment : segments) request.segments.push_back(segment_view(scanner, segment, with_signs));
  if (!selection.is_none()) add_selection(nb::cast<nb::sequence>(selection), nq, request.segments);
  return request;
}

nb::tuple search(const Scanner& scanner, nb::sequence segments, CodeQueries code_query, Floats code_scale, Floats norm,
                 std::size_t k, nb::object sign_bound, std::size_t threads, nb::object selection) {
  if (k < 1) throw std::invalid_argument("expected queries for k > 0 results");
  auto request = make_request(scanner, segments, code_query, code_scale, norm, sign_bound, selection);
  request.k = k;
  const std::size_t nq = request.queries.count;
  auto scores = make_array<float>({nq, k}), rank_scores = make_array<float>({nq, k});
  auto rows = make_array<std::int64_t>({nq, k}), dropped = make_array<std::int64_t>({nq});
  const vqindex::SearchOutput out{scores.data(), rows.data(), rank_scores.data(), dropped.data()};
  interruptible(
      [&](const vqindex::Poll& poll) { return vqindex::search(request, scanner.kernels(), threads, poll, out); });
  return nb::make_tuple(scores, rows, rank_scores, dropped);
}

nb::tuple range_search(const Scanner& scanner, nb::sequence segments, CodeQueries code_query, Floats code_scale,
                       Floats norm, Floats thresholds, nb::object sign_bound, std::size_t threads,
                       nb::object selection) {
  auto request = make_request(scanner, segments, code_query, code_scale, norm, sign_bound, selection);
  const std::size_t nq = request.queries.count;
  if (thresholds.shape(0) != nq) throw std::invalid_argument("expected a threshold for each query");
  request.range_thresholds = thresholds.data();
  std::vector<std::vector<vqindex::Hit>> found;
  interruptible([&](const vqindex::Poll& poll) {
    return vqindex::range_search(request, scanner.kernels(), threads, poll, found);
  });
  auto counts = make_array<std::int64_t>({nq});
  std::size_t total = 0;
  for (std::size_t q = 0; q < nq; ++q) {
    counts.data()[q] = static_cast<std::int64_t>(found[q].size());
    total += found[q].size();
  }
  auto scores = make_array<float>({total});
  auto rows = make_array<std::int64_t>({total});
  std::size_t at = 0;
  for (auto& hits : found) {
    for (const vqindex::Hit& hit : hits) {
      scores.data()[at] = hit.score;
      rows.data()[at++] = hit.row;
    }
    hits = {};
  }
  return nb::make_tuple(counts, scores, rows);
}

Array<std::int8_t> decode(const Scanner& scanner, ByteRows codes, nb::object sign_rows) {
  const std::size_t n = codes.shape(0), row_bytes = codes.shape(1);
  const std::uint8_t* signs = nullptr;
  if (scanner.decodes_signs()) {
    const auto given = nb::cast<ByteRows>(sign_rows);
    if (given.shape(0) != n || given.shape(1) != scanner.sign_bytes())
      throw std::invalid_argument("expected sign rows");
    signs = given.data();
  }
  if (!scanner.holds_row(row_bytes)) throw std::invalid_argument("expected rows that hold dim windows");
  auto levels = make_array<std::int8_t>({n, scanner.stride()});
  nb::gil_scoped_release unlocked;
  scanner.decode(codes.data(), n, row_bytes, signs, levels.data());
  return levels;
}

Array<float> sums(const Scanner& scanner, CodeQueries queries, Array<const std::int8_t, nb::ndim<2>> levels) {
  const std::size_t nq = queries.shape(0), n = levels.shape(0);
  if (queries.shape(1) != scanner.dim() || levels.shape(1) != scanner.dim())
    throw std::invalid_argument("expected queries and levels of the scanner's dimension");
  auto out = make_array<float>({nq, n});
  nb::gil_scoped_release unlocked;
  scanner.dot(queries.data(), nq, levels.data(), n, out.data());
  return out;
}

// ---- reranking

void init_vectors(KeptVectors* kept, const std::string& kind, std::size_t dim, nb::sequence parts,
                  const std::string& isa) {
  nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu> values;
  Floats scale;
  const bool steps = kind == "int8", half = kind == "f16";
  const auto type = steps ? vqindex::VectorType::int8 : half ? vqindex::VectorType::f16 : vqindex::VectorType::f32;
  const auto code = steps ? nb::dlpack::dtype_code::Int : nb::dlpack::dtype_code::Float;
  const nb::dlpack::dtype dtype{static_cast<std::uint8_t>(code),
                                static_cast<std::uint8_t>(8 * vqindex::value_bytes(type)), 1};
  bool matches = dim > 0 && (steps || half || kind == "f32");
  std::vector<nb::ndarray<nb::ro>> arrays;
  std::vector<vqindex::VectorPart> views;
  for (nb::handle part : parts) {
    matches = matches && nb::try_cast(part[0], values, false) && values.dtype() == dtype && values.shape(1) == dim;
    matches = matches && (!steps || (nb::try_cast(part[1], scale, false) && scale.shape(0) == values.shape(0)));
    if (!matches) break;
    views.push_back({values.data(), steps ? scale.data() : nullptr, values.shape(0)});
    arrays.emplace_back(values);
    if (steps) arrays.emplace_back(scale);
  }
  if (!matches)
    throw std::invalid_argument("expected parts (values (rows, dim), scale (rows,) or None) of kind f32, f16 or int8");
  new (kept) KeptVectors{{type, dim, std::move(views)}, vqindex::checked_isa(isa), std::move(arrays)};
}

nb::tuple rerank(const KeptVectors& kept, const std::string& metric, FloatRows queries,
                 Array<const std::int64_t, nb::ndim<2>> rows, std::size_t k, std::size_t threads) {
  const std::size_t nq = queries.shape(0), m = rows.shape(1);
  if (queries.shape(1) != kept.vectors.dim || rows.shape(0) != nq || k < 1 || k > m || threads < 1)
    throw std::invalid_argument("expected queries of the vectors' dimension, each with a shortlist of at least k rows");
  const vqindex::Metric measure = metric_of(metric);
  const auto count = static_cast<std::int64_t>(kept.vectors.rows());
  if (std::any_of(rows.data(), rows.data() + nq * m, [count](std::int64_t row) { return row >= count; }))
    throw std::invalid_argument("expected rows of the vectors, or -1");
  auto out_scores = make_array<float>({nq, k});
  auto out_rows = make_array<std::int64_t>({nq, k});
  const vqindex::Shortlists lists{queries.data(), nq, rows.data(), m};
  interruptible([&](const vqindex::Poll& poll) {
    return vqindex::rerank(kept.vectors, measure, lists, k, threads, kept.isa, poll, out_scores.data(),
                           out_rows.data());
  });
  return nb::make_tuple(out_scores, out_rows);
}

// ---- encoding

nb::tuple trellis_encode(CodeQueries values, Array<const std::int16_t, nb::ndim<1>> table, int bits, int window,
                         int limit, int gain, int start_mask, const std::string& isa) {
  if (!vqindex::is_trellis(bits, window, gain) || table.shape(0) != std::size_t{1} << window)
    throw std::invalid_argument(vqindex::kTrellisExpected);
  const vqindex::TrellisLevels levels(copied(table));
  const vqindex::TrellisSpec spec = levels.spec(bits, window, limit, gain, start_mask);
  const std::size_t n = values.shape(0), d = values.shape(1);
  const std::string chosen = vqindex::checked_isa(isa);
  auto fields = make_array<std::uint8_t>({n, d});
  auto starts = make_array<std::uint16_t>({n});
  {
    nb::gil_scoped_release unlocked;
    vqindex::trellis_fields(values.data(), n, d, spec, fields.data(), starts.data(), chosen);
  }
  return nb::make_tuple(fields, starts);
}

void init_tables(CodecTables* tables, FloatRows signs, Array<const std::uint32_t, nb::ndim<1>> source, int bits,
                 bool cosine, bool renormalized, float cell_scale) {
  if (signs.shape(0) != vqindex::kRounds || signs.shape(1) != source.shape(0))
    throw std::invalid_argument("expected bits 1..8, signs (3, dim) and sources (dim,) below dim");
  new (tables) CodecTables(signs.data(), copied(source), bits, cosine, renormalized, cell_scale);
}

void set_codebook(CodecTables& tables, Floats thresholds, Array<const std::int16_t, nb::ndim<1>> levels) {
  tables.set_codebook(copied(thresholds), copied(levels));
}

void set_trellis(CodecTables& tables, Array<const std::int8_t, nb::ndim<1>> levels, int fraction, int window, int limit,
                 int gain, int start_mask, float grid) {
  tables.set_trellis(copied(levels), fraction, window, limit, gain, start_mask, grid);
}

void check_call(const vqindex::EncodeTables& views, const FloatRows& rows, int threads) {
  if (rows.shape(1) != views.rotation.dim) throw std::invalid_argument("expected rows of the tables' dimension");
  if (threads < 1) throw std::invalid_argument("expected threads >= 1");
}

nb::tuple encode(const CodecTables& tables, FloatRows rows, int threads, const std::string& isa) {
  const vqindex::EncodeTables& views = tables.views();
  check_call(views, rows, threads);
  const std::size_t n = rows.shape(0);
  const std::string chosen = vqindex::checked_isa(isa);
  auto codes = make_array<std::uint8_t>({n, vqindex::code_bytes(views)});
  auto rescale = make_array<float>({n});
  std::optional<Array<float>> norm;
  if (!views.cosine) norm = make_array<float>({n});
  {
    nb::gil_scoped_release unlocked;
    vqindex::encode_parallel(views, rows.data(), n, static_cast<std::size_t>(threads), codes.data(), rescale.data(),
                             norm ? norm->data() : nullptr, chosen);
  }
  return nb::make_tuple(codes, rescale, norm);
}

nb::tuple prepare(const CodecTables& tables, FloatRows queries, int threads, const std::string& isa) {
  const vqindex::EncodeTables& views = tables.views();
  check_call(views, queries, threads);
  const std::size_t n = queries.shape(0);
  const std::string chosen = vqindex::checked_isa(isa);
  auto code_query = make_array<std::int16_t>({n, views.rotation.dim});
  auto code_scale = make_array<float>({n}), norm = make_array<float>({n});
  {
    nb::gil_scoped_release unlocked;
    vqindex::prepare_parallel(views, queries.data(), n, static_cast<std::size_t>(threads), code_query.data(),
                              code_scale.data(), norm.data(), chosen);
  }
  return nb::make_tuple(code_query, code_scale, norm);
}

nb::tuple residuals(FloatRows rows, Floats point, bool unit, const std::string& isa) {
  const std::size_t n = rows.shape(0), d = rows.shape(1);
  if (point.shape(0) != d) throw std::invalid_argument("expected a point of the rows' dimension");
  const std::string chosen = vqindex::checked_isa(isa);
  auto out = make_array<float>({n, d});
  auto zero = make_array<std::uint8_t>({n});
  {
    nb::gil_scoped_release unlocked;
    vqindex::subtract_point({d, point.data(), unit}, rows.data(), n, out.data(), zero.data(), chosen);
  }
  return nb::make_tuple(out, zero);
}

// ---- rows and ids

bool all_finite(Array<const float> values) {
  nb::gil_scoped_release unlocked;
  return vqindex::all_finite(values.data(), values.size());
}

// bitplanes.py and records.py: the highest bit of each field into blocks of sign bits, and the other bits into rows of
// their own, or beside the sign bits of the row, or the whole row.
void split_rows(ByteRows codes, std::size_t dim, std::size_t warmup_fields, int bits, std::size_t start,
                Array<std::uint8_t, nb::ndim<3>> signs, ByteRowsApart<std::uint8_t> rest, bool whole_rows,
                std::optional<ByteRowsApart<std::uint8_t>> sign_rows) {
  const std::size_t n = codes.shape(0), fields = warmup_fields + dim;
  vqindex::SplitLayout layout{warmup_fields, (fields * bits + 7) / 8, (dim + 7) / 8, (fields * (bits - 1) + 7) / 8};
  if (bits < 1 || bits > (warmup_fields ? 4 : 8) || codes.shape(1) != layout.row_bytes ||
      signs.shape(0) * 64 < start + n || signs.shape(1) != layout.sign_bytes || signs.shape(2) != 64 ||
      rest.shape(0) < start + n || rest.shape(1) != (whole_rows ? layout.row_bytes : layout.rest_bytes) ||
      !has_adjacent_bytes(rest) ||
      (sign_rows && (sign_rows->shape(0) < start + n || sign_rows->shape(1) != layout.sign_bytes ||
                     !has_adjacent_bytes(*sign_rows))))
    throw std::invalid_argument(
        "expected rows of warmup_fields + dim fields, and room for them in the sign bits and the rest");
  if (whole_rows) layout.rest_bytes = vqindex::kWholeRows;
  const vqindex::SplitOutput out{signs.data(), rest.data(), row_stride(rest), sign_rows ? sign_rows->data() : nullptr,
                                 sign_rows ? row_stride(*sign_rows) : 0};
  nb::gil_scoped_release unlocked;
  vqindex::split_rows(codes.data(), n, layout, bits, start, out);
}

using Ids = Array<const std::int64_t, nb::ndim<1>>;
using Words = Array<const std::uint64_t, nb::ndim<1>>;

// Calls use(i, row) with the row of each id in `lookup`: -1 if there is none, or if its bit in `live` is not set. `ids`
// are those of the rows in order, or None if row i has id i.
template <typename Use>
void each_row(vqindex::IdTable& table, const std::optional<Ids>& ids, std::size_t count, const Ids& lookup,
              const std::optional<Words>& live, Use use) {
  if ((ids && ids->size() < count) || (live && live->size() * 64 < count))
    throw std::invalid_argument("expected an id and a bit for each of `count` rows");
  const vqindex::LiveIds rows{ids ? ids->data() : nullptr, count, live ? live->data() : nullptr};
  vqindex::find_rows(table, rows, lookup.data(), lookup.size(), use);
}

Array<std::int64_t> find_rows(vqindex::IdTable& table, std::optional<Ids> ids, std::size_t count, Ids lookup,
                              std::optional<Words> live) {
  auto found = make_array<std::int64_t>({lookup.size()});
  std::int64_t* out = found.data();
  each_row(table, ids, count, lookup, live, [out](std::size_t i, std::int64_t row) { out[i] = row; });
  return found;
}

Array<std::uint64_t> mark_rows(vqindex::IdTable& table, std::optional<Ids> ids, std::size_t count, Ids lookup,
                               std::optional<Words> live) {
  auto words = make_array<std::uint64_t>({(count + 63) / 64});
  std::uint64_t* out = words.data();
  std::fill_n(out, words.size(), 0);
  each_row(table, ids, count, lookup, live, [out](std::size_t, std::int64_t row) {
    if (row >= 0) out[row / 64] |= std::uint64_t{1} << (row % 64);
  });
  return words;
}

// The id of each row, -1 for negative rows; None if the id of a row is negative, as in a damaged file.
nb::object ids_of_rows(Ids ids, Array<const std::int64_t> rows) {
  std::vector<std::size_t> shape;
  for (std::size_t i = 0; i < rows.ndim(); ++i) shape.push_back(rows.shape(i));
  auto found = make_array<std::int64_t>(shape);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int64_t row = rows.data()[i];
    if (row >= static_cast<std::int64_t>(ids.size())) throw std::invalid_argument("expected an id for each row");
    found.data()[i] = row < 0 ? -1 : ids.data()[row];
    if (row >= 0 && found.data()[i] < 0) return nb::none();
  }
  return nb::cast(found);
}

std::size_t clear_rows(Array<std::uint64_t, nb::ndim<1>> live, Ids rows) {
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (rows.data()[i] >= 0 && static_cast<std::size_t>(rows.data()[i]) >= live.size() * 64)
      throw std::invalid_argument("expected a bit for each row");
  return vqindex::clear_bits(live.data(), rows.data(), rows.size());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Compiled part of vqindex.";
  nb::set_leak_warnings(false);  // an index that is alive at exit is no leak
  m.def("supported_isas", &vqindex::supported_isas,
        "Return the names of the instruction sets that kernels can use on this machine, the slowest first.");
  m.def("trellis_encode", &trellis_encode, nb::arg("values"), nb::arg("table"), nb::arg("bits"), nb::arg("window"),
        nb::arg("limit"), nb::arg("gain"), nb::arg("start_mask") = 0, nb::arg("isa") = "",
        "Viterbi search for int16 values (n, d); returns fields (n, d) uint8 and each first window's older bits (n,).");
  nb::class_<Scanner> scanner(m, "Scanner", "Decodes and searches stored rows of one code.");
  scanner
      .def(
          "__init__",
          [](Scanner* scanner, std::size_t dim, int step, int window, int tops,
             Array<const std::int16_t, nb::ndim<1>> levels, std::string metric, const std::string& isa) {
            new (scanner) Scanner(dim, step, window, tops, copied(levels), std::move(metric), isa);
          },
          nb::arg("dim"), nb::arg("step"), nb::arg("window"), nb::arg("tops"), nb::arg("levels"), nb::arg("metric"),
          nb::arg("isa") = "")
      .def_prop_ro("isa", &Scanner::isa, "Name of the instruction set in use.")
      .def("search", &search, nb::arg("segments"), nb::arg("code_query"), nb::arg("code_scale"), nb::arg("norm"),
           nb::arg("k"), nb::arg("sign_bound").none(), nb::arg("threads"), nb::arg("selection").none() = nb::none(),
           "Return the k best scores and rows, (nq, k), of segments (sign bits or None, codes, rescale, norm or None); "
           "their rank scores (nq, k), larger is better; and how many rows the sign bound dropped (nq,).")
      .def("range_search", &range_search, nb::arg("segments"), nb::arg("code_query"), nb::arg("code_scale"),
           nb::arg("norm"), nb::arg("thresholds"), nb::arg("sign_bound").none(), nb::arg("threads"),
           nb::arg("selection").none() = nb::none(),
           "Return counts (nq,), and scores and rows of each query's rows whose rank scores are above its threshold.")
      .def("decode", &decode, nb::arg("codes"), nb::arg("sign_rows").none(),
           "Decode rows (n, bytes) and their sign bits (n, ceil(dim / 8)) to int8 levels (n, padded dim).")
      .def("sums", &sums, nb::arg("queries"), nb::arg("levels"),
           "Return the exact sums of int16 queries (nq, dim) with int8 levels (n, dim) as float32 (nq, n).");
  vqindex::python::bind_graph(scanner);
  nb::class_<KeptVectors>(m, "Vectors", "Vectors in the arrays that an index keeps, for exact scores.")
      .def("__init__", &init_vectors, nb::arg("kind"), nb::arg("dim"), nb::arg("parts"), nb::arg("isa") = "")
      .def("rerank", &rerank, nb::arg("metric"), nb::arg("queries"), nb::arg("rows"), nb::arg("k"), nb::arg("threads"),
           "Return the k best exact scores and rows, (nq, k), of shortlists of rows (nq, m), -1 in empty places.");
  bind_finders(m);
  nb::class_<vqindex::IdTable>(m, "IdTable", "Rows by id; the ids, in row order, come with every call.")
      .def(nb::init<>())
      .def("find", &find_rows, nb::arg("ids").none(), nb::arg("count"), nb::arg("lookup"), nb::arg("live").none(),
           "Return the row of each id of `lookup` among the first `count` rows: -1 if there is none, or if its bit in "
           "`live` is not set. Adds new rows to the table; a row replaces an earlier one of the same id. Without ids, "
           "row i has id i.")
      .def("mark", &mark_rows, nb::arg("ids").none(), nb::arg("count"), nb::arg("lookup"), nb::arg("live").none(),
           "Return the same rows as set bits of words (ceil(count / 64),).")
      .def_prop_ro("rows", &vqindex::IdTable::rows, "How many rows the table has.")
      .def_prop_ro("distinct", &vqindex::IdTable::distinct, "Distinct ids of these rows.")
      .def_prop_ro("nbytes", &vqindex::IdTable::bytes, "Bytes of the table.");
  m.def("ids_of_rows", &ids_of_rows, nb::arg("ids"), nb::arg("rows"),
        "Return the id of each row, -1 for negative rows; None if the id of a row is negative.");
  m.def("clear_rows", &clear_rows, nb::arg("live").noconvert(), nb::arg("rows"),
        "Clear the bits of rows and return how many were set; negative rows are skipped.");
  m.def("all_finite", &all_finite, nb::arg("values").noconvert(), "Whether no float32 value is infinite or a NaN.");
  m.def(
      "split_rows", &split_rows, nb::arg("codes"), nb::arg("dim"), nb::arg("warmup_fields"), nb::arg("bits"),
      nb::arg("start"), nb::arg("signs"), nb::arg("rest"), nb::arg("whole_rows") = false,
      nb::arg("sign_rows").none() = nb::none(),
      "Split code rows (n, bytes) into sign bits and the rest, from row `start` on. The rest takes whole rows if asked "
      "to; `sign_rows` (rows, ceil(dim / 8)) takes the sign bits of each row once more.");
  nb::class_<CodecTables>(m, "Tables", "The tables of one codec without a second projection, for encode and prepare.")
      .def("__init__", &init_tables, nb::arg("signs"), nb::arg("source"), nb::arg("bits"), nb::arg("cosine"),
           nb::arg("renormalized"), nb::arg("cell_scale"))
      .def("set_codebook", &set_codebook, nb::arg("thresholds"), nb::arg("levels"),
           "Make it a scalar code of 2^bits cells, symmetric about 0.")
      .def("set_trellis", &set_trellis, nb::arg("levels"), nb::arg("fraction"), nb::arg("window"), nb::arg("limit"),
           nb::arg("gain"), nb::arg("start_mask"), nb::arg("grid"), "Make it a trellis code of 2^window levels.");
  m.def("encode", &encode, nb::arg("tables"), nb::arg("rows"), nb::arg("threads") = 1, nb::arg("isa") = "",
        "Encode finite float32 rows (n, dim); returns codes (n, bytes), rescale (n,) and norm (n,), None for cosine.");
  m.def(
      "residuals", &residuals, nb::arg("rows"), nb::arg("point"), nb::arg("unit"), nb::arg("isa") = "",
      "Return float32 rows (n, dim), divided by their norms if `unit`, less a point, and which are zero, uint8 (n,).");
  m.def("prepare", &prepare, nb::arg("tables"), nb::arg("queries"), nb::arg("threads") = 1, nb::arg("isa") = "",
        "Prepare finite float32 queries (n, dim); returns int16 code queries (n, dim), scales (n,) and norms (n,).");
}
