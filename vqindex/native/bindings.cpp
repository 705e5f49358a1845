// The only file that knows Python: names and types in, plain C++ below.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <vector>

#include "dispatch.hpp"
#include "encode.hpp"
#include "finite.hpp"
#include "id_table.hpp"
#include "planes.hpp"
#include "scan.hpp"
#include "shares.hpp"
#include "trellis.hpp"

namespace nb = nanobind;

namespace {

template <typename T, typename... Shape>
using Array = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu, Shape...>;

template <typename T>
Array<T> make_array(std::vector<std::size_t> shape) {
  std::size_t size = 1;
  for (std::size_t extent : shape) size *= extent;
  T* data = new T[size];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Array<T>(data, shape.size(), shape.data(), owner);
}

nb::tuple encode_trellis(Array<const std::int16_t, nb::ndim<2>> values, Array<const std::int16_t, nb::ndim<1>> table,
                         int bits, int window, int limit, int gain, int start_mask, const std::string& isa) {
  if (bits < 1 || bits > 4 || window <= bits || window > 12 || table.shape(0) != std::size_t{1} << window)
    throw std::invalid_argument("expected bits 1..4, bits < window <= 12 and a table of 2^window levels");
  const vqindex::TrellisSpec spec{table.data(), bits, window, limit, gain, start_mask};
  const std::size_t n = values.shape(0), d = values.shape(1);
  const std::string path = vqindex::checked_isa(isa);
  auto fields = make_array<std::uint8_t>({n, d});
  auto starts = make_array<std::uint16_t>({n});
  std::vector<std::int16_t> scratch(vqindex::trellis_scratch(d, spec));
  {
    nb::gil_scoped_release unlocked;
    vqindex::trellis_encode(values.data(), n, d, spec, scratch.data(), fields.data(), starts.data(), path);
  }
  return nb::make_tuple(fields, starts);
}

using Levels = Array<const std::int8_t, nb::ndim<2>>;

// What a scan needs to know of a code. It owns copies of the tables; everything else comes with a call.
class Scanner {
 public:
  Scanner(std::size_t dim, int step, int window, int tops, Array<const std::int16_t, nb::ndim<1>> levels,
          std::string metric, const std::string& isa)
      : dim_(dim),
        step_(step),
        window_(window),
        tops_(tops),
        metric_(std::move(metric)),
        isa_(vqindex::checked_isa(isa)),
        kernels_(&vqindex::kernels_for(isa_)),
        levels_(levels.data(), levels.data() + levels.size()) {
    if (dim < 1 || dim > 16384 || step < 0 || step > 8 || window < step || tops < 0 || tops > 4 || window + tops > 10 ||
        7 * step + window > 64 || levels_.size() != std::size_t{1} << (window + tops) ||
        (metric_ != "ip" && metric_ != "cosine" && metric_ != "l2"))
      throw std::invalid_argument(
          "expected 1..16384 dim, step <= 8, step <= window, window + tops <= 10 and 2^(window + tops) levels");
    const auto [least, most] = std::minmax_element(levels_.begin(), levels_.end());
    if (*least < -127 || *most > 127) multiplier_ = 256;
    if (multiplier_ > 1 && levels_.size() > 256) throw std::invalid_argument("expected at most 256 levels of 16 bits");
    std::vector<std::int8_t> narrow, index;
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      const int level = levels_[i];
      narrow.push_back(static_cast<std::int8_t>(multiplier_ == 1 ? level : std::clamp((level + 128) >> 8, -127, 127)));
      index.push_back(static_cast<std::int8_t>(i));
    }
    narrow_ = std::make_unique<vqindex::FieldTables>(dim, step, window, tops, std::move(narrow));
    index_ = std::make_unique<vqindex::FieldTables>(dim, step, window, tops, std::move(index));
  }

  const std::string& isa() const { return isa_; }

  using Leads = Array<const std::int16_t, nb::ndim<2>>;
  using Floats = Array<const float, nb::ndim<1>>;

