// The only file that knows Python: names and types in, plain C++ below.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

#include "dispatch.hpp"
#include "scan.hpp"
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

std::string checked_isa(const std::string& isa) {
  const auto names = vqindex::supported_isas();
  if (isa.empty()) return names.back();
  if (std::find(names.begin(), names.end(), isa) != names.end()) return isa;
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : ", ") + name;
  throw std::invalid_argument("isa is '" + isa + "'; this machine has: " + all);
}

nb::tuple encode_trellis(Array<const std::int16_t, nb::ndim<2>> values, Array<const std::int16_t, nb::ndim<1>> table,
                         int bits, int window, int limit, int gain, const std::string& isa) {
  if (bits < 1 || bits > 4 || window <= bits || window > 12 || table.shape(0) != std::size_t{1} << window)
    throw std::invalid_argument("expected bits 1..4, bits < window <= 12 and a table of 2^window levels");
  const vqindex::TrellisSpec spec{table.data(), bits, window, limit, gain};
  const std::size_t n = values.shape(0), d = values.shape(1);
  const std::string path = checked_isa(isa);
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
  Scanner(std::size_t dim, int step, int window, bool signs, Array<const std::int16_t, nb::ndim<1>> levels,
          std::string metric, const std::string& isa)
      : dim_(dim), step_(step), window_(window), signs_(signs), metric_(std::move(metric)), isa_(checked_isa(isa)),
        kernels_(&vqindex::kernels_for(isa_)), levels_(levels.data(), levels.data() + levels.size()) {
    if (dim < 1 || dim > 16384 || step < 0 || step > 8 || window < step || window > 9 ||
        levels_.size() != std::size_t{1} << (window + signs) || (metric_ != "ip" && metric_ != "cosine" && metric_ != "l2"))
      throw std::invalid_argument("expected 1..16384 dim, step <= 8, step <= window <= 9, 2^(window + signs) levels");
    const auto [least, most] = std::minmax_element(levels_.begin(), levels_.end());
    if (*least < -127 || *most > 127) multiplier_ = 256;
    if (multiplier_ > 1 && levels_.size() > 256) throw std::invalid_argument("expected at most 256 levels of 16 bits");
    std::vector<std::int8_t> narrow, index;
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      const int level = levels_[i];
      narrow.push_back(static_cast<std::int8_t>(multiplier_ == 1 ? level : std::clamp((level + 128) >> 8, -127, 127)));
      index.push_back(static_cast<std::int8_t>(i));
    }
    narrow_ = std::make_unique<vqindex::FieldTables>(dim, step, window, signs, std::move(narrow));
    index_ = std::make_unique<vqindex::FieldTables>(dim, step, window, signs, std::move(index));
  }

  const std::string& isa() const { return isa_; }

  nb::tuple search(nb::sequence blocks, Array<const std::int16_t, nb::ndim<2>> lead,
                   Array<const float, nb::ndim<1>> scale, Array<const float, nb::ndim<1>> norm, std::size_t k,
                   nb::object coarse, std::size_t threads) const {
    const std::int16_t* wide = multiplier_ > 1 ? levels_.data() : nullptr;
    vqindex::Task task{{narrow_->fields(), index_->fields(), wide, multiplier_, metric_ == "l2"}, {}, {}, {}, k};
    const std::size_t nq = lead.shape(0);
    if (lead.shape(1) != dim_ || scale.shape(0) != nq || norm.shape(0) != nq || k < 1)
      throw std::invalid_argument("expected queries of the scanner's dimension with a scale and a norm each, and k > 0");
    task.queries = {nq, lead.data(), scale.data(), norm.data()};
    if (!coarse.is_none()) {
      const auto [sums, plane, rounding, quantile] = nb::cast<std::tuple<double, double, double, double>>(coarse);
      if (!signs_ || dim_ > 6144) throw std::invalid_argument("expected a sign plane of at most 6144 coordinates");
      task.coarse = {true, sums, plane, rounding, quantile};
    }
    for (nb::handle block : blocks) task.rows.push_back(rows_of(nb::cast<nb::tuple>(block)));
    auto scores = make_array<float>({nq, k});
    auto rows = make_array<std::int64_t>({nq, k});
    auto asked = std::chrono::steady_clock::now();
    const auto poll = [&asked] {  // has the user pressed Ctrl-C?
      const auto now = std::chrono::steady_clock::now();
      if (now - asked < std::chrono::milliseconds(50)) return true;
      asked = now;
      nb::gil_scoped_acquire locked;
      return PyErr_CheckSignals() == 0;
    };
    bool finished;
    {
      nb::gil_scoped_release unlocked;
      finished = vqindex::search(task, *kernels_, threads, poll, scores.data(), rows.data());
    }
    if (!finished) throw nb::python_error();
    return nb::make_tuple(scores, rows);
  }

  Array<std::int8_t> decode(Array<const std::uint8_t, nb::ndim<2>> codes, nb::object sign_rows) const {
    const std::size_t n = codes.shape(0), row_bytes = codes.shape(1), stride = vqindex::padded(dim_, 64);
    const std::uint8_t* signs = nullptr;
    Array<const std::uint8_t, nb::ndim<2>> plane;
    if (signs_) {
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
        out.data()[q * n + r] = static_cast<float>(kernels_->dot(row.data(), leads.data() + q * stride, stride));
    }
    return out;
  }

 private:
  void check_row(std::size_t row_bytes) const {
    if (row_bytes * 8 < (dim_ - 1) * step_ + window_) throw std::invalid_argument("expected rows that hold dim windows");
  }

  vqindex::Rows rows_of(nb::tuple block) const {
    const auto codes = nb::cast<Array<const std::uint8_t, nb::ndim<2>>>(block[1]);
    const auto factor = nb::cast<Array<const float, nb::ndim<1>>>(block[2]);
    const std::size_t n = codes.shape(0);
    vqindex::Rows rows{nullptr, codes.data(), codes.shape(1), factor.data(), nullptr, n};
    bool right = factor.shape(0) == n;
    check_row(codes.shape(1));
    if (signs_) {
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

  std::size_t dim_;
  int step_, window_;
  bool signs_;
  std::string metric_, isa_;
  const vqindex::Kernels* kernels_;
  std::vector<std::int16_t> levels_;
  std::unique_ptr<vqindex::FieldTables> narrow_, index_;
  int multiplier_ = 1;
};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Compiled part of vqindex.";
  m.def("supported_isas", &vqindex::supported_isas,
        "Return the names of the instruction sets that kernels could use on this machine, the plainest first.");
  m.def("trellis_encode", &encode_trellis, nb::arg("values"), nb::arg("table"), nb::arg("bits"), nb::arg("window"),
        nb::arg("limit"), nb::arg("gain"), nb::arg("isa") = "",
        "Viterbi search for int16 values (n, d); returns fields (n, d) uint8 and each first window's older bits (n,).");
  nb::class_<Scanner>(m, "Scanner", "Decodes and searches stored rows of one code.")
      .def(nb::init<std::size_t, int, int, bool, Array<const std::int16_t, nb::ndim<1>>, std::string, std::string>(),
           nb::arg("dim"), nb::arg("step"), nb::arg("window"), nb::arg("signs"), nb::arg("levels"), nb::arg("metric"),
           nb::arg("isa") = "")
      .def_prop_ro("isa", &Scanner::isa, "Name of the instruction set in use.")
      .def("search", &Scanner::search, nb::arg("blocks"), nb::arg("lead"), nb::arg("scale"), nb::arg("norm"),
           nb::arg("k"), nb::arg("coarse").none(), nb::arg("threads"),
           "Return the k best scores and rows, (nq, k), of blocks (sign plane or None, codes, factor, norm or None).")
      .def("decode", &Scanner::decode, nb::arg("codes"), nb::arg("sign_rows").none(),
           "Decode rows (n, bytes) and their sign bits (n, ceil(dim / 8)) to int8 levels (n, padded dim).")
      .def("sums", &Scanner::sums, nb::arg("queries"), nb::arg("levels"),
           "Return the exact sums of int16 queries (nq, dim) with int8 levels (n, >= dim) as float32 (nq, n).");
}
