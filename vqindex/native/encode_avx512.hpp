// The steps of encoding (see PlainSteps) for AVX-512. A column of 16 vectors is one register, and the values that a
// step transposes, adds or packs stay in registers. Only encode.cpp includes this.
#pragma once

#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>

#include "encode_cells.hpp"

#define VQ_T VQ_TARGET_AVX512
#define VQ_STEP VQ_TARGET_AVX512 __attribute__((noinline))

namespace vqindex {

struct Avx512Steps {
  using Column = __m512;

  // ---- rows and columns

  // Transposes 16 rows of 16 values of 32 bits: floats or packed fields, because shuffles don't interpret values.
  VQ_T VQ_INLINE static void transpose(Column (&r)[16]) {
    Column a[16], b[16];
    VQ_UNROLL
    for (int i = 0; i < 16; i += 2) {
      a[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
      a[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    VQ_UNROLL
    for (int i = 0; i < 16; i += 4) transpose_pairs(a + i, b + i);
    // b[i + c] now has columns c, 4 + c, 8 + c and 12 + c of rows i to i + 3, a quarter of the register each.
    VQ_UNROLL
    for (int c = 0; c < 4; ++c) {
      const Column even = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x88), odd = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xdd);
      const Column even2 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x88);
      const Column odd2 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xdd);
      r[c] = _mm512_shuffle_f32x4(even, even2, 0x88);
      r[4 + c] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
      r[8 + c] = _mm512_shuffle_f32x4(even, even2, 0xdd);
      r[12 + c] = _mm512_shuffle_f32x4(odd, odd2, 0xdd);
    }
  }