  nb::tuple search(nb::sequence blocks, Leads lead, Floats scale, Floats norm, std::size_t k, nb::object coarse,
                   std::size_t threads, nb::object allowed) const {
    if (k < 1) throw std::invalid_argument("expected queries for k > 0 results");
    vqindex::Task task = make_task(blocks, lead, scale, norm, coarse, allowed);
    task.k = k;
    auto scores = make_array<float>({task.queries.count, k});
    auto rows = make_array<std::int64_t>({task.queries.count, k});
    auto rank_scores = make_array<float>({task.queries.count, k});
    auto dropped = make_array<std::int64_t>({task.queries.count});
    const vqindex::SearchOutput out{scores.data(), rows.data(), rank_scores.data(), dropped.data()};
    interruptible([&](const auto& poll) { return vqindex::search(task, *kernels_, threads, poll, out); });
    return nb::make_tuple(scores, rows, rank_scores, dropped);
  }

  nb::tuple range_search(nb::sequence blocks, Leads lead, Floats scale, Floats norm, Floats thresholds,
                         nb::object coarse, std::size_t threads, nb::object allowed) const {
    vqindex::Task task = make_task(blocks, lead, scale, norm, coarse, allowed);
    const std::size_t nq = task.queries.count;
    if (thresholds.shape(0) != nq) throw std::invalid_argument("expected a threshold for each query");
    task.thresholds = thresholds.data();
    std::vector<std::vector<vqindex::Hit>> found;
    interruptible([&](const auto& poll) { return vqindex::range_search(task, *kernels_, threads, poll, found); });
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

  Array<std::int8_t> decode(Array<const std::uint8_t, nb::ndim<2>> codes, nb::object sign_rows) const {
    const std::size_t n = codes.shape(0), row_bytes = codes.shape(1), stride = vqindex::padded(dim_, 64);
    const std::uint8_t* signs = nullptr;
    Array<const std::uint8_t, nb::ndim<2>> plane;
    if (tops_) {
      plane = nb::cast<Array<const std::uint8_t, nb::ndim<2>>>(sign_rows);
      if (plane.shape(0) != n || plane.shape(1) != (dim_ + 7) / 8) throw std::invalid_argument("expected sign rows");
      signs = plane.data();
    }
    check_row(row_bytes);
    auto levels = make_array<std::int8_t>({n, stride});
    std::vector<std::uint8_t> sign_row(stride / 8);
    const vqindex::Fields f = narrow_->fields();
    nb::gil_scoped_release unlocked;
    for (std::size_t r = 0; r < n; ++r) {
      if (signs) std::copy_n(signs + r * ((dim_ + 7) / 8), (dim_ + 7) / 8, sign_row.data());
      kernels_->decode(f, codes.data() + r * row_bytes, row_bytes, sign_row.data(), levels.data() + r * stride);
    }
    return levels;
  }

  Array<float> sums(Array<const std::int16_t, nb::ndim<2>> queries, Levels levels) const {
    const std::size_t nq = queries.shape(0), n = levels.shape(0), stride = vqindex::padded(dim_, 64);
    if (queries.shape(1) != dim_ || levels.shape(1) != dim_)
      throw std::invalid_argument("expected queries and levels of the scanner's dimension");
    auto out = make_array<float>({nq, n});
    std::vector<std::int16_t> leads(nq * stride);
    std::vector<std::int8_t> row(stride);
    nb::gil_scoped_release unlocked;
    for (std::size_t q = 0; q < nq; ++q) std::copy_n(queries.data() + q * dim_, dim_, leads.data() + q * stride);
    for (std::size_t r = 0; r < n; ++r) {
      std::copy_n(levels.data() + r * dim_, dim_, row.data());
      for (std::size_t q = 0; q < nq; ++q)
        out.data()[q * n + r] = static_cast<float>(kernels_->dot_s8s16(row.data(), leads.data() + q * stride, stride));
    }
    return out;
  }

 private:
  void check_row(std::size_t row_bytes) const {
    if (row_bytes * 8 < (dim_ - 1) * step_ + window_)
      throw std::invalid_argument("expected rows that hold dim windows");
  }

  vqindex::Rows rows_of(nb::tuple block) const {
    const auto codes = nb::cast<Array<const std::uint8_t, nb::ndim<2>>>(block[1]);
    const auto factor = nb::cast<Array<const float, nb::ndim<1>>>(block[2]);
    const std::size_t n = codes.shape(0);
    vqindex::Rows rows{nullptr, codes.data(), codes.shape(1), factor.data(), nullptr, n};
    bool right = factor.shape(0) == n;
    check_row(codes.shape(1));
    if (tops_) {
      const auto signs = nb::cast<Array<const std::uint8_t, nb::ndim<3>>>(block[0]);
      right = right && signs.shape(0) * 64 >= n && signs.shape(1) == (dim_ + 7) / 8 && signs.shape(2) == 64;
      rows.signs = signs.data();
    }
    if (metric_ != "cosine") {
      const auto norm = nb::cast<Array<const float, nb::ndim<1>>>(block[3]);
      right = right && norm.shape(0) == n;
      rows.norm = norm.data();
    }
    if (!right) throw std::invalid_argument("expected blocks of (sign plane, codes, factor, norm) with as many rows");
    return rows;
  }

  vqindex::Task make_task(nb::sequence blocks, const Leads& lead, const Floats& scale, const Floats& norm,
                          nb::object coarse, nb::object allowed) const {
    const std::int16_t* wide = multiplier_ > 1 ? levels_.data() : nullptr;
    vqindex::Task task{{narrow_->fields(), index_->fields(), wide, multiplier_, metric_ == "l2"}, {}, {}, {}, 0};
    const std::size_t nq = lead.shape(0);
    if (lead.shape(1) != dim_ || scale.shape(0) != nq || norm.shape(0) != nq)
      throw std::invalid_argument("expected queries of the scanner's dimension with a scale and a norm each");
    task.queries = {nq, lead.data(), scale.data(), norm.data()};
    if (!coarse.is_none()) {
      const auto [sums, plane, rounding, quantile] = nb::cast<std::tuple<double, double, double, double>>(coarse);
      if (!tops_ || dim_ > vqindex::kSignDim)
        throw std::invalid_argument("expected a sign plane of at most 6144 coordinates");
      task.coarse = {true, sums, plane, rounding, quantile};
    }
    for (nb::handle block : blocks) task.rows.push_back(rows_of(nb::cast<nb::tuple>(block)));
    if (!allowed.is_none()) put_allowed(nb::cast<nb::sequence>(allowed), nq, task.rows);
    return task;
  }

  // Runs work(poll) without the lock; `poll` asks whether the user has pressed Ctrl-C.
  template <typename Work>
  static void interruptible(const Work& work) {
    auto asked = std::chrono::steady_clock::now();
    const std::function<bool()> poll = [&asked] {
      const auto now = std::chrono::steady_clock::now();
      if (now - asked < std::chrono::milliseconds(50)) return true;
      asked = now;
      nb::gil_scoped_acquire locked;
      return PyErr_CheckSignals() == 0;
    };
    bool finished;
    {
      nb::gil_scoped_release unlocked;
      finished = work(poll);
    }
    if (!finished) throw nb::python_error();
  }

  // Words of rows that may be found, a line for all queries or one for each; None for all rows of a block.
  static void put_allowed(nb::sequence allowed, std::size_t nq, std::vector<vqindex::Rows>& blocks) {
    if (nb::len(allowed) != blocks.size()) throw std::invalid_argument("expected an entry of allowed for each block");
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      nb::object entry = allowed[i];
      if (entry.is_none()) continue;
      // Not converted: the caller's words outlive the call, a copy of them would not.
      const auto words = nb::cast<nb::ndarray<const std::uint64_t, nb::ndim<2>, nb::device::cpu>>(entry, false);
      const std::size_t lines = words.shape(0), width = (blocks[i].count + 63) / 64;
      if ((lines != 1 && lines != nq) || words.shape(1) < width || (words.shape(1) > 1 && words.stride(1) != 1))
        throw std::invalid_argument("expected uint64 words (1 or nq, ceil(rows / 64)) of rows that may be found");
      if (lines == 0) continue;  // nobody asks: the words are not even there
      blocks[i].allowed = words.data();
      blocks[i].allowed_step = lines == 1 ? 0 : static_cast<std::size_t>(words.stride(0));
    }
  }

