// Run-time detection of instruction sets. Names follow the kernel files that are to use them.
#include "dispatch.hpp"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace vqindex {

std::vector<std::string> supported_isas() {
  std::vector<std::string> names{"scalar"};
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
  // The builtin also asks XGETBV whether the system saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) names.emplace_back("avx2");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2")) {
    names.emplace_back("avx512");
    if (__builtin_cpu_supports("avx512vnni")) names.emplace_back("avx512vnni");
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
        __builtin_cpu_supports("avx512vbmi2"))
      names.emplace_back("avx512vbmi");
  }
#elif defined(__aarch64__)
  names.emplace_back("neon");  // part of the 64-bit baseline
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) names.emplace_back("neondot");
#elif defined(__APPLE__)
  names.emplace_back("neondot");  // every 64-bit Apple processor
#endif
#endif
  return names;
}

}  // namespace vqindex
