// Attributes that compile one body for several instruction sets, and bit operations. A body is written once as plain
// loops, inlined into one function per target, and vectorized there by the compiler. Integer arithmetic has one result,
// so all targets agree.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_MSC_VER)
#include <intrin.h>
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define VQ_X86 1
// Clang does not know prefer-vector-width and would ignore the whole attribute.
#if defined(__clang__)
#define VQ_WIDE ""
#else
#define VQ_WIDE ",prefer-vector-width=512"
#endif
#define VQ_TARGET_AVX2 __attribute__((target("avx2")))
#define VQ_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq" VQ_WIDE)))
// Compilers that know AMX have a header of this name. Only Linux is asked for the permission to use it.
#if defined(__linux__) && __has_include(<amxint8intrin.h>)
#define VQ_AMX 1
#endif
#define VQ_TARGET_AVX512VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni" VQ_WIDE)))
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define VQ_ARM 1
// NEON itself is part of the baseline. GCC inlines intrinsics only into functions for the same architecture.
#define VQ_TARGET_NEONDOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

// Inlines a function into its caller, so that it is compiled for the caller's target.
#if defined(__GNUC__) || defined(__clang__)
#define VQ_INLINE __attribute__((always_inline)) inline
#else
#define VQ_INLINE inline
#endif

// Unrolls a loop of constant length over an array of registers. Otherwise the array would live in memory.
#if defined(__clang__)
#define VQ_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define VQ_UNROLL _Pragma("GCC unroll 16")
#else
#define VQ_UNROLL
#endif

namespace vqindex {

// Returns the number of the lowest bit that is set; there must be one.
VQ_INLINE unsigned lowest_bit(std::uint64_t bits) {
#if defined(_MSC_VER)
  unsigned long at;
  _BitScanForward64(&at, bits);
  return at;
#else
  return static_cast<unsigned>(__builtin_ctzll(bits));
#endif
}

// Returns how many bits are set.
VQ_INLINE std::size_t count_bits(std::uint64_t bits) {
  // Compilers turn this into one instruction where there is one. __builtin_popcountll would call a function elsewhere.
  bits -= bits >> 1 & 0x5555555555555555u;
  bits = (bits & 0x3333333333333333u) + (bits >> 2 & 0x3333333333333333u);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return static_cast<std::size_t>(bits * 0x0101010101010101u >> 56);
}

// Prefetches the cache line at `p`.
VQ_INLINE void prefetch(const void* p) {
#if defined(_MSC_VER)
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  __builtin_prefetch(p);
#endif
}

}  // namespace vqindex