  std::size_t dim_;
  int step_, window_, tops_;
  std::string metric_, isa_;
  const vqindex::Kernels* kernels_;
  std::vector<std::int16_t> levels_;
  std::unique_ptr<vqindex::FieldTables> narrow_, index_;
  int multiplier_ = 1;
};

bool all_finite(Array<const float> values) {
  nb::gil_scoped_release unlocked;
  return vqindex::all_finite(values.data(), values.size());
}

// bitplanes.py: the highest bits of the fields into the sign plane, the others into rows of their own.
void split_rows(Array<const std::uint8_t, nb::ndim<2>> codes, std::size_t dim, std::size_t lead, int bits,
                std::size_t start, Array<std::uint8_t, nb::ndim<3>> signs, Array<std::uint8_t, nb::ndim<2>> rest) {
  const std::size_t n = codes.shape(0), fields = lead + dim;
  const vqindex::PlaneLayout layout{lead, (fields * bits + 7) / 8, (dim + 7) / 8, (fields * (bits - 1) + 7) / 8};
  if (bits < 1 || bits > (lead ? 4 : 8) || codes.shape(1) != layout.row_bytes || signs.shape(0) * 64 < start + n ||
      signs.shape(1) != layout.sign_bytes || signs.shape(2) != 64 || rest.shape(0) < start + n ||
      rest.shape(1) != layout.rest_bytes)
    throw std::invalid_argument("expected rows of lead + dim fields, and room for them in the sign plane and the rest");
  nb::gil_scoped_release unlocked;
  vqindex::split_rows(codes.data(), n, layout, bits, start, signs.data(), rest.data());
}

