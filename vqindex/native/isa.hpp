// One body, several instruction sets: a kernel is written once as plain loops, inlined into a function per target, and
// widened there by the compiler. Integer arithmetic has one answer, so all of them agree.
#pragma once

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define VQ_X86 1
#define VQ_TARGET_AVX2 __attribute__((target("avx2")))
#define VQ_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#define VQ_TARGET_AVX512VNNI \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,prefer-vector-width=512")))
#endif

// Inlined into the caller, so that each path's target widens it.
#if defined(__GNUC__) || defined(__clang__)
#define VQ_INLINE __attribute__((always_inline)) inline
#else
#define VQ_INLINE inline
#endif
