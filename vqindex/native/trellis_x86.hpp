// The steps of the trellis search for AVX2 and AVX-512; see PlainTrellisSteps. Only trellis.cpp includes this.
#pragma once

#include "isa.hpp"

#ifdef VQ_X86
#include <immintrin.h>

#include <cstring>

#include "trellis_plain.hpp"

namespace vqindex {

// ---- the steps for AVX2: a register holds half of the lanes

#define VQ_T VQ_TARGET_AVX2
#define VQ_STEP VQ_TARGET_AVX2 __attribute__((noinline))

struct Avx2TrellisSteps {
  static int doubled(const TrellisSpec&) { return 0; }

  VQ_STEP static void costs(const std::int16_t* values, const TrellisSpec& spec, const std::uint32_t* levels,
                            TrellisLanes* cost) {
    const __m256i limit = _mm256_set1_epi16(static_cast<std::int16_t>(spec.limit));
    const __m128i shift = _mm_cvtsi32_si128(spec.gain);
    const __m256i v[2] = {load(values), load(values + 16)};
    for (std::size_t level = 0; level < spec.level_count; ++level) {
      const __m256i t = _mm256_set1_epi32(static_cast<int>(levels[level]));
      VQ_UNROLL
      for (int half = 0; half < 2; ++half) {
        const __m256i x = _mm256_min_epu16(_mm256_abs_epi16(_mm256_subs_epi16(v[half], t)), limit);
        const __m256i y = _mm256_sll_epi16(x, shift);
        store(cost[level] + 16 * half, _mm256_mulhi_epu16(y, y));
      }
    }
  }

  template <int Bits>
  VQ_STEP static void paths(const TrellisSpec& spec, const TrellisLanes* cost, const TrellisLanes* path,
                            TrellisLanes* next, std::uint32_t* choice) {
    constexpr std::size_t kBranches = std::size_t{1} << Bits;
    const std::size_t states = std::size_t{1} << (spec.window - Bits);
    for (std::size_t half = 0; half < 2; ++half) {
      const std::uint16_t* place = spec.place_of_window;
      std::uint8_t* words = reinterpret_cast<std::uint8_t*>(choice) + 2 * half;
      for (std::size_t state = 0; state < states; ++state, place += kBranches, words += 4 * Bits) {
        const TrellisLanes* from = path + (state * kBranches & (states - 1));
        __m256i tree[2 * kBranches];  // as in PlainTrellisSteps
        VQ_UNROLL
        for (std::size_t branch = 0; branch < kBranches; ++branch)
          tree[kBranches + branch] =
              _mm256_add_epi16(load(from[branch] + 16 * half), load(cost[place[branch]] + 16 * half));
        VQ_UNROLL
        for (std::size_t node = kBranches - 1; node > 0; --node)
          tree[node] = _mm256_min_epu16(tree[2 * node], tree[2 * node + 1]);
        store(next[state] + 16 * half, tree[1]);
        winner<Bits, Bits - 1>(tree, words);
      }
    }
  }

  // Writes half of the words of the winner's bits from `Bit` down.
  template <int Bits, int Bit>
  VQ_T VQ_INLINE static void winner(__m256i* tree, std::uint8_t* words) {
    if constexpr (Bit >= 0) {
      const __m256i lower_won = _mm256_cmpeq_epi16(tree[std::size_t{1} << (Bits - Bit)], tree[1]);
      const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(lower_won), _mm256_extracti128_si256(lower_won, 1));
      const std::uint16_t upper = static_cast<std::uint16_t>(~_mm_movemask_epi8(bytes));
      std::memcpy(words + 4 * Bit, &upper, sizeof upper);
      VQ_UNROLL
      for (int lower = Bit - 1; lower >= 0; --lower) {
        const std::size_t at = std::size_t{1} << (Bits - lower), half = std::size_t{1} << (Bit - lower);
        VQ_UNROLL
        for (std::size_t node = at; node < at + half; node += 2)
          tree[node] = _mm256_blendv_epi8(tree[node + half], tree[node], lower_won);
      }
      winner<Bits, Bit - 1>(tree, words);
    }
  }

  VQ_STEP static void subtract_least(TrellisLanes* path, std::size_t states) {
    PlainTrellisSteps::subtract_least(path, states);
  }

  VQ_T VQ_INLINE static __m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  VQ_T VQ_INLINE static void store(void* p, __m256i x) { _mm256_store_si256(static_cast<__m256i*>(p), x); }
};

#undef VQ_T
#undef VQ_STEP