// The tables of one codec, copied once, and the views of them that kernels take.
class Tables {
 public:
  Tables(Array<const float, nb::ndim<2>> signs, Array<const std::uint32_t, nb::ndim<1>> source, int bits, bool cosine,
         bool renormalised, float cell_scale)
      : factors_(signs.size()), source_(source.data(), source.data() + source.size()) {
    const std::size_t dim = source.shape(0);
    if (dim < 1 || signs.shape(0) != vqindex::kRounds || signs.shape(1) != dim || bits < 1 || bits > 8 ||
        *std::max_element(source_.begin(), source_.end()) >= dim)
      throw std::invalid_argument("expected bits 1..8, signs (3, dim) and sources (dim,) below dim");
    vqindex::round_factors(dim, signs.data(), source_.data(), factors_.data());
    views_ = {
        {dim, factors_.data(), source_.data()}, bits, cosine, renormalised, cell_scale, nullptr, nullptr, nullptr};
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

  void set_codebook(Array<const float, nb::ndim<1>> thresholds, Array<const std::int16_t, nb::ndim<1>> levels) {
    const std::size_t cells = std::size_t{1} << views_.bits, half = cells / 2;
    if (thresholds.shape(0) != cells - 1 || levels.shape(0) != cells)
      throw std::invalid_argument("expected 2^bits - 1 thresholds and 2^bits levels");
    const float* t = thresholds.data();
    const std::int16_t* l = levels.data();
    bool symmetric = t[half - 1] == 0.0f && std::is_sorted(t, t + cells - 1);
    for (std::size_t i = 0; i < half; ++i) symmetric &= t[i] == -t[cells - 2 - i] && l[i] == -l[cells - 1 - i];
    if (!symmetric) throw std::invalid_argument("expected ascending thresholds and levels that are symmetric about 0");
    if (*std::min_element(l + half, l + cells) <= 0) throw std::invalid_argument("expected no level of 0");
    thresholds_.assign(t + half, t + cells - 1);
    levels_.assign(l + half, l + cells);
    views_.thresholds = thresholds_.data();
    views_.levels = levels_.data();
  }

  void set_trellis(Array<const std::int8_t, nb::ndim<1>> levels, int fraction, int window, int limit, int gain,
                   int start_mask, float grid) {
    if (views_.bits > 4 || window <= views_.bits || window > 12 || levels.shape(0) != std::size_t{1} << window)
      throw std::invalid_argument("expected bits 1..4, bits < window <= 12 and a table of 2^window levels");
    trellis_levels_.assign(levels.data(), levels.data() + levels.size());
    search_.clear();
    for (std::int8_t level : trellis_levels_) search_.push_back(static_cast<std::int16_t>(level * fraction));
    trellis_ = {{search_.data(), views_.bits, window, limit, gain, start_mask}, trellis_levels_.data(), grid};
    views_.trellis = &trellis_;
  }

  // The views, once a code is set.
  const vqindex::EncodeTables& complete() const {
    if (!views_.levels && !views_.trellis)
      throw std::invalid_argument("the tables have no codebook and no trellis yet");
    return views_;
  }

 private:
  std::vector<float> factors_, thresholds_;
  std::vector<std::uint32_t> source_;
  std::vector<std::int32_t> levels_;
  std::vector<std::int8_t> trellis_levels_;
  std::vector<std::int16_t> search_;
  vqindex::TrellisCode trellis_{};
  vqindex::EncodeTables views_{};
};

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{vqindex::kAlign}); }
};

