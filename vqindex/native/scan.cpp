// The first full scan: a tile of rows is decoded once and met by all queries of the batch.
#include "scan.hpp"

#include <algorithm>
#include <cstring>

#include "isa.hpp"

namespace vqindex {
namespace {

constexpr std::size_t kRows = 4;     // rows that share one pass over a query
constexpr std::size_t kExact = 512;  // 512 * 32767 * 127 < 2^31: so many products fit an int32 in any lane

VQ_INLINE void sums_body(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n,
                         std::size_t d, std::int16_t* wide, float* out) {
  for (std::size_t row = 0; row < n; row += kRows) {
    const std::size_t rows = std::min(kRows, n - row);
    for (std::size_t r = 0; r < kRows; ++r)
      for (std::size_t i = 0; i < d; ++i) wide[r * d + i] = r < rows ? levels[(row + r) * d + i] : std::int16_t{0};
    for (std::size_t q = 0; q < nq; ++q) {
      std::int64_t total[kRows] = {0, 0, 0, 0};
      for (std::size_t begin = 0; begin < d; begin += kExact) {
        const std::size_t length = std::min(kExact, d - begin);
        const std::int16_t* x = queries + q * d + begin;
        const std::int16_t* y = wide + begin;
        std::int32_t a = 0, b = 0, c = 0, e = 0;
        for (std::size_t i = 0; i < length; ++i) {
          a += x[i] * y[i];
          b += x[i] * y[d + i];
          c += x[i] * y[2 * d + i];
          e += x[i] * y[3 * d + i];
        }
        total[0] += a;
        total[1] += b;
        total[2] += c;
        total[3] += e;
      }
      for (std::size_t r = 0; r < rows; ++r) out[q * n + row + r] = static_cast<float>(total[r]);
    }
  }
}

void sums_scalar(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n, std::size_t d,
                 std::int16_t* scratch, float* out) {
  sums_body(queries, nq, levels, n, d, scratch, out);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void sums_avx2(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n,
                              std::size_t d, std::int16_t* scratch, float* out) {
  sums_body(queries, nq, levels, n, d, scratch, out);
}

VQ_TARGET_AVX512 void sums_avx512(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n,
                                  std::size_t d, std::int16_t* scratch, float* out) {
  sums_body(queries, nq, levels, n, d, scratch, out);
}

VQ_TARGET_AVX512VNNI void sums_avx512vnni(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels,
                                          std::size_t n, std::size_t d, std::int16_t* scratch, float* out) {
  sums_body(queries, nq, levels, n, d, scratch, out);
}
#endif

// The four bytes from `at` on, or as many as the row has.
std::uint32_t four_bytes(const std::uint8_t* row, std::size_t at, std::size_t row_bytes) {
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < 4 && at + i < row_bytes; ++i) word |= std::uint32_t{row[at + i]} << (8 * i);
  return word;
}

}  // namespace

void decode_levels(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, std::size_t d, int bits, int window,
                   const std::int8_t* table, std::int8_t* levels) {
  const std::uint32_t mask = (1u << window) - 1;
  // Eight fields are `bits` whole bytes; the windows of eight coordinates lie in the 64-bit word that begins with them,
  // since 7 * bits + window <= 64 (the bindings see to it).
  const std::size_t whole = row_bytes >= 8 ? (row_bytes - 8) / static_cast<std::size_t>(bits) + 1 : 0;
  for (std::size_t r = 0; r < n; ++r) {
    const std::uint8_t* row = codes + r * row_bytes;
    std::int8_t* out = levels + r * d;
    std::size_t t = 0;
    for (std::size_t group = 0; group < whole && t + 8 <= d; ++group, t += 8) {
      std::uint64_t word = 0;
      for (int i = 0; i < 8; ++i) word |= std::uint64_t{row[group * bits + i]} << (8 * i);
      for (int i = 0; i < 8; ++i) out[t + i] = table[(word >> (i * bits)) & mask];
    }
    for (; t < d; ++t) {
      const std::size_t bit = t * bits;
      out[t] = table[(four_bytes(row, bit / 8, row_bytes) >> (bit % 8)) & mask];
    }
  }
}

std::size_t sums_scratch(std::size_t d) { return kRows * d; }

void integer_sums(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n, std::size_t d,
                  std::int16_t* scratch, float* out, const std::string& isa) {
#ifdef VQ_X86
  if (isa == "avx512vnni" || isa == "avx512vbmi") return sums_avx512vnni(queries, nq, levels, n, d, scratch, out);
  if (isa == "avx512") return sums_avx512(queries, nq, levels, n, d, scratch, out);
  if (isa == "avx2") return sums_avx2(queries, nq, levels, n, d, scratch, out);
#endif
  sums_scalar(queries, nq, levels, n, d, scratch, out);
}

}  // namespace vqindex
