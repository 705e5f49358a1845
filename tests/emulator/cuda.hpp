// Runs CUDA kernels on the CPU, so that tests without a GPU find wrong results and missing barriers.
//
// This header precedes the kernel's own source in one translation unit. A block is a set of fibers, one for each
// thread, on one CPU thread. A fiber runs until it waits at a barrier of the block or at an exchange within its warp.
// The order of fibers is either round-robin or adversarial. The adversarial scheduler picks a random warp and runs it
// until all of its lanes wait, in random order. It soon finds a missing barrier that round-robin order hides. Shared
// memory contains garbage when a block starts. Two kinds of deadlock are reported as errors: threads that wait forever,
// and threads that return while others wait at a barrier.
//
// The header contains only what the engine uses. Warp operations require all 32 lanes.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define VQ_EMULATED 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("vq_shared")))
#define VQ_DYNAMIC_SHARED(name) uint4* const name = (uint4*)emulated::block.dynamic

struct uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

extern "C" {
extern char __start_vq_shared[] __attribute__((weak));
extern char __stop_vq_shared[] __attribute__((weak));
}

namespace emulated {

constexpr size_t stack_bytes = 128 << 10;
constexpr int lanes = 32, slots = 6;

enum class State { ready, in_warp, at_barrier, done };

struct Fiber {
  jmp_buf resume_point;
  ucontext_t first;
  std::vector<char> stack;
  State state;
  bool started;
  unsigned exchanges;  // made so far; exchanges alternate between two sets of slots
  dim3 index;
};

struct Warp {
  uint32_t value[2][lanes][slots];
  int arrived;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  int at_barrier, done;
  char* dynamic;
  dim3 index, size, grid;
  void (*body)(void**);
  void** arguments;
  uint64_t random;  // 0: round-robin
  jmp_buf scheduler;
  ucontext_t scheduler_first;
};

static Block block;
static Fiber* now;  // the running fiber
static char message[256];

inline uint32_t draw(uint32_t below) {
  uint64_t& s = block.random;
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return uint32_t((s >> 32) * below >> 32);
}

// Returns to the scheduler until it picks this fiber again.
__attribute__((noinline)) inline void yield() {
  if (!_setjmp(now->resume_point)) _longjmp(block.scheduler, 1);
  asm volatile("" ::: "memory");
}

__attribute__((noinline)) inline void barrier() {
  asm volatile("" ::: "memory");
  now->state = State::at_barrier;
  if (++block.at_barrier == int(block.fibers.size())) {
    block.at_barrier = 0;
    for (Fiber& f : block.fibers) f.state = State::ready;
  }
  yield();
}

// Publishes `count` words to the warp, and returns the words of all lanes.
__attribute__((noinline)) inline const uint32_t (*exchange(const uint32_t* words, int count)) [slots] {
  const int at = int(now - block.fibers.data());
  Warp& warp = block.warps[at / lanes];
  auto* all_words = warp.value[now->exchanges++ % 2];
  memcpy(all_words[at % lanes], words, count * 4);
  now->state = State::in_warp;
  if (++warp.arrived == lanes) {
    warp.arrived = 0;
    for (int i = 0; i < lanes; ++i) block.fibers[at / lanes * lanes + i].state = State::ready;
  }
  yield();
  return all_words;
}

inline void enter() {
  block.body(block.arguments);
  now->state = State::done;
  ++block.done;
  _longjmp(block.scheduler, 1);
}

inline void run(Fiber& fiber) {
  now = &fiber;
  if (_setjmp(block.scheduler)) return;
  if (fiber.started) _longjmp(fiber.resume_point, 1);
  fiber.started = true;
  getcontext(&fiber.first);
  fiber.first.uc_stack.ss_sp = fiber.stack.data();
  fiber.first.uc_stack.ss_size = fiber.stack.size();
  fiber.first.uc_link = nullptr;
  makecontext(&fiber.first, enter, 0);
  swapcontext(&block.scheduler_first, &fiber.first);
}

// Returns a ready fiber of a warp, searching from a random lane (or from the first), or null.
inline Fiber* ready(int warp) {
  const int start = block.random ? int(draw(lanes)) : 0;
  for (int i = 0; i < lanes; ++i) {
    Fiber& f = block.fibers[warp * lanes + (start + i) % lanes];
    if (f.state == State::ready) return &f;
  }
  return nullptr;
}

inline bool run_block() {
  const int warps = int(block.warps.size());
  for (int turn = 0;; ++turn) {
    const int start = block.random ? int(draw(warps)) : turn % warps;
    Fiber* next = nullptr;
    int warp = 0;
    for (int i = 0; i < warps && !next; ++i) next = ready(warp = (start + i) % warps);
    if (!next) break;
    if (block.random)  // run the warp until all of its lanes wait
      for (; next; next = ready(warp)) run(*next);
    else
      run(*next);
  }
  if (block.done == int(block.fibers.size())) return true;
  int in_warp = 0;
  for (const Fiber& f : block.fibers) in_warp += f.state == State::in_warp;
  snprintf(message, sizeof message, "block (%u, %u): %d threads returned, %d wait at a barrier, %d in a warp",
           block.index.x, block.index.y, block.done, block.at_barrier, in_warp);
  return false;
}

inline void poison(char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) from[i] = char(block.random ? draw(256) : 0xcd);
}

