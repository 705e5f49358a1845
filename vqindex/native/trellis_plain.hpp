// The steps of the trellis search for one coordinate, in plain loops over lanes. Only trellis.cpp includes this.
#pragma once

#include <algorithm>

#include "isa.hpp"
#include "trellis.hpp"

#ifdef VQ_X86
#include <emmintrin.h>  // part of the baseline
#elif defined(VQ_ARM)
#include <arm_neon.h>
#endif

namespace vqindex {

using TrellisLanes = std::uint16_t[kTrellisLanes];

// Packs a flag of each lane, 0 or 65535, into a word.
VQ_INLINE std::uint32_t packed_flags(const TrellisLanes& flags) {
#ifdef VQ_X86
  const auto bits = [&](std::size_t at) {
    const __m128i* from = reinterpret_cast<const __m128i*>(flags + at);
    return static_cast<std::uint32_t>(
        _mm_movemask_epi8(_mm_packs_epi16(_mm_load_si128(from), _mm_load_si128(from + 1))));
  };
  return bits(0) | bits(16) << 16;
#elif defined(VQ_ARM)
  const std::uint8_t weights[8] = {1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x8_t weight = vld1_u8(weights);
  std::uint32_t word = 0;
  for (std::size_t at = 0; at < kTrellisLanes; at += 8)
    word |= std::uint32_t{vaddv_u8(vand_u8(vmovn_u16(vld1q_u16(flags + at)), weight))} << at;
  return word;
#else
  std::uint32_t word = 0;
  for (std::size_t i = 0; i < kTrellisLanes; ++i) word |= std::uint32_t{flags[i] & 1u} << i;
  return word;
#endif
}

// The steps, for any instruction set. `levels` has each level twice in a word, times 2^doubled.
struct PlainTrellisSteps {
  static int doubled(const TrellisSpec&) { return 0; }

  VQ_INLINE static void costs(const std::int16_t* values, const TrellisSpec& spec, const std::uint32_t*,
                              TrellisLanes* cost) {
    const std::int16_t limit = static_cast<std::int16_t>(spec.limit);
    for (std::size_t level = 0; level < spec.level_count; ++level) {
      const std::int16_t t = spec.levels[level];
      for (std::size_t i = 0; i < kTrellisLanes; ++i) {
        std::int16_t x = static_cast<std::int16_t>(values[i] - t);
        x = std::min(std::max(x, static_cast<std::int16_t>(-limit)), limit);
        x = static_cast<std::int16_t>(static_cast<std::uint16_t>(x) << spec.gain);
        cost[level][i] = static_cast<std::uint16_t>((x * x) >> 16);
      }
    }
  }

  // The best path into each state. The 2^Bits branches into a state form a binary tree; a node's cost is the lower one
  // of its two halves. From the root, each bit of the winner says whether the lower half costs more.
  template <int Bits>
  VQ_INLINE static void paths(const TrellisSpec& spec, const TrellisLanes* cost, const TrellisLanes* path,
                              TrellisLanes* next, std::uint32_t* choice) {
    constexpr std::size_t kBranches = std::size_t{1} << Bits;
    const std::size_t states = std::size_t{1} << (spec.window - Bits);
    const std::uint16_t* place = spec.place_of_window;
    for (std::size_t state = 0; state < states; ++state, place += kBranches, choice += Bits) {
      const TrellisLanes* from = path + (state * kBranches & (states - 1));
      alignas(64) TrellisLanes tree[2 * kBranches], flags[Bits];
      for (std::size_t branch = 0; branch < kBranches; ++branch) {
        const TrellisLanes& added = cost[place[branch]];
        for (std::size_t i = 0; i < kTrellisLanes; ++i)
          tree[kBranches + branch][i] = static_cast<std::uint16_t>(from[branch][i] + added[i]);
      }
      for (std::size_t node = kBranches - 1; node > 0; --node)
        for (std::size_t i = 0; i < kTrellisLanes; ++i)
          tree[node][i] = std::min(tree[2 * node][i], tree[2 * node + 1][i]);
      // Turns the tree's levels into the winner's bits from the top. After a level is done, the first nodes of the
      // levels below are those of the half that won.
      for (int bit = Bits - 1; bit >= 0; --bit) {
        const std::size_t first = std::size_t{1} << (Bits - bit);
        TrellisLanes& flag = flags[bit];
        for (std::size_t i = 0; i < kTrellisLanes; ++i)
          flag[i] = static_cast<std::uint16_t>(-static_cast<int>(tree[first][i] != tree[1][i]));
        for (int lower = bit - 1; lower >= 0; --lower) {
          const std::size_t at = std::size_t{1} << (Bits - lower), half = std::size_t{1} << (bit - lower);
          for (std::size_t node = at; node < at + half; node += 2)
            for (std::size_t i = 0; i < kTrellisLanes; ++i) {
              const unsigned lower_half = tree[node][i], upper_half = tree[node + half][i];
              tree[node][i] = static_cast<std::uint16_t>(lower_half ^ ((lower_half ^ upper_half) & flag[i]));
            }
        }
        choice[bit] = packed_flags(flag);
      }
      std::copy_n(tree[1], kTrellisLanes, next[state]);
    }
  }

  VQ_INLINE static void subtract_least(TrellisLanes* path, std::size_t states) {
    alignas(64) TrellisLanes least;
    std::copy_n(path[0], kTrellisLanes, least);
    for (std::size_t state = 1; state < states; ++state)
      for (std::size_t i = 0; i < kTrellisLanes; ++i) least[i] = std::min(least[i], path[state][i]);
    for (std::size_t state = 0; state < states; ++state)
      for (std::size_t i = 0; i < kTrellisLanes; ++i)
        path[state][i] = static_cast<std::uint16_t>(path[state][i] - least[i]);
  }
};

}  // namespace vqindex