  VQ_T VQ_INLINE static void transpose_pairs(const Column* from, Column* to) {
    const __m512d a = _mm512_castps_pd(from[0]), b = _mm512_castps_pd(from[1]);
    const __m512d c = _mm512_castps_pd(from[2]), d = _mm512_castps_pd(from[3]);
    to[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    to[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    to[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    to[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }

  VQ_T VQ_INLINE static __m512i magnitude(Column value) {
    return _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7fffffff));
  }

  VQ_STEP static void load(const float* const (&rows)[kLanes], std::size_t d, float* columns,
                           std::int32_t (&peak)[kLanes]) {
    __m512i peaks = _mm512_setzero_si512();
    std::size_t begin = 0;
    for (; begin + 16 <= d; begin += 16) load_tile(rows, begin, 16, columns, peaks);
    if (begin < d) load_tile(rows, begin, static_cast<int>(d - begin), columns, peaks);
    _mm512_store_si512(peak, peaks);
  }

  VQ_T VQ_INLINE static void load_tile(const float* const (&rows)[kLanes], std::size_t begin, int width, float* columns,
                                       __m512i& peaks) {
    const __mmask16 some = static_cast<__mmask16>((1u << width) - 1);
    Column tile[16];
    VQ_UNROLL
    for (int i = 0; i < 16; ++i) tile[i] = _mm512_maskz_loadu_ps(some, rows[i] + begin);
    transpose(tile);
    VQ_UNROLL
    for (int i = 0; i < 16; ++i) {
      if (i >= width) continue;
      _mm512_store_ps(columns + (begin + i) * kLanes, tile[i]);
      peaks = _mm512_max_epi32(peaks, magnitude(tile[i]));
    }
  }

  // ---- sums of float64
  //
  // A float's exponent and mantissa bits, moved to where a double has them, are the double |x| * 2^-896 (1023 - 127).
  // That takes one shift or one integer multiplication for every second lane, instead of a conversion and half a
  // shuffle. The other factor of a product is made 2^896 times larger. The product of two floats is exact in float64,
  // so the fused multiply-add rounds once, like the addition in the reference.

  static constexpr std::int64_t kBias = std::int64_t{1023 - 127} << 52;

  // Returns |x| * 2^-896 of the even and of the odd lanes. `size` has the bits of the magnitudes |x|.
  VQ_T VQ_INLINE static __m512i even(__m512i size) { return _mm512_mul_epu32(size, _mm512_set1_epi64(1 << 29)); }
  VQ_T VQ_INLINE static __m512i odd(__m512i size) {
    return _mm512_and_si512(_mm512_srli_epi64(size, 3), _mm512_set1_epi64(-(std::int64_t{1} << 29)));
  }

  // Eight of the 32 partial sums, of the even and the odd lanes: those of coordinates j to j + 7, j + 32 to j + 39, ...
  struct Partials {
    __m512d even[8], odd[8];
  };

  VQ_T VQ_INLINE static void clear(Partials& sums) {
    VQ_UNROLL
    for (int c = 0; c < 8; ++c) sums.even[c] = sums.odd[c] = _mm512_setzero_pd();
  }

  VQ_T VQ_INLINE static void add(Partials& sums, int c, __m512i even, __m512d times_even, __m512i odd,
                                 __m512d times_odd) {
    sums.even[c] = _mm512_fmadd_pd(_mm512_castsi512_pd(even), times_even, sums.even[c]);
    sums.odd[c] = _mm512_fmadd_pd(_mm512_castsi512_pd(odd), times_odd, sums.odd[c]);
  }

  // Adds up the 32 partial sums in the order of sum64: p and p + 16, then p and p + 8, 4, 2, 1.
  VQ_T VQ_INLINE static void total(Partials (&sums)[4], LaneDoubles& out) {
    VQ_UNROLL
    for (int half = 16; half > 0; half /= 2) {
      for (int p = 0; p < half; ++p) {
        Partials &a = sums[p / 8], &b = sums[(p + half) / 8];
        a.even[p % 8] = _mm512_add_pd(a.even[p % 8], b.even[(p + half) % 8]);
        a.odd[p % 8] = _mm512_add_pd(a.odd[p % 8], b.odd[(p + half) % 8]);
      }
    }
    const __m512i low = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), high = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    _mm512_store_pd(out, _mm512_permutex2var_pd(sums[0].even[0], low, sums[0].odd[0]));
    _mm512_store_pd(out + 8, _mm512_permutex2var_pd(sums[0].even[0], high, sums[0].odd[0]));
  }

  // ---- scaling

  VQ_STEP static void scale(float* columns, std::size_t d, const float* power, const std::int32_t* limit,
                            LaneDoubles& norm2) {
    Partials all[4];
    const Column powers = _mm512_load_ps(power);
    const __m512i limits = _mm512_load_si512(limit);
    for (std::size_t first = 0; first < 32; first += 8) {
      Partials sums;
      clear(sums);
      std::size_t j = first;
      for (; j + 8 <= d; j += 32) scale_eight(columns + j * kLanes, 8, powers, limits, sums);
      if (j < d) scale_eight(columns + j * kLanes, static_cast<int>(d - j), powers, limits, sums);
      all[first / 8] = sums;
    }
    total(all, norm2);
  }

  VQ_T VQ_INLINE static void scale_eight(float* columns, int count, Column power, __m512i limit, Partials& sums) {
    VQ_UNROLL
    for (int c = 0; c < 8; ++c) {
      if (c >= count) continue;
      const Column raw = _mm512_load_ps(columns + c * kLanes);
      const Column value = _mm512_maskz_mul_ps(_mm512_cmpge_epi32_mask(magnitude(raw), limit), raw, power);
      _mm512_store_ps(columns + c * kLanes, value);
      const __m512i size = magnitude(value), a = even(size), b = odd(size), bias = _mm512_set1_epi64(2 * kBias);
      // Adding the bias turns a 0 into a power of two, but that is multiplied by 0.
      add(sums, c, a, _mm512_castsi512_pd(_mm512_add_epi64(a, bias)), b,
          _mm512_castsi512_pd(_mm512_add_epi64(b, bias)));
    }
  }

  // ---- rotation

  // Runs the butterfly stages of half-width Half and up on Radix columns.
  template <int Half = 1, int Radix>
  VQ_T VQ_INLINE static void run_stages(Column (&v)[Radix]) {
    if constexpr (Half < Radix) {
      VQ_UNROLL
      for (int i = 0; i < Radix / 2; ++i) {
        const int upper = i / Half * 2 * Half + i % Half;
        const Column a = v[upper], b = v[upper + Half];
        v[upper] = _mm512_add_ps(a, b);
        v[upper + Half] = _mm512_sub_ps(a, b);
      }
      run_stages<2 * Half>(v);
    }
  }

  // Runs all stages on Radix columns, multiplies them by `scale` if Scaled, and stores them `stride` columns apart.
  template <bool Scaled, int Radix>
  VQ_T VQ_INLINE static void run_and_store(Column (&v)[Radix], float scale, float* to, std::size_t stride) {
    run_stages(v);
    VQ_UNROLL
    for (int k = 0; k < Radix; ++k)
      _mm512_store_ps(to + k * stride * kLanes, Scaled ? _mm512_mul_ps(v[k], _mm512_set1_ps(scale)) : v[k]);
  }

  // Runs the first stages of a round on columns `begin` to `begin + size`. All rounds but the first read permuted
  // columns.
  template <int Radix, bool Permuted, bool Scaled>
  VQ_T VQ_INLINE static void first_loop(const Hadamard& tables, int round, const float* in, std::size_t begin,
                                        std::size_t size, float scale, float* out) {
    const float* factors = tables.factors + round * tables.dim;
    const std::uint32_t* source = tables.source;
    for (std::size_t j = begin; j < begin + size; j += Radix) {
      Column v[Radix];
      VQ_UNROLL
      for (int k = 0; k < Radix; ++k) {
        const std::size_t from = Permuted ? source[j + k] : j + k;
        v[k] = _mm512_mul_ps(_mm512_load_ps(in + from * kLanes), _mm512_set1_ps(factors[j + k]));
      }
      run_and_store<Scaled>(v, scale, out + j * kLanes, 1);
    }
  }

  template <int Radix>
  VQ_STEP static void first_stages(const Hadamard& tables, int round, const float* in, std::size_t begin,
                                   std::size_t size, float scale, float* out) {
    if (round == 0) return first_loop<Radix, false, false>(tables, round, in, begin, size, scale, out);
    if (scale == 1.0f) return first_loop<Radix, true, false>(tables, round, in, begin, size, scale, out);
    first_loop<Radix, true, true>(tables, round, in, begin, size, scale, out);
  }

  // Runs the last stages of a chunk: those of half-width `half` and up.
  template <int Radix, bool Scaled>
  VQ_T VQ_INLINE static void last_loop(float* columns, std::size_t half, float scale) {
    for (std::size_t j = 0; j < half; ++j) {
      Column v[Radix];
      VQ_UNROLL
      for (int k = 0; k < Radix; ++k) v[k] = _mm512_load_ps(columns + (j + k * half) * kLanes);
      run_and_store<Scaled>(v, scale, columns + j * kLanes, half);
    }
  }

  template <int Radix>
  VQ_STEP static void last_stages(float* columns, std::size_t half, float scale) {
    if (scale == 1.0f) return last_loop<Radix, false>(columns, half, scale);
    last_loop<Radix, true>(columns, half, scale);
  }

  VQ_STEP static void chunk(const Hadamard& tables, int round, const float* in, std::size_t begin, std::size_t size,
                            float scale, float* out) {
    switch (size) {
      case 1:
        return first_stages<1>(tables, round, in, begin, size, scale, out);
      case 2:
        return first_stages<2>(tables, round, in, begin, size, scale, out);
      case 4:
        return first_stages<4>(tables, round, in, begin, size, scale, out);
      case 8:
        return first_stages<8>(tables, round, in, begin, size, scale, out);
      case 16:
        return first_stages<16>(tables, round, in, begin, size, scale, out);
    }
    // Up to 256 columns (16 KB, in the first-level cache) take two passes. Longer chunks are done in parts of 128 or
    // 256 columns, so that only the last pass reads from further away. It has four stages at most.
    const std::size_t radix = size <= 256 ? size / 16 : size <= 1024 ? size / 128 : size == 2048 ? 8 : 16;
    const std::size_t part_size = size / radix;
    if (part_size == 16)
      first_stages<16>(tables, round, in, begin, size, 1.0f, out);
    else
      for (std::size_t at = 0; at < size; at += part_size) chunk(tables, round, in, begin + at, part_size, 1.0f, out);
    float* columns = out + begin * kLanes;
    switch (radix) {
      case 2:
        return last_stages<2>(columns, part_size, scale);
      case 4:
        return last_stages<4>(columns, part_size, scale);
      case 8:
        return last_stages<8>(columns, part_size, scale);
      default:
        return last_stages<16>(columns, part_size, scale);
    }
  }

  // A stage adds to each half of a pair the other one, or subtracts it from that.
  VQ_STEP static void short_stages(float* values, std::size_t n) {
    for (std::size_t begin = 0; begin < n; begin += 16) {
      Column v = _mm512_loadu_ps(values + begin), turned = _mm512_permute_ps(v, 0xb1);
      v = _mm512_mask_sub_ps(_mm512_add_ps(turned, v), 0xaaaa, turned, v);
      turned = _mm512_permute_ps(v, 0x4e);
      v = _mm512_mask_sub_ps(_mm512_add_ps(turned, v), 0xcccc, turned, v);
      turned = _mm512_shuffle_f32x4(v, v, 0xb1);
      v = _mm512_mask_sub_ps(_mm512_add_ps(turned, v), 0xf0f0, turned, v);
      turned = _mm512_shuffle_f32x4(v, v, 0x4e);
      v = _mm512_mask_sub_ps(_mm512_add_ps(turned, v), 0xff00, turned, v);
      _mm512_storeu_ps(values + begin, v);
    }
  }

  VQ_STEP static void rotate(const Hadamard& tables, float* columns, float* other) {
    for (int round = 0; round < kRounds; ++round) {
      const float* in = round == 2 ? other : columns;
      float* out = round == 1 ? other : columns;
      std::size_t begin = 0;
      for (std::size_t size = std::size_t{1} << 31; size > 0; size /= 2) {
        if (!(tables.dim & size)) continue;
        chunk(tables, round, in, begin, size, round == kRounds - 1 ? chunk_scale(size) : 1.0f, out);
        begin += size;
      }
    }
  }

  // ---- quantizing

  // The positive thresholds in the units of each lane, and the levels of the positive cells.
  template <int Bits>
  struct Cells {
    static constexpr int kCells = 1 << (Bits - 1);
    __m512i threshold[kCells];
    __m512i level;          // upper halves of the levels' bits as doubles, times 2^896; the lower halves are zero
    __m512i first, second;  // the first two, in all lanes
  };

  VQ_T VQ_INLINE static __m512d upper(__m512i bits) {
    return _mm512_castsi512_pd(_mm512_and_si512(bits, _mm512_set1_epi64(-(std::int64_t{1} << 32))));
  }

  // Returns for each lane its own threshold: number `at` plus the bits, from Known on, of the count found so far.
  template <int Bits, int Known>
  VQ_T VQ_INLINE static __m512i threshold(const Cells<Bits>& cells, const __mmask16 (&mask)[4], int at) {
    if constexpr (Known == Bits - 1)
      return cells.threshold[at];
    else
      return _mm512_mask_blend_epi32(mask[Known], threshold<Bits, Known + 1>(cells, mask, at),
                                     threshold<Bits, Known + 1>(cells, mask, at + (1 << Known)));
  }

  // Counts the thresholds that each lane passes; bit b of the count is in mask[b]. This is bisection: the middle
  // threshold decides the highest bit, the middle one of the remaining half the next bit, and so on.
  template <int Bits, int Bit = Bits - 2>
  VQ_T VQ_INLINE static void search(const Cells<Bits>& cells, __m512i reached, __mmask16 (&mask)[4]) {
    if constexpr (Bit >= 0) {
      const __m512i middle = threshold<Bits, Bit + 1>(cells, mask, (1 << Bit) - 1);
      mask[Bit] = _mm512_cmpgt_epi32_mask(reached, middle);
      search<Bits, Bit - 1>(cells, reached, mask);
    }
  }

  // Returns the fields of eight coordinates, and adds their terms of <y, yhat>: |y| times the level of |y|'s cell.
  template <int Bits>
  VQ_T VQ_INLINE static __m512i quantize_eight(const Cells<Bits>& cells, const float* rotated,
                                               const std::uint32_t* source, int count, Partials& sums) {
    constexpr std::uint32_t kCells = Cells<Bits>::kCells;
    // If m thresholds are passed, the field is kCells + m above zero and kCells - 1 - m below. The first is kCells XOR
    // m, the second has all its bits inverted.
    std::uint32_t start = 0;
    for (int c = 0; c < count; ++c) start |= kCells << (c * Bits);
    __m512i fields = _mm512_set1_epi32(static_cast<int>(start));
    VQ_UNROLL
    for (int c = 0; c < 8; ++c) {
      if (c >= count) continue;
      const Column y = _mm512_load_ps(rotated + source[c] * kLanes);
      const __mmask16 below = _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_LE_OQ);
      const __m512i size = magnitude(y), one = _mm512_set1_epi32(1);
      __mmask16 mask[4];
      search<Bits>(cells, _mm512_mask_add_epi32(size, below, size, one), mask);
      fields = _mm512_mask_xor_epi32(fields, below, fields,
                                     _mm512_set1_epi32(static_cast<int>((2 * kCells - 1) << (c * Bits))));
      __m512i level = cells.first;
      if constexpr (Bits == 2) {
        fields = _mm512_mask_xor_epi32(fields, mask[0], fields, _mm512_set1_epi32(1 << (c * Bits)));
        level = _mm512_mask_blend_epi32(mask[0], cells.first, cells.second);
      } else if constexpr (Bits > 2) {
        __m512i passed = _mm512_maskz_mov_epi32(mask[0], one);
        VQ_UNROLL
        for (int b = 1; b <= Bits - 2; ++b)
          passed = _mm512_mask_or_epi32(passed, mask[b], passed, _mm512_set1_epi32(1 << b));
        fields = _mm512_xor_si512(fields, _mm512_slli_epi32(passed, c * Bits));
        level = _mm512_permutexvar_epi32(passed, cells.level);
      }
      add(sums, c, even(size), _mm512_castsi512_pd(_mm512_slli_epi64(level, 32)), odd(size), upper(level));
    }
    return fields;
  }

