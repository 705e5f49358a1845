// Checks what on_threads promises (vqindex/native/pool.hpp), and prints what fails. tests/test_pool.py compiles and
// runs it.
#include "pool.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using vqindex::on_threads;

namespace {

void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "false: %s\n", what);
  std::_Exit(1);
}

// Waits for done(), 30 seconds at most.
template <typename Done>
void wait_until(const Done& done, const char* what) {
  const auto stop = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!done()) {
    check(std::chrono::steady_clock::now() < stop, what);
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void each_item_once(std::size_t count) {
  std::vector<std::atomic<int>> calls(count);
  const auto here = std::this_thread::get_id();
  on_threads(count, [&](std::size_t item) {
    ++calls[item];
    if (item == 0) check(std::this_thread::get_id() == here, "item 0 is the caller's");
  });
  for (const auto& n : calls) check(n == 1, "each item is called once");
}

// Calls work() on workers: all items wait for each other, so no thread takes two.
template <typename Work>
void on_each_of(std::size_t count, const Work& work) {
  std::atomic<std::size_t> here{0};
  on_threads(count, [&](std::size_t item) {
    ++here;
    wait_until([&] { return here == count; }, "a worker comes");
    if (item) work(item);
  });
}

void parts() {
  for (int repeat = 0; repeat < 200; ++repeat)
    for (const std::size_t count : {1, 2, 3, 5, 17}) each_item_once(count);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // they sleep, and are woken
  each_item_once(4);
  std::atomic<int> others{0};
  on_each_of(4, [&](std::size_t) { ++others; });
  check(others == 3, "workers come");
}

void errors() {
  for (std::size_t bad = 0; bad < 3; ++bad) {
    std::string caught;
    std::atomic<std::size_t> here{0};
    std::atomic<int> ended{0};
    try {
      on_threads(3, [&](std::size_t item) {
        ++here;
        wait_until([&] { return here == 3; }, "a worker comes");
        if (item == bad) throw std::runtime_error("item " + std::to_string(item));
        ++ended;
      });
    } catch (const std::runtime_error& error) {
      caught = error.what();
    }
    check(caught == "item " + std::to_string(bad), "an exception reaches the caller");
    check(ended == 2, "the caller waits for the other items");
  }
  each_item_once(3);
}

void callers() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([] {
      for (int repeat = 0; repeat < 300; ++repeat) each_item_once(3);
    });
  for (auto& thread : threads) thread.join();
}

// A caller whose workers are all at another's job does the work itself.
void alone() {
  std::atomic<bool> go{false}, there{false};
  std::thread other([&] {
    on_each_of(2, [&](std::size_t) {
      there = true;
      wait_until([&] { return go.load(); }, "the second caller is done while the first is not");
    });
  });
  wait_until([&] { return there.load(); }, "a worker comes");
  for (int repeat = 0; repeat < 10; ++repeat) each_item_once(2);
  go = true;
  other.join();
}

void waiting() {
  std::atomic<int> asked{0};
  std::atomic<bool> begun{false};
  const auto here = std::this_thread::get_id();
  on_threads(
      2,
      [&](std::size_t item) {
        if (item == 0) return wait_until([&] { return begun.load(); }, "a worker comes");
        begun = true;
        wait_until([&] { return asked > 2; }, "the caller looks around while it waits");
      },
      [&] {
        check(std::this_thread::get_id() == here, "the caller itself looks around");
        ++asked;
      });
}

void signals() {
  on_each_of(2, [](std::size_t) {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    check(sigismember(&blocked, SIGINT) && sigismember(&blocked, SIGTERM), "workers leave signals to others");
    check(!sigismember(&blocked, SIGSEGV) && !sigismember(&blocked, SIGBUS), "but not their own");
  });
  sigset_t blocked;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
  check(!sigismember(&blocked, SIGINT), "the caller's mask is as it was");
}

template <typename Work>
void in_child(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    work();
    std::_Exit(0);
  }
  int status = 0;
  pid_t done = 0;
  wait_until([&] { return (done = waitpid(child, &status, WNOHANG)) != 0; }, "the child ends");
  check(done == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child is well");
}

void forks() {
  const auto use = [] { on_each_of(3, [](std::size_t) {}); };
  use();
  in_child([&] {
    use();
    in_child(use);
    use();
  });
  use();
  // At any moment of another thread's calls.
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) each_item_once(2);
  });
  for (int repeat = 0; repeat < 100; ++repeat) in_child(use);
  done = true;
  other.join();
}

// A child made in the middle of a call knows that its workers are not there.
void fork_within() {
  std::atomic<bool> begun{false}, go{false};
  const pid_t parent = getpid();
  try {
    on_threads(2, [&](std::size_t item) {
      if (item) {
        begun = true;
        return wait_until([&] { return go.load(); }, "the parent goes on");
      }
      wait_until([&] { return begun.load(); }, "a worker comes");
      const pid_t child = fork();
      if (child == 0) return;
      int status = 0;
      check(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 7, "the child knows");
      go = true;
    });
  } catch (const std::runtime_error&) {
    check(getpid() != parent, "only the child can't go on");
    each_item_once(2);
    std::_Exit(7);
  }
  check(getpid() == parent, "the child can't go on");
}

void no_threads() {
  const rlimit none{1, 1};
  check(setrlimit(RLIMIT_AS, &none) == 0, "the system gives no memory any more");
  for (int repeat = 0; repeat < 3; ++repeat) {
    int calls = 0;
    on_threads(4, [&](std::size_t) { ++calls; });
    check(calls == 4, "without threads the caller does it all");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, void (*)()> tests = {
      {"parts", parts}, {"errors", errors},           {"callers", callers},
      {"alone", alone}, {"waiting", waiting},         {"signals", signals},
      {"forks", forks}, {"fork_within", fork_within}, {"no_threads", no_threads}};
  const auto test = argc == 2 ? tests.find(argv[1]) : tests.end();
  check(test != tests.end(), "the name of a test is given");
  test->second();
}