// Scratch memory for every share of the rows, made before any thread starts.
class Scratch {
 public:
  Scratch(std::size_t bytes, std::size_t shares)
      : step_((bytes + vqindex::kAlign - 1) / vqindex::kAlign * vqindex::kAlign),
        memory_(::operator new(step_ * shares, std::align_val_t{vqindex::kAlign})) {}
  void* share(std::size_t number) const { return static_cast<char*>(memory_.get()) + number * step_; }

 private:
  std::size_t step_;
  std::unique_ptr<void, AlignedDelete> memory_;
};

// Rows a thread should get, with all that a call says checked.
std::size_t checked_share(const vqindex::EncodeTables& tables, std::size_t n, std::size_t d, int threads) {
  if (d != tables.rotation.dim) throw std::invalid_argument("expected rows of the tables' dimension");
  if (threads < 1) throw std::invalid_argument("expected threads >= 1");
  return vqindex::share_rows(n, static_cast<std::size_t>(threads), vqindex::kEncodeRows);
}

nb::tuple encode(const Tables& tables, Array<const float, nb::ndim<2>> rows, int threads, const std::string& isa) {
  const vqindex::EncodeTables& views = tables.complete();
  const std::size_t n = rows.shape(0), d = rows.shape(1), share = checked_share(views, n, d, threads);
  const std::size_t bytes = vqindex::code_bytes(views);
  const std::string path = vqindex::checked_isa(isa);
  auto codes = make_array<std::uint8_t>({n, bytes});
  auto factor = make_array<float>({n});
  std::optional<Array<float>> norm;
  if (!views.cosine) norm = make_array<float>({n});
  {
    nb::gil_scoped_release unlocked;
    const Scratch scratch(vqindex::encode_scratch(views), n / share + 1);
    const float* x = rows.data();
    std::uint8_t* code = codes.data();
    float *factors = factor.data(), *norms = norm ? norm->data() : nullptr;
    vqindex::for_shares(n, share, [&](std::size_t number, std::size_t begin, std::size_t end) {
      vqindex::encode_rows(views, x + begin * d, end - begin, scratch.share(number), code + begin * bytes,
                           factors + begin, norms ? norms + begin : nullptr, path);
    });
  }
  return nb::make_tuple(codes, factor, norm);
}

