#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#define VQ_POSIX 1
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace vqindex {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::microseconds kSpin{40};  // about what it takes to fall asleep and be woken
constexpr std::chrono::milliseconds kLook{50};  // between two calls of `waiting`
constexpr std::chrono::seconds kIdle{10};       // after which a thread ends

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(_MSC_VER) && defined(_M_X64)
  _mm_pause();
#elif defined(_MSC_VER) && defined(_M_ARM64)
  __yield();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Looks for a short time whether `done`; who waits for this processor, perhaps to be done, has it meanwhile.
template <typename Done>
void spin(const Done& done) {
  const auto stop = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return;
      relax();
    }
    std::this_thread::yield();
  } while (Clock::now() < stop);
}

// How many processors there are for this process.
std::size_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::size_t>(CPU_COUNT(&set));
#endif
  return std::thread::hardware_concurrency();  // 0 if that is not known
}

// Threads started while this stands leave signals to the others, which Python knows; all but those that they raise.
class NoSignals {
 public:
  NoSignals() {
#ifdef VQ_POSIX
    sigset_t most;
    sigfillset(&most);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&most, own);
    pthread_sigmask(SIG_SETMASK, &most, &before_);
#endif
  }
  ~NoSignals() {
#ifdef VQ_POSIX
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
#endif
  }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

#ifdef VQ_POSIX
 private:
  sigset_t before_;
#endif
};

// One call: parts that are taken in turn, by its caller and by workers.
struct Job {
  Job(std::size_t count, const std::function<void(std::size_t)>& work) : work(work), count(count), seats(count - 1) {}

  template <typename Call>
  void guarded(const Call& call) {
    try {
      call();
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  }

  void take_parts() {
    for (std::size_t part; (part = next++) < count;) guarded([&] { work(part); });
  }

  const std::function<void(std::size_t)>& work;
  const std::size_t count;
  std::atomic<std::size_t> next{1};  // part
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first
  // The pool's lock is held to change these.
  std::size_t seats;                 // workers that may still come
  std::atomic<std::size_t> busy{0};  // workers that are here
  std::condition_variable left;      // the last of them is gone
};

// Workers and the jobs they may join. It is never destroyed: they may outlive all else at the end of the process.
class Pool {
 public:
  explicit Pool(Pool* before) : before(before), processors_(processors()) {}

  void run(Job& job, const std::function<void()>& waiting) {
    call_workers(job);
    job.guarded([&] { job.work(0); });
    job.take_parts();
    wait_for_workers(job, waiting);
  }

  Pool* const before;             // the parent's, kept reachable for those who look for leaks
  std::atomic<bool> lost{false};  // in the parent, its workers with it; who held its lock did not come along

 private:
  void call_workers(Job& job) {
    const std::size_t wanted = job.seats;
    std::size_t missing = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      open_.push_back(&job);
      seats_ += wanted;
      if (seats_ > idle_) missing = std::min(wanted, seats_ - idle_);
      idle_ += missing;
      workers_ += missing;
    }
    for (std::size_t i = missing; i < wanted; ++i) call_.notify_one();
    if (missing) start(missing);
  }

  void start(std::size_t missing) {
    const NoSignals none;
    try {
      for (; missing; --missing) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // the system has no thread to give: the caller does it all
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_ -= missing;
      workers_ -= missing;
    }
  }

  // A worker's life.
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (Job* job = join(lock)) {
      lock.unlock();
      job->take_parts();
      lock.lock();
      ++idle_;
      if (--job->busy == 0) job->left.notify_one();  // with the lock: afterwards the job may be gone
    }
  }

  // A job that had a seat; null, and no worker any more, if there was none for long.
  Job* join(std::unique_lock<std::mutex>& lock) {
    const auto called = [this] { return seats_ > 0; };
    const auto stop = Clock::now() + kIdle;
    for (bool idle = false; !called();) {
      if (idle) {
        --idle_;
        --workers_;
        return nullptr;
      }
      if (workers_ < processors_) {  // also if woken too late: the next call may come soon
        lock.unlock();
        spin(called);
        lock.lock();
      }
      if (!called()) idle = call_.wait_until(lock, stop) == std::cv_status::timeout;
    }
    --idle_;
    Job* job = open_.front();
    ++job->busy;
    --seats_;
    if (--job->seats == 0) open_.erase(open_.begin());
    return job;
  }

  void wait_for_workers(Job& job, const std::function<void()>& waiting) {
    check();
    std::unique_lock<std::mutex> lock(mutex_);
    if (job.seats) open_.erase(std::find(open_.begin(), open_.end(), &job));
    seats_ -= job.seats;
    const auto alone = [&] { return job.busy == 0; };
    if (!alone() && job.count <= processors_) {
      lock.unlock();
      spin(alone);
      lock.lock();
    }
    while (!job.left.wait_for(lock, kLook, alone)) {
      if (!waiting) continue;
      lock.unlock();
      job.guarded(waiting);
      check();
      lock.lock();
    }
  }

  // What is called here may have forked: a handler of signals, say.
  void check() const {
    if (lost) throw std::runtime_error("a child after fork can't finish what its parent's threads have begun");
  }

  std::mutex mutex_;
  std::condition_variable call_;       // there are seats
  std::vector<Job*> open_;             // jobs with seats
  std::atomic<std::size_t> seats_{0};  // of all of them
  std::size_t idle_ = 0, workers_ = 0;
  const std::size_t processors_;
};

std::atomic<Pool*> pool{nullptr};

#ifdef VQ_POSIX
// When the library is loaded: any later, another thread could be about to when one forks.
[[maybe_unused]] const int watches_forks = pthread_atfork(nullptr, nullptr, [] {
  if (Pool* const parents = pool) parents->lost = true;
});
#endif

Pool& the_pool() {
  Pool* now = pool;
  if (now && !now->lost) return *now;
  Pool* const fresh = new Pool(now);
  if (pool.compare_exchange_strong(now, fresh)) return *fresh;
  delete fresh;  // another thread was quicker
  return *now;
}

}  // namespace

void on_threads(std::size_t count, const std::function<void(std::size_t)>& work, const std::function<void()>& waiting) {
  if (count < 2) return work(0);
  Job job(count, work);
  the_pool().run(job, waiting);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace vqindex
