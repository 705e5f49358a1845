// The methods of a Scanner that walk a graph and make its links.
#pragma once

#include "binding_tools.hpp"
#include "scanner.hpp"

namespace vqindex::python {

void bind_graph(nb::class_<Scanner>& scanner);

}  // namespace vqindex::python
