// The only file that knows Python: names and types in, plain C++ below.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
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

Array<std::int8_t> decode(Array<const std::uint8_t, nb::ndim<2>> codes, std::size_t dim, int bits, int window,
                          Array<const std::int8_t, nb::ndim<1>> table) {
  const std::size_t n = codes.shape(0), row_bytes = codes.shape(1);
  if (bits < 1 || bits > 8 || window < bits || window > 12 || 7 * bits + window > 64 ||
      table.shape(0) != std::size_t{1} << window || row_bytes * 8 < (dim - 1) * bits + window || dim < 1)
    throw std::invalid_argument("expected rows that hold dim windows and a table of 2^window levels");
  auto levels = make_array<std::int8_t>({n, dim});
  nb::gil_scoped_release unlocked;
  vqindex::decode_levels(codes.data(), n, row_bytes, dim, bits, window, table.data(), levels.data());
  return levels;
}

Array<float> sums(Array<const std::int16_t, nb::ndim<2>> queries, Array<const std::int8_t, nb::ndim<2>> levels,
                  const std::string& isa) {
  const std::size_t nq = queries.shape(0), n = levels.shape(0), d = queries.shape(1);
  if (levels.shape(1) != d) throw std::invalid_argument("expected queries and levels of the same dimension");
  const std::string path = checked_isa(isa);
  auto out = make_array<float>({nq, n});
  std::vector<std::int16_t> scratch(vqindex::sums_scratch(d));
  nb::gil_scoped_release unlocked;
  vqindex::integer_sums(queries.data(), nq, levels.data(), n, d, scratch.data(), out.data(), path);
  return out;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Compiled part of vqindex.";
  m.def("supported_isas", &vqindex::supported_isas,
        "Return the names of the instruction sets that kernels could use on this machine, the plainest first.");
  m.def("trellis_encode", &encode_trellis, nb::arg("values"), nb::arg("table"), nb::arg("bits"), nb::arg("window"),
        nb::arg("limit"), nb::arg("gain"), nb::arg("isa") = "",
        "Viterbi search for int16 values (n, d); returns fields (n, d) uint8 and each first window's older bits (n,).");
  m.def("decode_levels", &decode, nb::arg("codes"), nb::arg("dim"), nb::arg("bits"), nb::arg("window"),
        nb::arg("table"),
        "Decode packed rows (n, bytes) to int8 levels (n, dim) by the window of bits that each coordinate has.");
  m.def("integer_sums", &sums, nb::arg("queries"), nb::arg("levels"), nb::arg("isa") = "",
        "Return the exact sums of int16 queries (nq, d) with int8 levels (n, d) as float32 (nq, n).");
}
