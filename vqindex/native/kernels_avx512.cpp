// The kernels for AVX-512 without VNNI and VBMI; see kernels_avx512.inl.
#include "isa.hpp"

#ifdef VQ_X86
#define VQ_T __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2" VQ_WIDE)))
#include "kernels_avx512.inl"

namespace vqindex {

const Kernels& avx512_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
#endif
