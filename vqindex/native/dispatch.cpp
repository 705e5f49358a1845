// One list of instruction sets: name, detection at run time, kernels. A new set is one more line.
#include "dispatch.hpp"

#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace vqindex {
namespace {

bool always() { return true; }

#ifdef VQ_X86
// The builtin also asks XGETBV whether the operating system saves the wide registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
}
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx512vbmi() {
  return has_avx512vnni() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2");
}
#elif defined(VQ_ARM)
bool has_neondot() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  return true;  // every 64-bit Apple processor
#else
  return false;
#endif
}
#endif

struct Isa {
  const char* name;
  bool (*is_supported)();
  const Kernels& (*kernels)();
};

constexpr Isa kIsas[] = {
    // the plainest first
    {"scalar", always, scalar_kernels},
#ifdef VQ_X86
    {"avx2", has_avx2, avx2_kernels},
    {"avx512", has_avx512, avx512_kernels},
    {"avx512vnni", has_avx512vnni, avx512vnni_kernels},
    {"avx512vbmi", has_avx512vbmi, avx512vbmi_kernels},
#elif defined(VQ_ARM)
    {"neon", always, neon_kernels},  // part of the 64-bit baseline
    {"neondot", has_neondot, neondot_kernels},
#endif
};

}  // namespace

std::vector<std::string> supported_isas() {
#ifdef VQ_X86
  __builtin_cpu_init();
#endif
  std::vector<std::string> names;
  for (const Isa& isa : kIsas)
    if (isa.is_supported()) names.emplace_back(isa.name);
  return names;
}

std::string checked_isa(const std::string& isa) {
  static const auto names = supported_isas();
  if (isa.empty()) return names.back();
  std::string all;
  for (const auto& name : names) {
    if (name == isa) return isa;
    all += (all.empty() ? "" : ", ") + name;
  }
  throw std::invalid_argument("isa is '" + isa + "'; this machine has: " + all);
}

const Kernels& kernels_for(const std::string& isa) {
  for (const Isa& known : kIsas)
    if (isa == known.name) return known.kernels();
  return scalar_kernels();
}

}  // namespace vqindex
