// The kernels for a matrix unit without one: the same loops over tiles in plain memory. They let every machine test the
// scan by tiles, and are never chosen for their speed.
#include <cstring>

#include "kernels.hpp"

#define VQ_T
#define VQ_TILES Tile tile[8];
#define VQ_TILE_ZERO(t) tile[t].zero()
#define VQ_TILE_LOAD(t, address) std::memcpy(tile[t].bytes, address, sizeof tile[t].bytes)
#define VQ_TILE_DOT(c, a, b) tile[c].add_product(tile[a], tile[b])
#define VQ_TILE_STORE(t, address) std::memcpy(address, tile[t].bytes, sizeof tile[t].bytes)

namespace vqindex {
namespace {

struct Tile {
  std::int8_t bytes[1024];

  void zero() { std::memset(bytes, 0, sizeof bytes); }

  // sum[m][n] += a[m][k][i] * b[k][n][i] over k < 16 and i < 4.
  void add_product(const Tile& a, const Tile& b) {
    std::int32_t sums[256];
    std::memcpy(sums, bytes, sizeof bytes);
    for (int m = 0; m < 16; ++m)
      for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n)
          for (int i = 0; i < 4; ++i)
            sums[16 * m + n] += std::int16_t{a.bytes[64 * m + 4 * k + i]} * std::int16_t{b.bytes[64 * k + 4 * n + i]};
    std::memcpy(bytes, sums, sizeof bytes);
  }
};

template <bool DISTANCE>
std::uint32_t mask_of_32(const TileCall& call, std::size_t q, std::size_t rows, const std::int32_t* sums) {
  std::uint32_t mask = 0;
  for (std::size_t r = 0; r < kTileRows; ++r) {
    const std::size_t row = rows + r;
    float limit = call.threshold[q] * call.per_weight[row] - call.slack[q] * call.error[row];
    if (DISTANCE) limit += call.norm2_weight[q] * call.norm2[row];
    mask |= std::uint32_t{!(static_cast<float>(sums[r / 16 * 256 + r % 16]) <= limit)} << r;
  }
  return mask;
}

#include "kernels_tiles.inl"

void nothing() {}

void arrange_rows_s8(const std::int8_t* levels, std::size_t stride, std::int8_t* tiles) {
  for (std::size_t at = 0; at < stride; at += 4)
    for (std::size_t r = 0; r < 16; ++r, tiles += 4) std::memcpy(tiles, levels + r * stride + at, 4);
}

}  // namespace

const TileKernels& emulated_tile_kernels() {
  // From two queries on, so that tests of small batches scan by tiles.
  static const TileKernels kernels = {2, 2, nothing, nothing, arrange_rows_s8, find_hits};
  return kernels;
}

}  // namespace vqindex
