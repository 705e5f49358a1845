// Splits code rows eight fields at a time, by pext where the processor has it.
#include "bitplanes.hpp"

#include <algorithm>
#include <cstring>

#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>
#endif

namespace vqindex {
namespace {

// extract(): gathers the bits of `word` where `mask` has ones into the low bits, as pext does.
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

// Returns `size` bytes of a row from `at` on, or as many as it has.
VQ_INLINE std::uint64_t word_of(const std::uint8_t* row, std::size_t at, std::size_t size, std::size_t row_bytes) {
  std::uint64_t word = 0;
  if (at < row_bytes) std::memcpy(&word, row + at, std::min(size, row_bytes - at));
  return word;
}

VQ_INLINE std::uint64_t load(const std::uint8_t* from) {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// How many words of eight bytes fit in `bytes` bytes if one begins every `step` bytes.
VQ_INLINE std::size_t whole_words(std::size_t bytes, std::size_t step) {
  return bytes < 8 ? 0 : (bytes - 8) / step + 1;
}

// Splits eight fields at a time: they take `bits` whole bytes, and their rest takes bits - 1 bytes.
template <typename Bits>
VQ_INLINE void split_body(const std::uint8_t* codes, std::size_t n, const SplitLayout& layout, int bits,
                          std::size_t start, const SplitOutput& to) {
  std::uint64_t top = 0;
  for (int i = 0; i < 8; ++i) top |= std::uint64_t{1} << (i * bits + bits - 1);
  const std::uint64_t all = bits == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bits)) - 1;
  const std::size_t step = static_cast<std::size_t>(bits), row_bytes = layout.row_bytes;
  const std::size_t before = layout.warmup_fields * step;  // bits of the warm-up fields
  const bool whole_rows = layout.rest_bytes == kWholeRows, has_rest = step > 1 && !whole_rows;
  // So many groups of eight fields are read and written as whole words without checking for the end of the row. A word
  // writes past its group's own bytes, which the next groups then overwrite.
  std::size_t whole =
      std::min(layout.sign_bytes, before / 8 < row_bytes ? whole_words(row_bytes - before / 8, step) : 0);
  if (has_rest) whole = std::min(whole, whole_words(layout.rest_bytes, step - 1));
  for (std::size_t r = 0; r < n; ++r) {
    const std::uint8_t* row = codes + r * row_bytes;
    std::uint8_t* column = to.signs + (start + r) / 64 * 64 * layout.sign_bytes + (start + r) % 64;
    std::uint8_t* out = to.rest + (start + r) * to.rest_stride;
    if (whole_rows) std::memcpy(out, row, row_bytes);
    std::size_t j = 0;
    for (; j < whole; ++j) {
      const std::uint64_t word = load(row + j * step);
      const std::uint64_t others = Bits::extract(word, all & ~top);
      if (has_rest) std::memcpy(out + j * (step - 1), &others, sizeof others);
      const std::uint64_t own = before ? load(row + before / 8 + j * step) >> before % 8 : word;
      column[j * 64] = static_cast<std::uint8_t>(Bits::extract(own, top));
    }
    for (; j * step < row_bytes; ++j) {
      const std::uint64_t word = word_of(row, j * step, step, row_bytes);
      const std::uint64_t others = Bits::extract(word, all & ~top);
      const std::size_t at = j * (step - 1);
      if (has_rest && at < layout.rest_bytes)
        std::memcpy(out + at, &others, std::min(step - 1, layout.rest_bytes - at));
      if (j >= layout.sign_bytes) continue;
      const std::uint64_t own = before ? word_of(row, before / 8 + j * step, step + 1, row_bytes) >> before % 8 : word;
      column[j * 64] = static_cast<std::uint8_t>(Bits::extract(own, top));
    }
    if (!to.sign_rows) continue;
    std::uint8_t* sign_row = to.sign_rows + (start + r) * to.sign_row_stride;
    for (j = 0; j < layout.sign_bytes; ++j) sign_row[j] = column[j * 64];
  }
}

#ifdef VQ_X86
__attribute__((target("bmi2"))) void split_bmi(const std::uint8_t* codes, std::size_t n, const SplitLayout& layout,
                                               int bits, std::size_t start, const SplitOutput& to) {
  // With constant widths, the copies compile to single moves.
  switch (bits) {
    case 1:
      return split_body<Bmi>(codes, n, layout, 1, start, to);
    case 2:
      return split_body<Bmi>(codes, n, layout, 2, start, to);
    case 4:
      return split_body<Bmi>(codes, n, layout, 4, start, to);
    default:
      return split_body<Bmi>(codes, n, layout, bits, start, to);
  }
}
#endif

}  // namespace

void split_rows(const std::uint8_t* codes, std::size_t n, const SplitLayout& layout, int bits, std::size_t start,
                const SplitOutput& to) {
#ifdef VQ_X86
  if (__builtin_cpu_supports("bmi2")) return split_bmi(codes, n, layout, bits, start, to);
#endif
  split_body<Plain>(codes, n, layout, bits, start, to);
}

}  // namespace vqindex
