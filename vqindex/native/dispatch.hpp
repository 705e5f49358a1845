// Which instruction sets this processor and operating system can run, and the kernels of each.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace vqindex {

// Names of the instruction sets that can run here, the slowest first. "tiles-emulated" and "scalar" always can.
std::vector<std::string> supported_isas();

// For which of these the loops are compiled that the compiler vectorizes (encode.cpp and others).
enum class Width { scalar, avx2, avx512 };
Width width_of(const std::string& isa);

// The widest supported instruction set if `isa` is empty, else `isa` itself. Throws std::invalid_argument if this
// machine does not support it.
std::string checked_isa(const std::string& isa);

// The kernels of an instruction set. `isa` is one of supported_isas().
const Kernels& kernels_for(const std::string& isa);

}  // namespace vqindex