  // ORs the 8 * Bits lowest bits of each lane into `words`, after `group` groups of eight fields.
  template <int Bits>
  VQ_T VQ_INLINE static void put(__m512i fields, std::size_t group, std::uint32_t* words) {
    const std::size_t at = group * 8 * Bits, shift = at % 32;
    std::uint32_t* word = words + at / 32 * kLanes;
    const __m512i shifted = _mm512_sll_epi32(fields, _mm_cvtsi32_si128(static_cast<int>(shift)));
    _mm512_store_si512(word, _mm512_or_si512(shifted, _mm512_load_si512(word)));
    if (shift + 8 * Bits > 32)
      _mm512_store_si512(word + kLanes,
                         _mm512_or_si512(_mm512_srl_epi32(fields, _mm_cvtsi32_si128(static_cast<int>(32 - shift))),
                                         _mm512_load_si512(word + kLanes)));
  }

  VQ_STEP static void store_words(const std::uint32_t* words, std::size_t bytes, std::size_t lanes, std::uint8_t* out) {
    for (std::size_t begin = 0; begin < bytes; begin += 64) {
      Column tile[16];
      VQ_UNROLL
      for (int i = 0; i < 16; ++i) tile[i] = _mm512_load_ps(words + (begin / 4 + i) * kLanes);
      transpose(tile);
      const __mmask64 some = ~__mmask64{0} >> (bytes - begin < 64 ? 64 - (bytes - begin) : 0);
      VQ_UNROLL
      for (int i = 0; i < 16; ++i)
        if (i < static_cast<int>(lanes))
          _mm512_mask_storeu_epi8(out + i * bytes + begin, some, _mm512_castps_si512(tile[i]));
    }
  }

