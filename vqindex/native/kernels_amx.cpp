// The kernels for the matrix unit of Intel's processors (AMX).
#include "isa.hpp"
#include "kernels.hpp"

#ifdef VQ_AMX
#include <immintrin.h>

#define VQ_T __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2,amx-tile,amx-int8" VQ_WIDE)))
#define VQ_TILES
#define VQ_TILE_ZERO(t) _tile_zero(t)
#define VQ_TILE_LOAD(t, address) _tile_loadd(t, address, 64)
#define VQ_TILE_DOT(c, a, b) _tile_dpbssd(c, a, b)
#define VQ_TILE_STORE(t, address) _tile_stored(t, address, 64)

namespace vqindex {
namespace {

template <bool DISTANCE>
VQ_T VQ_INLINE std::uint32_t mask_of_32(const TileCall& call, std::size_t q, std::size_t rows,
                                        const std::int32_t* sums) {
  const __m512 threshold = _mm512_set1_ps(call.threshold[q]), slack = _mm512_set1_ps(call.slack[q]);
  const auto mask_of = [&](std::size_t row, const std::int32_t* some) VQ_T {
    __m512 limit = _mm512_mul_ps(slack, _mm512_loadu_ps(call.error + row));
    limit = _mm512_fmsub_ps(threshold, _mm512_loadu_ps(call.per_weight + row), limit);
    if (DISTANCE)
      limit = _mm512_fmadd_ps(_mm512_set1_ps(call.norm2_weight[q]), _mm512_loadu_ps(call.norm2 + row), limit);
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(some));
    return static_cast<std::uint32_t>(_mm512_cmp_ps_mask(sum, limit, _CMP_NLE_UQ));
  };
  return mask_of(rows, sums) | mask_of(rows + 16, sums + 256) << 16;
}

#include "kernels_avx512_arrange.inl"
#include "kernels_tiles.inl"

VQ_T void arrange_rows_s8(const std::int8_t* levels, std::size_t stride, std::int8_t* tiles) {
  arrange_16_rows(levels, stride, _mm512_setzero_si512(), tiles);
}

// The operand of LDTILECFG for eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

VQ_T void configure() {
  static const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
}

VQ_T void release() { _tile_release(); }

}  // namespace

const TileKernels* amx_tile_kernels() {
  // A row is decoded as a whole, for all queries. For fewer than these the other scans cost less.
  static const TileKernels kernels = {128, 8, configure, release, arrange_rows_s8, find_hits};
  return &kernels;
}

}  // namespace vqindex

#elif defined(VQ_X86)

namespace vqindex {

const TileKernels* amx_tile_kernels() { return nullptr; }

}  // namespace vqindex
#endif