nb::tuple prepare(const Tables& tables, Array<const float, nb::ndim<2>> queries, int threads, const std::string& isa) {
  const vqindex::EncodeTables& views = tables.complete();
  const std::size_t n = queries.shape(0), d = queries.shape(1), share = checked_share(views, n, d, threads);
  const std::string path = vqindex::checked_isa(isa);
  auto lead = make_array<std::int16_t>({n, d});
  auto scale = make_array<float>({n}), norm = make_array<float>({n});
  {
    nb::gil_scoped_release unlocked;
    const Scratch scratch(vqindex::prepare_scratch(views), n / share + 1);
    const float* x = queries.data();
    std::int16_t* whole = lead.data();
    float *scales = scale.data(), *norms = norm.data();
    vqindex::for_shares(n, share, [&](std::size_t number, std::size_t begin, std::size_t end) {
      vqindex::prepare_queries(views, x + begin * d, end - begin, scratch.share(number), whole + begin * d,
                               scales + begin, norms + begin, path);
    });
  }
  return nb::make_tuple(lead, scale, norm);
}

using Ids = Array<const std::int64_t, nb::ndim<1>>;
using Words = Array<const std::uint64_t, nb::ndim<1>>;

// Calls take(i, row) with the row of each wanted id, -1 if there is none or its bit is not set. `ids` are those of the
// rows in order, or none if row i has id i.
template <typename Take>
void each_row(vqindex::IdTable& table, const std::optional<Ids>& ids, std::size_t count, const Ids& wanted,
              const std::optional<Words>& live, Take take) {
  if ((ids && ids->size() < count) || (live && live->size() * 64 < count))
    throw std::invalid_argument("expected an id and a bit for each of `count` rows");
  const vqindex::LiveIds rows{ids ? ids->data() : nullptr, count, live ? live->data() : nullptr};
  vqindex::find_rows(table, rows, wanted.data(), wanted.size(), take);
}

Array<std::int64_t> find_rows(vqindex::IdTable& table, std::optional<Ids> ids, std::size_t count, Ids wanted,
                              std::optional<Words> live) {
  auto found = make_array<std::int64_t>({wanted.size()});
  std::int64_t* out = found.data();
  each_row(table, ids, count, wanted, live, [out](std::size_t i, std::int64_t row) { out[i] = row; });
  return found;
}

