// The Viterbi search for 32 vectors side by side, one vector per lane. At each step all lanes look at the same window
// and the same level, so the inner loops are plain int16 arithmetic over lanes, which the compiler vectorizes. All
// instruction sets run the same body, and int16 arithmetic has one result.
//
//   path[state][lane]       cost of the best path into the state; the least cost is subtracted after every coordinate
//   choice[t][byte][lane]   the way back: the oldest bits of the window that won, for the states that share a byte. It
//                           is written once and read once, so its size decides whether it stays in the cache.
#include "trellis.hpp"

#include <algorithm>
#include <utility>

#include "isa.hpp"

namespace vqindex {
namespace {

constexpr int kLanes = 32;
using Lane16 = std::int16_t[kLanes];

// Views into the caller's scratch.
struct Scratch {
  std::int16_t* values;  // [t][lane]
  std::int16_t* path;    // [state][lane]
  std::int16_t* next;
  std::uint8_t* choice;  // [t][byte][lane]

  Scratch(std::int16_t* memory, std::size_t d, std::size_t states)
      : values(memory),
        path(values + d * kLanes),
        next(path + states * kLanes),
        choice(reinterpret_cast<std::uint8_t*>(next + states * kLanes)) {}
};

// How many states' choices share a byte.
constexpr std::size_t byte_states(int bits) { return bits == 1 ? 8 : bits == 2 ? 4 : 2; }

VQ_INLINE std::size_t choice_bytes(std::size_t states, int bits) {
  return (states + byte_states(bits) - 1) / byte_states(bits);
}

// One coordinate: the best path into each state. `forbidden` has the bits of a window that must be 0. If there are any
// (Open is false), the highest bit of the oldest field is one of them, so half as many branches are open.
template <int Bits, bool Open>
VQ_INLINE void step(const std::int16_t* v, const TrellisSpec& spec, int forbidden, const std::int16_t* path,
                    std::int16_t* next, std::uint8_t* choice) {
  constexpr int kBranches = Open ? 1 << Bits : 1 << (Bits - 1);
  const int states = 1 << (spec.window - Bits);
  const std::int16_t limit = static_cast<std::int16_t>(spec.limit);
  alignas(64) Lane16 least;
  for (int i = 0; i < kLanes; ++i) least[i] = 32767;
  constexpr int kByteStates = byte_states(Bits);
  for (int first = 0; first < states; first += kByteStates) {
    alignas(64) Lane16 winners = {};
    for (int member = 0; member < std::min(kByteStates, states); ++member) {
      const int state = first + member;
      if (!Open && (state << Bits & forbidden)) continue;  // the next step forbids this state's windows, too
      alignas(64) Lane16 best, winner;
      for (int branch = 0; branch < kBranches; ++branch) {
        const int window = (state << Bits) | branch;
        const std::int16_t level = spec.table[window];
        const std::int16_t choice_bits = static_cast<std::int16_t>(branch << (member * Bits));
        const std::int16_t* from = path + (window & (states - 1)) * kLanes;
        for (int i = 0; i < kLanes; ++i) {
          std::int16_t x = static_cast<std::int16_t>(v[i] - level);
          x = std::min(std::max(x, static_cast<std::int16_t>(-limit)), limit);
          x = static_cast<std::int16_t>(static_cast<std::uint16_t>(x) << spec.gain);
          const std::int16_t cost = static_cast<std::int16_t>(from[i] + static_cast<std::int16_t>((x * x) >> 16));
          // Ties keep the lower branch.
          const bool better = branch == 0 || cost < best[i];
          best[i] = better ? cost : best[i];
          winner[i] = better ? choice_bits : winner[i];
        }
      }
      for (int i = 0; i < kLanes; ++i) {
        next[state * kLanes + i] = best[i];
        least[i] = std::min(least[i], best[i]);
        winners[i] = static_cast<std::int16_t>(winners[i] | winner[i]);
      }
    }
    for (int i = 0; i < kLanes; ++i) choice[first / kByteStates * kLanes + i] = static_cast<std::uint8_t>(winners[i]);
  }
  for (int state = 0; state < states; ++state)
    for (int i = 0; i < kLanes; ++i)
      next[state * kLanes + i] = static_cast<std::int16_t>(next[state * kLanes + i] - least[i]);
}

template <int Bits>
VQ_INLINE void encode_block(const std::int16_t* rows, std::size_t lanes, std::size_t d, const TrellisSpec& spec,
                            Scratch& s, std::uint8_t* fields, std::uint16_t* starts) {
  const int states = 1 << (spec.window - Bits);
  const std::size_t bytes = choice_bytes(states, Bits);
  for (std::size_t t = 0; t < d; ++t)
    for (std::size_t i = 0; i < kLanes; ++i) s.values[t * kLanes + i] = i < lanes ? rows[i * d + t] : std::int16_t{0};
  std::fill(s.path, s.path + states * kLanes, std::int16_t{0});  // all starts that are not forbidden cost nothing
  for (std::size_t t = 0; t < d; ++t) {
    const int forbidden = t * Bits < 16 ? spec.start_mask >> (t * Bits) : 0;
    std::uint8_t* choice = &s.choice[t * bytes * kLanes];
    if (forbidden)
      step<Bits, false>(&s.values[t * kLanes], spec, forbidden, s.path, s.next, choice);
    else
      step<Bits, true>(&s.values[t * kLanes], spec, 0, s.path, s.next, choice);
    std::swap(s.path, s.next);
  }
  constexpr int kByteStates = byte_states(Bits);
  int state[kLanes] = {};
  const int forbidden = d * Bits < 16 ? spec.start_mask >> (d * Bits) : 0;
  for (std::size_t i = 0; i < lanes; ++i) {
    for (int other = 1; other < states; ++other)
      if (!(other & forbidden) && s.path[other * kLanes + i] < s.path[state[i] * kLanes + i]) state[i] = other;
  }
  // All lanes take each step back together. Each waits for its own choice to come from memory; so they wait at once.
  for (std::size_t t = d; t-- > 0;) {
    const std::uint8_t* choice = s.choice + t * bytes * kLanes;
    for (std::size_t i = 0; i < lanes; ++i) {
      const int choices = choice[state[i] / kByteStates * kLanes + i] >> (state[i] % kByteStates * Bits);
      const int window = (state[i] << Bits) | (choices & ((1 << Bits) - 1));
      fields[i * d + t] = static_cast<std::uint8_t>(window >> (spec.window - Bits));
      state[i] = window & (states - 1);
    }
  }
  for (std::size_t i = 0; i < lanes; ++i) starts[i] = static_cast<std::uint16_t>(state[i]);
}

VQ_INLINE void encode_all(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                          std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts) {
  const std::size_t states = std::size_t{1} << (spec.window - spec.bits);
  Scratch s(scratch, d, states);
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min<std::size_t>(kLanes, n - row);
    const std::int16_t* rows = values + row * d;
    switch (spec.bits) {
      case 1:
        encode_block<1>(rows, lanes, d, spec, s, fields + row * d, starts + row);
        break;
      case 2:
        encode_block<2>(rows, lanes, d, spec, s, fields + row * d, starts + row);
        break;
      case 3:
        encode_block<3>(rows, lanes, d, spec, s, fields + row * d, starts + row);
        break;
      default:
        encode_block<4>(rows, lanes, d, spec, s, fields + row * d, starts + row);
        break;
    }
  }
}

void encode_scalar(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                   std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts) {
  encode_all(values, n, d, spec, scratch, fields, starts);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void encode_avx2(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                                std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts) {
  encode_all(values, n, d, spec, scratch, fields, starts);
}

VQ_TARGET_AVX512 void encode_avx512(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                                    std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts) {
  encode_all(values, n, d, spec, scratch, fields, starts);
}
#endif

}  // namespace

std::size_t trellis_scratch(std::size_t d, const TrellisSpec& spec) {
  const std::size_t states = std::size_t{1} << (spec.window - spec.bits);
  return kLanes * (d + 2 * states + (d * choice_bytes(states, spec.bits) + 1) / 2);
}

void trellis_encode(const std::int16_t* values, std::size_t n, std::size_t d, const TrellisSpec& spec,
                    std::int16_t* scratch, std::uint8_t* fields, std::uint16_t* starts,
                    [[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (isa.rfind("avx512", 0) == 0) return encode_avx512(values, n, d, spec, scratch, fields, starts);
  if (isa == "avx2") return encode_avx2(values, n, d, spec, scratch, fields, starts);
#endif
  encode_scalar(values, n, d, spec, scratch, fields, starts);
}

}  // namespace vqindex
