// One body, several instruction sets: a kernel is written once as plain loops, inlined into a function per target, and
// widened there by the compiler. Integer arithmetic has one answer, so all of them agree.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_MSC_VER)
#include <intrin.h>
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define VQ_X86 1
// Clang does not know the preference and would drop the whole attribute.
#if defined(__clang__)
#define VQ_WIDE ""
#else
#define VQ_WIDE ",prefer-vector-width=512"
#endif
#define VQ_TARGET_AVX2 __attribute__((target("avx2")))
#define VQ_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq" VQ_WIDE)))
#define VQ_TARGET_AVX512VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni" VQ_WIDE)))
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define VQ_ARM 1
// NEON itself is part of the baseline. GCC inlines the intrinsics only into functions for the same architecture.
#define VQ_TARGET_NEONDOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

// Inlined into the caller, so that each path's target widens it.
#if defined(__GNUC__) || defined(__clang__)
#define VQ_INLINE __attribute__((always_inline)) inline
#else
#define VQ_INLINE inline
#endif

// A loop of constant length, over registers: unrolled, or they would live in memory.
#if defined(__clang__)
#define VQ_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define VQ_UNROLL _Pragma("GCC unroll 16")
#else
#define VQ_UNROLL
#endif

namespace vqindex {

// Number of the lowest bit that is set; there must be one.
VQ_INLINE unsigned lowest_bit(std::uint64_t bits) {
#if defined(_MSC_VER)
  unsigned long at;
  _BitScanForward64(&at, bits);
  return at;
#else
  return static_cast<unsigned>(__builtin_ctzll(bits));
#endif
}

// How many bits are set.
VQ_INLINE std::size_t count_bits(std::uint64_t bits) {
  // Spelt out: compilers know it where there is an instruction for it, and would call a function where there is none.
  bits -= bits >> 1 & 0x5555555555555555u;
  bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<std::size_t>(bits * 0x0101010101010101u >> 56);
}

// Asks for the line of memory at `p`, which is about to be read.
VQ_INLINE void prefetch(const void* p) {
#if defined(_MSC_VER)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  __builtin_prefetch(p);
#endif
}

}  // namespace vqindex