  template <int Bits>
  VQ_STEP static void quantize(const EncodeTables& tables, const float* rotated, const float* scale, std::size_t lanes,
                               const float* next, std::uint8_t* scratch, std::uint8_t* codes, LaneDoubles& dot) {
    if constexpr (Bits > 4)
      vqindex::quantize<Bits>(tables, rotated, scale, lanes, next, scratch, codes, dot);
    else
      quantize_words<Bits>(tables, rotated, scale, lanes, next, scratch, codes, dot);
  }

  // Quantizes to fields of up to four bits, which are collected in words of 32 bits.
  template <int Bits>
  VQ_T VQ_INLINE static void quantize_words(const EncodeTables& tables, const float* rotated, const float* scale,
                                            std::size_t lanes, const float* next, std::uint8_t* scratch,
                                            std::uint8_t* codes, LaneDoubles& dot) {
    const std::size_t d = tables.rotation.dim, bytes = code_bytes(tables);
    std::uint32_t* words = reinterpret_cast<std::uint32_t*>(scratch);
    std::memset(words, 0,
                kLanes * packed_stride(tables));  // with its slack: the last group may touch a word past the end
    Cells<Bits> cells;
    alignas(kAlign) std::int32_t level[16] = {};
    for (int k = 0; k < Cells<Bits>::kCells; ++k) {
      const double value = tables.levels[k];
      std::int64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      level[k] = static_cast<std::int32_t>((bits + kBias) >> 32);
      if (k + 1 < Cells<Bits>::kCells)
        cells.threshold[k] =
            _mm512_castps_si512(_mm512_mul_ps(_mm512_set1_ps(tables.thresholds[k]), _mm512_load_ps(scale)));
    }
    cells.level = _mm512_load_si512(level);
    cells.first = _mm512_set1_epi32(level[0]);
    cells.second = _mm512_set1_epi32(level[1]);
    Partials all[4];
    std::size_t line = 0;
    for (std::size_t first = 0; first < 32; first += 8) {
      Partials sums;
      clear(sums);
      const std::uint32_t* source = tables.rotation.source;
      std::size_t j = first;
      for (; j + 8 <= d; j += 32) {
        put<Bits>(quantize_eight<Bits>(cells, rotated, source + j, 8, sums), j / 8, words);
        fetch_ahead(next, line, 8);
        line += 8;
      }
      if (j < d)
        put<Bits>(quantize_eight<Bits>(cells, rotated, source + j, static_cast<int>(d - j), sums), j / 8, words);
      all[first / 8] = sums;
    }
    total(all, dot);
    store_words(words, bytes, lanes, codes);
  }
};

}  // namespace vqindex

#undef VQ_T
#endif
