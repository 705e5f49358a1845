// Searches for few queries in the extension module.
#pragma once

#include "binding_tools.hpp"

namespace vqindex::python {

void bind_finders(nb::module_& m);

}  // namespace vqindex::python
