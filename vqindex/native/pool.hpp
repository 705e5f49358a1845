// Threads that stay from call to call: to start one and join it takes as long as many a search.
#pragma once

#include <cstddef>
#include <functional>

namespace vqindex {

// Calls work(0) to work(count - 1), each once and all but work(0) anywhere: here begins with work(0) and then does what
// no thread has come for yet, so no part may wait for another. `waiting` is called now and then while others still
// work. Afterwards an exception that any of them threw is thrown here. Any number of threads may call this at a time;
// none waits for what is not its own. A child after fork has threads of its own.
void on_threads(std::size_t count, const std::function<void(std::size_t)>& work,
                const std::function<void()>& waiting = {});

}  // namespace vqindex
