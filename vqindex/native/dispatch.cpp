// One list of instruction sets: name, detection at run time, kernels. A new set is one more line.
#include "dispatch.hpp"

#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "isa.hpp"

#ifdef VQ_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
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

// AMX needs three consents: of the processor, of the operating system, which saves the tiles of a thread (XGETBV), and
// of Linux for this process. The last is asked for once; threads and forked processes inherit it.
#ifdef VQ_AMX
bool has_tile_unit() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  if ((d & kTile) == 0 || (d & kInt8) == 0) return false;
  // Palette 1: bytes of a row in the low half of b, registers in the high half, rows in c.
  if (!__get_cpuid_count(0x1D, 1, &a, &b, &c, &d) || (b & 0xffff) < 64 || b >> 16 < 8 || (c & 0xffff) < 16)
    return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileState = 3u << 17;
  return (low & kTileState) == kTileState;
}

bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}

bool has_amx() { return has_avx512vbmi() && has_tile_unit() && may_use_tiles(); }
#else
bool has_amx() { return false; }
#endif
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
  Width (*width)();
};

template <Width W>
Width fixed() {
  return W;
}

// The widest set that multiplies no tiles. Its kernels serve the sets with tiles for all else.
const Isa& widest_without_tiles();

Kernels with_tiles(const TileKernels* tiles) {
  Kernels kernels = widest_without_tiles().kernels();
  kernels.tiles = tiles;
  return kernels;
}

const Kernels& emulated_kernels() {
  static const Kernels kernels = with_tiles(&emulated_tile_kernels());
  return kernels;
}

Width width_without_tiles() { return widest_without_tiles().width(); }

#ifdef VQ_X86
const Kernels& amx_kernels() {
  static const Kernels kernels = with_tiles(amx_tile_kernels());
  return kernels;
}
#endif

constexpr Isa kIsas[] = {
    // the slowest first
    {"tiles-emulated", always, emulated_kernels, width_without_tiles},  // for tests
    {"scalar", always, scalar_kernels, fixed<Width::scalar>},
#ifdef VQ_X86
    {"avx2", has_avx2, avx2_kernels, fixed<Width::avx2>},
    {"avx512", has_avx512, avx512_kernels, fixed<Width::avx512>},
    {"avx512vnni", has_avx512vnni, avx512vnni_kernels, fixed<Width::avx512>},
    {"avx512vbmi", has_avx512vbmi, avx512vbmi_kernels, fixed<Width::avx512>},
    {"amx", has_amx, amx_kernels, width_without_tiles},
#elif defined(VQ_ARM)
    {"neon", always, neon_kernels, fixed<Width::scalar>},  // part of the 64-bit baseline
    {"neondot", has_neondot, neondot_kernels, fixed<Width::scalar>},
#endif
};

const Isa& widest_without_tiles() {
  const Isa* widest = nullptr;  // "scalar" at least
  for (const Isa& isa : kIsas)
    if (isa.width != width_without_tiles && isa.is_supported()) widest = &isa;
  return *widest;
}

const Isa& isa_of(const std::string& name) {
  for (const Isa& known : kIsas)
    if (name == known.name) return known;
  return widest_without_tiles();
}

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

const Kernels& kernels_for(const std::string& isa) { return isa_of(isa).kernels(); }

Width width_of(const std::string& isa) { return isa_of(isa).width(); }

}  // namespace vqindex