Array<std::uint64_t> mark_rows(vqindex::IdTable& table, std::optional<Ids> ids, std::size_t count, Ids wanted,
                               std::optional<Words> live) {
  auto words = make_array<std::uint64_t>({(count + 63) / 64});
  std::uint64_t* out = words.data();
  std::fill_n(out, words.size(), 0);
  each_row(table, ids, count, wanted, live, [out](std::size_t, std::int64_t row) {
    if (row >= 0) out[row / 64] |= std::uint64_t{1} << (row % 64);
  });
  return words;
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
  nb::set_leak_warnings(false);  // an index alive at exit is no leak
  m.def("supported_isas", &vqindex::supported_isas,
        "Return the names of the instruction sets that kernels could use on this machine, the plainest first.");
  m.def("trellis_encode", &encode_trellis, nb::arg("values"), nb::arg("table"), nb::arg("bits"), nb::arg("window"),
        nb::arg("limit"), nb::arg("gain"), nb::arg("start_mask") = 0, nb::arg("isa") = "",
        "Viterbi search for int16 values (n, d); returns fields (n, d) uint8 and each first window's older bits (n,).");
  nb::class_<Scanner>(m, "Scanner", "Decodes and searches stored rows of one code.")
      .def(nb::init<std::size_t, int, int, int, Array<const std::int16_t, nb::ndim<1>>, std::string, std::string>(),
           nb::arg("dim"), nb::arg("step"), nb::arg("window"), nb::arg("tops"), nb::arg("levels"), nb::arg("metric"),
           nb::arg("isa") = "")
      .def_prop_ro("isa", &Scanner::isa, "Name of the instruction set in use.")
      .def("search", &Scanner::search, nb::arg("blocks"), nb::arg("lead"), nb::arg("scale"), nb::arg("norm"),
           nb::arg("k"), nb::arg("coarse").none(), nb::arg("threads"), nb::arg("allowed").none() = nb::none(),
           "Return the k best scores and rows, (nq, k), of blocks (sign plane or None, codes, factor, norm or None); "
           "their rank scores (nq, k), larger is better; and how many rows the sign bound dropped (nq,).")
      .def("range_search", &Scanner::range_search, nb::arg("blocks"), nb::arg("lead"), nb::arg("scale"),
           nb::arg("norm"), nb::arg("thresholds"), nb::arg("coarse").none(), nb::arg("threads"),
           nb::arg("allowed").none() = nb::none(),
           "Return counts (nq,), and scores and rows of all queries' rows whose keys are above the thresholds (nq,).")
      .def("decode", &Scanner::decode, nb::arg("codes"), nb::arg("sign_rows").none(),
           "Decode rows (n, bytes) and their sign bits (n, ceil(dim / 8)) to int8 levels (n, padded dim).")
      .def("sums", &Scanner::sums, nb::arg("queries"), nb::arg("levels"),
           "Return the exact sums of int16 queries (nq, dim) with int8 levels (n, >= dim) as float32 (nq, n).");
  nb::class_<vqindex::IdTable>(m, "IdTable", "Rows by id; the ids, in row order, come with every call.")
      .def(nb::init<>())
      .def("find", &find_rows, nb::arg("ids").none(), nb::arg("count"), nb::arg("wanted"), nb::arg("live").none(),
           "Return the row of each wanted id among the first `count` rows, -1 for none, or if its bit in `live` is not "
           "set. Takes new rows in; a row replaces an earlier one of the same id. Without ids, row i has id i.")
      .def("mark", &mark_rows, nb::arg("ids").none(), nb::arg("count"), nb::arg("wanted"), nb::arg("live").none(),
           "Return the same rows as set bits of words (ceil(count / 64),).")
      .def_prop_ro("rows", &vqindex::IdTable::rows, "Rows taken in.")
      .def_prop_ro("distinct", &vqindex::IdTable::distinct, "Distinct ids of these rows.")
      .def_prop_ro("nbytes", &vqindex::IdTable::bytes, "Bytes of the table.");
  m.def("clear_rows", &clear_rows, nb::arg("live").noconvert(), nb::arg("rows"),
        "Clear the bits of rows, of which negative ones are none, and return how many were set.");
  m.def("all_finite", &all_finite, nb::arg("values").noconvert(), "Whether no float32 value is infinite or a NaN.");
  m.def("split_rows", &split_rows, nb::arg("codes"), nb::arg("dim"), nb::arg("lead"), nb::arg("bits"), nb::arg("start"),
        nb::arg("signs"), nb::arg("rest"), "Put code rows (n, bytes) into a sign plane and rest, from row `start` on.");
  nb::class_<Tables>(m, "Tables", "The tables of one codec without a second projection, for encode and prepare.")
      .def(nb::init<Array<const float, nb::ndim<2>>, Array<const std::uint32_t, nb::ndim<1>>, int, bool, bool, float>(),
           nb::arg("signs"), nb::arg("source"), nb::arg("bits"), nb::arg("cosine"), nb::arg("renormalised"),
           nb::arg("cell_scale"))
      .def("set_codebook", &Tables::set_codebook, nb::arg("thresholds"), nb::arg("levels"),
           "Make it a scalar code of 2^bits cells, symmetric about 0.")
      .def("set_trellis", &Tables::set_trellis, nb::arg("levels"), nb::arg("fraction"), nb::arg("window"),
           nb::arg("limit"), nb::arg("gain"), nb::arg("start_mask"), nb::arg("grid"),
           "Make it a trellis code of 2^window levels.");
  m.def("encode", &encode, nb::arg("tables"), nb::arg("rows"), nb::arg("threads") = 1, nb::arg("isa") = "",
        "Encode finite float32 rows (n, dim); returns codes (n, bytes), factors (n,) and norms (n,), None for cosine.");
  m.def("prepare", &prepare, nb::arg("tables"), nb::arg("queries"), nb::arg("threads") = 1, nb::arg("isa") = "",
        "Prepare finite float32 queries (n, dim); returns int16 lead (n, dim), its scales (n,) and norms (n,).");
}
