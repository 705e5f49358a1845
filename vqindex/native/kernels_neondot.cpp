// Kernels for neondot; kernels_neon.inl says how.
#include "isa.hpp"

#ifdef VQ_ARM
#define VQ_DOT 1
#define VQ_T VQ_TARGET_NEONDOT
#include "kernels_neon.inl"

namespace vqindex {

const Kernels& neondot_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
#endif
