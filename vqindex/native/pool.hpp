// Threads that persist from call to call, because starting and joining a thread takes as long as a short search.
#pragma once

#include <cstddef>
#include <functional>

namespace vqindex {

// Calls work(0) to work(count - 1), each once, on this and other threads. The calling thread runs work(0), then takes
// any item that no worker has claimed. So no item may wait for another. While workers still run, the calling thread
// calls `waiting` now and then. If items throw, the first exception is rethrown here once all have ended. Any number of
// threads may call this at the same time, and none waits for the items of another call. A child process after fork
// starts threads of its own.
void on_threads(std::size_t count, const std::function<void(std::size_t)>& work,
                const std::function<void()>& waiting = {});

// How many processors this process may use, at least 1.
std::size_t processors();

}  // namespace vqindex
