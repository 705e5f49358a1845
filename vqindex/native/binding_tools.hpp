// What the bindings share: arrays of Python, and work without the interpreter lock.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "poll.hpp"

namespace vqindex::python {

namespace nb = nanobind;

template <typename T, typename... Shape>
using Array = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu, Shape...>;
using Floats = Array<const float, nb::ndim<1>>;
using FloatRows = Array<const float, nb::ndim<2>>;
using ByteRows = Array<const std::uint8_t, nb::ndim<2>>;
using CodeQueries = Array<const std::int16_t, nb::ndim<2>>;

template <typename T>
Array<T> make_array(std::vector<std::size_t> shape) {
  std::size_t size = 1;
  for (std::size_t extent : shape) size *= extent;
  T* data = new T[size];
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Array<T>(data, shape.size(), shape.data(), owner);
}

template <typename T>
std::vector<T> copied(const Array<const T, nb::ndim<1>>& values) {
  return {values.data(), values.data() + values.size()};
}

// Calls work(poll) without the interpreter lock. `poll` returns false once the user has pressed Ctrl-C; it looks every
// 50 ms at most.
template <typename Work>
void interruptible(const Work& work) {
  auto last = std::chrono::steady_clock::now();
  const vqindex::Poll poll = [&last] {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(50)) return true;
    last = now;
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

}  // namespace vqindex::python
