// The kernels for NEON, the baseline of 64-bit ARM; see kernels_neon.inl.
#include "isa.hpp"

#ifdef VQ_ARM
#define VQ_T
#include "kernels_neon.inl"

namespace vqindex {

const Kernels& neon_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
#endif
