// Walks of one thread that alternate. A walk alone waits for memory most of the time: while it waits, others go on.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace vqindex {

// Two hide most of what there is to hide. Four and eight were no faster, measured at 1,000 to 3,000 rows a walk.
constexpr std::size_t kWalkLanes = 2;

// How many lanes each of some threads has for so many walks.
inline std::size_t lanes_for(std::size_t walks, std::size_t threads) {
  const std::size_t even = (walks + threads - 1) / threads;
  return even < kWalkLanes ? even : kWalkLanes;
}

// Claims numbers below `count` from `next`. For each, a lane does start(number) and then step() until it returns false;
// then finish(lane) follows. Ends early when keep_going(), called before each step, returns false.
template <typename Lane, typename Finish, typename KeepGoing>
void run_lanes(const std::vector<std::unique_ptr<Lane>>& lanes, std::atomic<std::size_t>& next, std::size_t count,
               const Finish& finish, const KeepGoing& keep_going) {
  std::vector<Lane*> busy;
  const auto begin = [&](Lane& lane) {
    const std::size_t number = next++;
    if (number < count) lane.start(number);
    return number < count;
  };
  for (const auto& lane : lanes) {
    if (!begin(*lane)) break;
    busy.push_back(lane.get());
  }
  for (std::size_t i = 0; !busy.empty() && keep_going();) {
    if (busy[i]->step()) {
      ++i;
    } else {
      finish(*busy[i]);
      if (!begin(*busy[i])) busy.erase(busy.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (i >= busy.size()) i = 0;
  }
}

// Whether a thread goes on: false once any thread has stopped. The calling thread polls now and then.
class KeepGoing {
 public:
  template <typename Watch>
  bool operator()(bool polls, const std::atomic<bool>& stop, const Watch& watch) {
    if (polls && ++steps_ % kPollSteps == 0) watch();
    return !stop.load(std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kPollSteps = 256;  // some hundred microseconds
  std::size_t steps_ = 0;
};

}  // namespace vqindex