inline const char* launch(void (*body)(void**), void** arguments, const uint32_t* shape, uint64_t seed) {
  block.grid = {shape[0], shape[1], 1};
  block.size = {shape[2], 1, 1};
  block.random = seed * 0x9e3779b97f4a7c15u;
  block.body = body;
  block.arguments = arguments;
  std::vector<uint4> dynamic(shape[3] / 16 + 1);
  block.dynamic = (char*)dynamic.data();
  block.fibers.resize(shape[2]);
  for (Fiber& f : block.fibers) f.stack.resize(stack_bytes);
  block.warps.resize(shape[2] / lanes);
  for (uint32_t y = 0; y < shape[1]; ++y) {
    for (uint32_t x = 0; x < shape[0]; ++x) {
      block.index = {x, y, 0};
      block.at_barrier = block.done = 0;
      for (Warp& w : block.warps) w.arrived = 0;
      for (size_t i = 0; i < block.fibers.size(); ++i) {
        Fiber& f = block.fibers[i];
        f.state = State::ready, f.started = false, f.exchanges = 0, f.index = {uint32_t(i), 0, 0};
      }
      poison(block.dynamic, shape[3]);
      if (__start_vq_shared) poison(__start_vq_shared, size_t(__stop_vq_shared - __start_vq_shared));
      if (!run_block()) return message;
    }
  }
  return nullptr;
}

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A>
void apply(void (*kernel)(A...), void** arguments) {
  apply(kernel, arguments, std::index_sequence_for<A...>{});
}

template <class T>
T from_lane(T v, int lane) {
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &v, sizeof v);
  const uint32_t (*all_words)[slots] = exchange(words, sizeof(T) / 4);
  memcpy(&v, all_words[lane], sizeof v);
  return v;
}

inline int my_lane() { return int(now->index.x % lanes); }

template <class B>
void mma(int (&c)[4], uint4 a, uint32_t b0, uint32_t b1) {
  const uint32_t words[slots] = {a.x, a.y, a.z, a.w, b0, b1};
  const uint32_t (*all_words)[slots] = exchange(words, slots);
  for (int i = 0; i < 4; ++i) {
    const int row = my_lane() / 4 + i / 2 * 8, column = my_lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 32; ++k) {
      const int shift = k % 4 * 8, lane = k % 16 / 4;
      const int8_t element_a = int8_t(all_words[row % 8 * 4 + lane][row / 8 + k / 16 * 2] >> shift);
      const B element_b = B(all_words[column * 4 + lane][4 + k / 16] >> shift);
      c[i] += int(element_a) * int(element_b);
    }
  }
}

}  // namespace emulated

#define threadIdx (emulated::now->index)
#define blockIdx (emulated::block.index)
#define blockDim (emulated::block.size)
#define gridDim (emulated::block.grid)

inline void __syncthreads() {
  asm volatile("" ::: "memory");
  emulated::barrier();
  asm volatile("" ::: "memory");
}
template <class T>
T __shfl_sync(uint32_t, T v, int lane) {
  return emulated::from_lane(v, lane & 31);
}
template <class T>
T __shfl_xor_sync(uint32_t, T v, int mask) {
  return emulated::from_lane(v, emulated::my_lane() ^ mask);
}
inline uint32_t __ballot_sync(uint32_t, int predicate) {
  const uint32_t word = predicate != 0;
  const uint32_t (*all_words)[emulated::slots] = emulated::exchange(&word, 1);
  uint32_t out = 0;
  for (int i = 0; i < emulated::lanes; ++i) out |= all_words[i][0] << i;
  return out;
}
inline int atomicAdd(int* p, int v) { return std::exchange(*p, *p + v); }
using emulated_word = unsigned long long;
inline emulated_word atomicMin(emulated_word* p, emulated_word v) { return std::exchange(*p, *p < v ? *p : v); }

inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, int shift) {
  return uint32_t((uint64_t(high) << 32 | low) >> (shift & 31));
}
template <class To, class From>
To emulated_bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  memcpy(&out, &v, sizeof v);
  return out;
}
inline float __uint_as_float(uint32_t v) { return emulated_bits<float>(v); }
inline uint32_t __float_as_uint(float v) { return emulated_bits<uint32_t>(v); }
inline double __longlong_as_double(long long v) { return emulated_bits<double>(v); }
// The compiler may not contract operations, so each plain operator rounds once.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline float __double2float_rn(double v) { return float(v); }
inline float __ll2float_rn(long long v) { return float(v); }
inline float __ull2float_rn(unsigned long long v) { return float(v); }
inline double __ll2double_rn(long long v) { return double(v); }
inline int __float2int_rn(float v) { return int(std::nearbyint(v)); }

// Twins of the functions of common.cuh that contain PTX.
inline uint32_t vq_permute(uint32_t a, uint32_t b, uint32_t selectors) {
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t selector = selectors >> (4 * i) & 15;
    if (selector > 7) abort();  // PTX would replicate a sign; the engine does not use it
    out |= (selector < 4 ? a >> (8 * selector) : b >> (8 * (selector - 4)) & 255) % 256 << (8 * i);
  }
  return out;
}
inline void vq_mma_s8(int (&c)[4], uint4 a, uint32_t b0, uint32_t b1) { emulated::mma<int8_t>(c, a, b0, b1); }
inline void vq_mma_u8(int (&c)[4], uint4 a, uint32_t b0, uint32_t b1) { emulated::mma<uint8_t>(c, a, b0, b1); }
inline uint4 vq_load_once(const uint4* p) { return *p; }

// Defines the entry that tests call for kernel `name`. `shape` is {grid x, grid y, threads, bytes of dynamic shared
// memory}.
#define VQ_EMULATE(name)                                                                         \
  extern "C" const char* emulate(void** arguments, const uint32_t* shape, uint64_t seed) {       \
    return emulated::launch([](void** a) { emulated::apply(name, a); }, arguments, shape, seed); \
  }
