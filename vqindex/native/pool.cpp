// A pool of threads for on_threads. Workers wait for jobs, first spinning for a short time, and end after ten idle
// seconds.
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

constexpr std::chrono::microseconds kSpin{40};  // about as long as a thread takes to fall asleep and be woken
constexpr std::chrono::milliseconds kWaitingInterval{50};  // between two calls of `waiting`
constexpr std::chrono::seconds kIdle{10};                  // after which an idle thread ends

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

// Waits for done() for a short time without sleeping. It yields the processor to any thread that wants it, which may be
// the one to wait for.
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

// While this object exists, new threads block signals, so that threads which Python knows get them. They don't block
// the signals that their own errors raise.
class NoSignals {
 public:
  NoSignals() {
#ifdef VQ_POSIX
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&blocked, own);
    pthread_sigmask(SIG_SETMASK, &blocked, &before_);
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

// One call of on_threads: items that its caller and workers claim one by one.
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

  void run_items() {
    for (std::size_t item; (item = next++) < count;) guarded([&] { work(item); });
  }

  const std::function<void(std::size_t)>& work;
  const std::size_t count;
  std::atomic<std::size_t> next{1};  // item
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // the first
  // These change only under the pool's lock.
  std::size_t seats;                 // workers that may still join
  std::atomic<std::size_t> busy{0};  // workers that have joined and not finished
  std::condition_variable finished;  // the last of them has finished
};

// Workers and the jobs they may join. A pool is never destroyed, because workers may outlive everything else at the end
// of the process.
class Pool {
 public:
  explicit Pool(Pool* before) : before(before), processors_(processors()) {}

  void run(Job& job, const std::function<void()>& waiting) {
    call_workers(job);
    job.guarded([&] { job.work(0); });
    job.run_items();
    wait_for_workers(job, waiting);
  }

  Pool* const before;             // the parent process's pool, kept reachable for leak checkers
  std::atomic<bool> lost{false};  // after fork: the workers, and any holder of the lock, exist only in the parent

 private:
  void call_workers(Job& job) {
    const std::size_t seats = job.seats;
    std::size_t missing = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      open_.push_back(&job);
      seats_ += seats;
      if (seats_ > idle_) missing = std::min(seats, seats_ - idle_);
      idle_ += missing;
      workers_ += missing;
    }
    for (std::size_t i = missing; i < seats; ++i) call_.notify_one();
    if (missing) start(missing);
  }

  void start(std::size_t missing) {
    const NoSignals none;
    try {
      for (; missing; --missing) std::thread([this] { serve(); }).detach();
    } catch (const std::exception&) {  // the system starts no more threads: the caller runs all items
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_ -= missing;
      workers_ -= missing;
    }
  }

  // What a worker runs.
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (Job* job = join(lock)) {
      lock.unlock();
      job->run_items();
      lock.lock();
      ++idle_;
      if (--job->busy == 0) job->finished.notify_one();  // under the lock: afterwards the job may be gone
    }
  }

  // Waits for a job with a free seat and takes the seat. Returns null if there was none for kIdle; the worker then
  // ends.
  Job* join(std::unique_lock<std::mutex>& lock) {
    const auto called = [this] { return seats_ > 0; };
    const auto stop = Clock::now() + kIdle;
    for (bool idle = false; !called();) {
      if (idle) {
        --idle_;
        --workers_;
        return nullptr;
      }
      if (workers_ < processors_) {  // spins also if woken too late, because the next call may come soon
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
    while (!job.finished.wait_for(lock, kWaitingInterval, alone)) {
      if (!waiting) continue;
      lock.unlock();
      job.guarded(waiting);
      check();
      lock.lock();
    }
  }

  // `work` or `waiting` may have forked, for example in a signal handler.
  void check() const {
    if (lost) throw std::runtime_error("a child after fork can't finish what its parent's threads have begun");
  }

  std::mutex mutex_;
  std::condition_variable call_;       // there are free seats
  std::vector<Job*> open_;             // jobs with free seats
  std::atomic<std::size_t> seats_{0};  // free seats of all jobs
  std::size_t idle_ = 0, workers_ = 0;
  const std::size_t processors_;
};

std::atomic<Pool*> pool{nullptr};

#ifdef VQ_POSIX
// Registers the handler when the library is loaded. At any later time, another thread could fork meanwhile.
[[maybe_unused]] const int watches_forks = pthread_atfork(nullptr, nullptr, [] {
  if (Pool* const parents = pool) parents->lost = true;
});
#endif

Pool& the_pool() {
  Pool* now = pool;
  if (now && !now->lost) return *now;
  Pool* const fresh = new Pool(now);
  if (pool.compare_exchange_strong(now, fresh)) return *fresh;
  delete fresh;  // another thread was faster
  return *now;
}

}  // namespace

std::size_t processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return static_cast<std::size_t>(CPU_COUNT(&set));
#endif
  return std::max<std::size_t>(1, std::thread::hardware_concurrency());  // 0 if unknown
}

void on_threads(std::size_t count, const std::function<void(std::size_t)>& work, const std::function<void()>& waiting) {
  if (count < 2) return work(0);
  Job job(count, work);
  the_pool().run(job, waiting);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace vqindex
