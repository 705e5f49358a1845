// Kernels for any processor, and the choice of a table by name.
#include <stdexcept>

#include "kernels_plain.hpp"

namespace vqindex {
namespace {

VQ_PLAIN_DECODE()
VQ_PLAIN_REDUCTIONS()
VQ_ROW_DOT()
VQ_ROW_DOTS()
VQ_PLAIN_TILES()
VQ_PLAIN_SELECTION()
VQ_PLAIN_COLLECT()
VQ_PLAIN_ROW_SUMS()
VQ_PLAIN_MOST()
VQ_PLAIN_ROWS()
VQ_PLAIN_SIGNS()
VQ_PLANE_AS_TILE()

}  // namespace

const Kernels& scalar_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

const Kernels& kernels_for([[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (isa == "avx512vbmi") return avx512vbmi_kernels();
  if (isa == "avx512vnni") return avx512vnni_kernels();
  if (isa == "avx512") return avx512_kernels();
  if (isa == "avx2") return avx2_kernels();
#elif defined(VQ_ARM)
  if (isa == "neondot") return neondot_kernels();
  if (isa == "neon") return neon_kernels();
#endif
  return scalar_kernels();
}

}  // namespace vqindex
