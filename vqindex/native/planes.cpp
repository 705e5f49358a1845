#include "planes.hpp"

#include <algorithm>
#include <cstring>

#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>
#endif

namespace vqindex {
namespace {

// The bits of `word` where `mask` has ones, moved together.
struct Plain {
  static VQ_INLINE std::uint64_t extract(std::uint64_t word, std::uint64_t mask) {
    std::uint64_t out = 0;
    for (int to = 0; mask; mask &= mask - 1, ++to) out |= (word & mask & -mask ? std::uint64_t{1} : 0) << to;
    return out;
  }
};

#ifdef VQ_X86
struct Bmi {
  __attribute__((target("bmi2"))) static inline std::uint64_t extract(std::uint64_t word, std::uint64_t mask) {
    return _pext_u64(word, mask);
  }
};
#endif

// Eight fields at a time: they are `bits` whole bytes, and their rest is bits - 1.
template <typename Bits>
VQ_INLINE void split_body(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, int bits,
                          std::size_t sign_bytes, std::size_t start, std::uint8_t* signs, std::uint8_t* rest,
                          std::size_t rest_bytes) {
  std::uint64_t top = 0;
  for (int i = 0; i < 8; ++i) top |= std::uint64_t{1} << (i * bits + bits - 1);
  const std::uint64_t all = bits == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bits)) - 1;
  const std::size_t step = static_cast<std::size_t>(bits);
  for (std::size_t r = 0; r < n; ++r) {
    const std::uint8_t* row = codes + r * row_bytes;
    std::uint8_t* plane = signs + (start + r) / 64 * 64 * sign_bytes + (start + r) % 64;
    std::uint8_t* out = rest + (start + r) * rest_bytes;
    for (std::size_t j = 0; j < sign_bytes; ++j) {
      std::uint64_t word = 0;
      std::memcpy(&word, row + j * step, std::min(step, row_bytes - j * step));
      plane[j * 64] = static_cast<std::uint8_t>(Bits::extract(word, top));
      const std::uint64_t others = Bits::extract(word, all & ~top);
      const std::size_t at = j * (step - 1);
      if (at < rest_bytes) std::memcpy(out + at, &others, std::min(step - 1, rest_bytes - at));
    }
  }
}

#ifdef VQ_X86
__attribute__((target("bmi2"))) void split_bmi(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes,
                                               int bits, std::size_t sign_bytes, std::size_t start, std::uint8_t* signs,
                                               std::uint8_t* rest, std::size_t rest_bytes) {
  // Constant widths turn the copies into single moves.
  switch (bits) {
    case 2:
      return split_body<Bmi>(codes, n, row_bytes, 2, sign_bytes, start, signs, rest, rest_bytes);
    case 4:
      return split_body<Bmi>(codes, n, row_bytes, 4, sign_bytes, start, signs, rest, rest_bytes);
    default:
      return split_body<Bmi>(codes, n, row_bytes, bits, sign_bytes, start, signs, rest, rest_bytes);
  }
}
#endif

}  // namespace

void split_rows(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, int bits, std::size_t sign_bytes,
                std::size_t start, std::uint8_t* signs, std::uint8_t* rest, std::size_t rest_bytes) {
#ifdef VQ_X86
  if (__builtin_cpu_supports("bmi2"))
    return split_bmi(codes, n, row_bytes, bits, sign_bytes, start, signs, rest, rest_bytes);
#endif
  split_body<Plain>(codes, n, row_bytes, bits, sign_bytes, start, signs, rest, rest_bytes);
}

}  // namespace vqindex
