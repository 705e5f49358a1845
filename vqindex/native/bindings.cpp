// The only file that knows Python: names and types in, plain C++ below.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dispatch.hpp"

NB_MODULE(_native, m) {
  m.doc() = "Compiled part of vqindex.";
  m.def("supported_isas", &vqindex::supported_isas,
        "Return the names of the instruction sets that kernels could use on this machine, the plainest first.");
}