// ---- the steps for AVX-512: a register holds all lanes, and a comparison gives their word

#define VQ_T VQ_TARGET_AVX512
#define VQ_STEP VQ_TARGET_AVX512 __attribute__((noinline))

struct Avx512TrellisSteps {
  // Doubling before the difference saves a shift of every difference, and the limit hides that the difference
  // saturates.
  static int doubled(const TrellisSpec& spec) { return spec.gain > 0 ? 1 : 0; }

  VQ_STEP static void costs(const std::int16_t* values, const TrellisSpec& spec, const std::uint32_t* levels,
                            TrellisLanes* cost) {
    switch (spec.gain - doubled(spec)) {
      case 0:
        return shifted_costs<0>(values, spec, levels, cost);
      case 1:
        return shifted_costs<1>(values, spec, levels, cost);
      default:
        return shifted_costs<2>(values, spec, levels, cost);
    }
  }

  template <int Shift>
  VQ_T VQ_INLINE static void shifted_costs(const std::int16_t* values, const TrellisSpec& spec,
                                           const std::uint32_t* levels, TrellisLanes* cost) {
    const __m512i v = _mm512_slli_epi16(_mm512_load_si512(values), static_cast<unsigned>(doubled(spec)));
    const __m512i limit = _mm512_set1_epi16(static_cast<std::int16_t>(spec.limit << doubled(spec)));
    for (std::size_t level = 0; level < spec.level_count; ++level) {
      const __m512i t = _mm512_set1_epi32(static_cast<int>(levels[level]));
      const __m512i x = _mm512_min_epu16(_mm512_abs_epi16(_mm512_subs_epi16(v, t)), limit);
      const __m512i y = Shift ? _mm512_slli_epi16(x, Shift) : x;
      _mm512_store_si512(cost[level], _mm512_mulhi_epu16(y, y));
    }
  }

  template <int Bits>
  VQ_STEP static void paths(const TrellisSpec& spec, const TrellisLanes* cost, const TrellisLanes* path,
                            TrellisLanes* next, std::uint32_t* choice) {
    constexpr std::size_t kBranches = std::size_t{1} << Bits;
    const std::size_t states = std::size_t{1} << (spec.window - Bits);
    const std::uint16_t* place = spec.place_of_window;
    for (std::size_t state = 0; state < states; ++state, place += kBranches, choice += Bits) {
      const TrellisLanes* from = path + (state * kBranches & (states - 1));
      __m512i tree[2 * kBranches];  // as in PlainTrellisSteps
      VQ_UNROLL
      for (std::size_t branch = 0; branch < kBranches; ++branch)
        tree[kBranches + branch] =
            _mm512_add_epi16(_mm512_load_si512(from[branch]), _mm512_load_si512(cost[place[branch]]));
      VQ_UNROLL
      for (std::size_t node = kBranches - 1; node > 0; --node)
        tree[node] = _mm512_min_epu16(tree[2 * node], tree[2 * node + 1]);
      _mm512_store_si512(next[state], tree[1]);
      winner<Bits, Bits - 1>(tree, choice);
    }
  }

  // Writes the words of the winner's bits from `Bit` down.
  template <int Bits, int Bit>
  VQ_T VQ_INLINE static void winner(__m512i* tree, std::uint32_t* choice) {
    if constexpr (Bit >= 0) {
      const __mmask32 upper = _mm512_cmpneq_epi16_mask(tree[std::size_t{1} << (Bits - Bit)], tree[1]);
      choice[Bit] = _cvtmask32_u32(upper);
      VQ_UNROLL
      for (int lower = Bit - 1; lower >= 0; --lower) {
        const std::size_t at = std::size_t{1} << (Bits - lower), half = std::size_t{1} << (Bit - lower);
        VQ_UNROLL
        for (std::size_t node = at; node < at + half; node += 2)
          tree[node] = _mm512_mask_blend_epi16(upper, tree[node], tree[node + half]);
      }
      winner<Bits, Bit - 1>(tree, choice);
    }
  }

  VQ_STEP static void subtract_least(TrellisLanes* path, std::size_t states) {
    __m512i least = _mm512_load_si512(path[0]);
    for (std::size_t state = 1; state < states; ++state)
      least = _mm512_min_epu16(least, _mm512_load_si512(path[state]));
    for (std::size_t state = 0; state < states; ++state)
      _mm512_store_si512(path[state], _mm512_sub_epi16(_mm512_load_si512(path[state]), least));
  }
};

#undef VQ_T
#undef VQ_STEP

}  // namespace vqindex
#endif
