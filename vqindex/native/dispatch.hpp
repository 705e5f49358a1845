// Which instruction sets this processor and operating system can run.
#pragma once

#include <string>
#include <vector>

namespace vqindex {

// Names of the kernel sets that could run here, the plainest first: "scalar", then of "avx2", "avx512", "avx512vnni",
// "avx512vbmi", "neon", "neondot" what the processor has and the operating system saves.
std::vector<std::string> supported_isas();

}  // namespace vqindex
