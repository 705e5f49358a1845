// Whether long work is to go on.
#pragma once

#include <functional>

namespace vqindex {

// Says whether to go on. The calling thread calls it now and then; the other threads stop soon after it returns false.
using Poll = std::function<bool()>;

}  // namespace vqindex
