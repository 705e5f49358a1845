// The kernels for NEON with the dot product instructions; see kernels_neon.inl.
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
