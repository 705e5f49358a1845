#include "residuals.hpp"

#include <cmath>

#include "dispatch.hpp"
#include "row_sum.hpp"

namespace vqindex {
namespace {

constexpr double kTinyNorm2 = 0x1p-252;  // the square of the smallest normal float

VQ_INLINE void subtract_body(const Centering& centering, const float* rows, std::size_t n, float* out,
                             std::uint8_t* zero) {
  const std::size_t d = centering.dim;
  for (std::size_t r = 0; r < n; ++r, rows += d, out += d) {
    double norm = 1.0;
    zero[r] = 0;
    if (centering.unit) {
      alignas(kAlign) double partial[kPartials] = {};
      add_squares(partial, rows, d);
      const double norm2 = total(partial);
      zero[r] = norm2 < kTinyNorm2;
      if (!zero[r]) norm = std::sqrt(norm2);
    }
    VQ_LANES
    for (std::size_t j = 0; j < d; ++j) {
      const double wide = rows[j], point = centering.point[j];
      out[j] = static_cast<float>(wide / norm - point);
    }
  }
}

// ---- one function per instruction set

void subtract_scalar(const Centering& centering, const float* rows, std::size_t n, float* out, std::uint8_t* zero) {
  subtract_body(centering, rows, n, out, zero);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void subtract_avx2(const Centering& centering, const float* rows, std::size_t n, float* out,
                                  std::uint8_t* zero) {
  subtract_body(centering, rows, n, out, zero);
}

VQ_TARGET_AVX512 void subtract_avx512(const Centering& centering, const float* rows, std::size_t n, float* out,
                                      std::uint8_t* zero) {
  subtract_body(centering, rows, n, out, zero);
}
#endif

}  // namespace

void subtract_point(const Centering& centering, const float* rows, std::size_t n, float* out, std::uint8_t* zero,
                    [[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (width_of(isa) == Width::avx512) return subtract_avx512(centering, rows, n, out, zero);
  if (width_of(isa) == Width::avx2) return subtract_avx2(centering, rows, n, out, zero);
#endif
  subtract_scalar(centering, rows, n, out, zero);
}

}  // namespace vqindex
