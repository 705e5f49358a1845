// The kernels for any processor: plain loops.
#include "kernels_plain.hpp"

namespace vqindex {
namespace {

VQ_PLAIN_DECODE()
VQ_PLAIN_REDUCTIONS()
VQ_DECODE_DOT_ONE()
VQ_DECODE_DOTS()
using plain::dot_s8s8;
VQ_DECODE_DOTS_NARROW()
VQ_DOT_MANY()
VQ_PLAIN_TILES()
VQ_PLAIN_SELECTION()
VQ_PLAIN_COLLECT()
VQ_PLAIN_DOT_ROWS()
VQ_PLAIN_BLOCK_MAX()
VQ_PLAIN_ROWS()
VQ_PLAIN_SIGNS()
VQ_SIGN_BLOCKS_AS_TILE()

}  // namespace

const Kernels& scalar_kernels() {
  static const Kernels table = VQ_TABLE_OF_KERNELS;
  return table;
}

}  // namespace vqindex
