// The Viterbi search for 32 vectors side by side, one vector per lane.
//
//   cost[level][lane]         of each level for the values of one coordinate
//   path[state][lane]         cost of the best path into the state
//   choice[t][state][bit]     the way back: a word of 32 lanes for each bit of the branch that won. It is written once
//                             and read once, so its size decides whether it stays in the cache.
//
// Costs are unsigned and have 16 bits. K = window / bits coordinates determine a state, and their costs add up to M K
// <= 32767. So all paths are within M (K - 1) of the best, and the least cost need not be subtracted after every
// coordinate: it is subtracted after every K, when no path costs more than M (2 K - 1) <= 65535. A start that is
// forbidden costs 32768. This exceeds the cost of every other path for the K - 1 coordinates that leave a trace of the
// start in the state, and 32768 + M (K - 1) fits 16 bits. Only differences of costs decide, so the paths are those of
// the definition, which subtracts the least cost after every coordinate.
#include "trellis.hpp"

#include <algorithm>
#include <utility>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "trellis_plain.hpp"
#include "trellis_x86.hpp"

namespace vqindex {
namespace {

constexpr std::uint16_t kForbidden = 32768;
constexpr std::size_t kLanes = kTrellisLanes;

std::size_t states_of(const TrellisSpec& spec) { return std::size_t{1} << (spec.window - spec.bits); }
std::size_t choice_words(const TrellisSpec& spec) { return states_of(spec) * static_cast<std::size_t>(spec.bits); }

// Views into the caller's scratch.
struct Scratch {
  TrellisLanes* cost;  // [level]
  TrellisLanes* path;  // [state]
  TrellisLanes* next;
  std::uint32_t* choice;  // [t][state][bit]
  std::uint32_t* levels;  // each twice in a word, as Steps::costs takes them

  Scratch(void* memory, std::size_t d, const TrellisSpec& spec)
      : cost(static_cast<TrellisLanes*>(memory)),
        path(cost + spec.level_count),
        next(path + states_of(spec)),
        choice(reinterpret_cast<std::uint32_t*>(next + states_of(spec))),
        levels(choice + d * choice_words(spec)) {}
};

// ---- the search

// Follows the choices from the cheapest last state of each lane to its first. Ties take the lowest state.
template <int Bits>
VQ_INLINE void trace_back(const Scratch& s, std::size_t d, const TrellisSpec& spec, std::uint16_t* windows,
                          std::uint16_t* starts) {
  const std::size_t states = std::size_t{1} << (spec.window - Bits);
  std::uint32_t state[kLanes] = {};
  for (std::size_t i = 0; i < kLanes; ++i)
    for (std::size_t other = 1; other < states; ++other)
      if (s.path[other][i] < s.path[state[i]][i]) state[i] = static_cast<std::uint32_t>(other);
  // All lanes take each step back together. Each waits for its own choice to come from memory; so they wait at once.
  const std::uint32_t mask = static_cast<std::uint32_t>(states - 1);
  for (std::size_t t = d; t-- > 0;) {
    const std::uint32_t* choice = s.choice + t * states * Bits;
    for (std::size_t i = 0; i < kLanes; ++i) {
      const std::uint32_t* words = choice + state[i] * Bits;
      std::uint32_t window = state[i] << Bits;
      for (int bit = 0; bit < Bits; ++bit) window |= (words[bit] >> i & 1) << bit;
      windows[t * kLanes + i] = static_cast<std::uint16_t>(window);
      state[i] = window & mask;
    }
  }
  for (std::size_t i = 0; i < kLanes; ++i) starts[i] = static_cast<std::uint16_t>(state[i]);
}

template <typename Steps, int Bits>
VQ_INLINE void search_width(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, Scratch s,
                            std::uint16_t* windows, std::uint16_t* starts) {
  const std::size_t states = std::size_t{1} << (spec.window - Bits);
  const std::size_t period = static_cast<std::size_t>(spec.window / Bits);
  for (std::size_t state = 0; state < states; ++state)
    std::fill_n(s.path[state], kLanes, (static_cast<int>(state) & spec.start_mask) ? kForbidden : std::uint16_t{0});
  for (std::size_t level = 0; level < spec.level_count; ++level)
    s.levels[level] = static_cast<std::uint16_t>(spec.levels[level] * (1 << Steps::doubled(spec))) * 0x10001u;
  for (std::size_t t = 0; t < d; ++t) {
    Steps::costs(values + t * kLanes, spec, s.levels, s.cost);
    Steps::template paths<Bits>(spec, s.cost, s.path, s.next, s.choice + t * states * Bits);
    std::swap(s.path, s.next);
    if ((t + 1) % period == 0) Steps::subtract_least(s.path, states);
  }
  trace_back<Bits>(s, d, spec, windows, starts);
}

template <typename Steps>
VQ_INLINE void search(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                      std::uint16_t* windows, std::uint16_t* starts) {
  const Scratch s(scratch, d, spec);
  switch (spec.bits) {
    case 1:
      return search_width<Steps, 1>(values, d, spec, s, windows, starts);
    case 2:
      return search_width<Steps, 2>(values, d, spec, s, windows, starts);
    case 3:
      return search_width<Steps, 3>(values, d, spec, s, windows, starts);
    default:
      return search_width<Steps, 4>(values, d, spec, s, windows, starts);
  }
}

void search_plain(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                  std::uint16_t* windows, std::uint16_t* starts) {
  search<PlainTrellisSteps>(values, d, spec, scratch, windows, starts);
}

#ifdef VQ_X86
VQ_TARGET_AVX2 void search_avx2(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                                std::uint16_t* windows, std::uint16_t* starts) {
  search<Avx2TrellisSteps>(values, d, spec, scratch, windows, starts);
}

VQ_TARGET_AVX512 void search_avx512(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                                    std::uint16_t* windows, std::uint16_t* starts) {
  search<Avx512TrellisSteps>(values, d, spec, scratch, windows, starts);
}
#endif

}  // namespace

TrellisLevels::TrellisLevels(const std::vector<std::int16_t>& level_of_window) : levels_(level_of_window) {
  std::sort(levels_.begin(), levels_.end());
  levels_.erase(std::unique(levels_.begin(), levels_.end()), levels_.end());
  for (const std::int16_t level : level_of_window)
    place_of_window_.push_back(
        static_cast<std::uint16_t>(std::lower_bound(levels_.begin(), levels_.end(), level) - levels_.begin()));
}

std::size_t trellis_scratch(std::size_t d, const TrellisSpec& spec) {
  const std::size_t words = d * choice_words(spec) + spec.level_count;
  return (spec.level_count + 2 * states_of(spec)) * sizeof(TrellisLanes) + words * sizeof(std::uint32_t);
}

void trellis_search(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                    std::uint16_t* windows, std::uint16_t* starts, [[maybe_unused]] const std::string& isa) {
#ifdef VQ_X86
  if (width_of(isa) == Width::avx512) return search_avx512(values, d, spec, scratch, windows, starts);
  if (width_of(isa) == Width::avx2) return search_avx2(values, d, spec, scratch, windows, starts);
#endif
  search_plain(values, d, spec, scratch, windows, starts);
}

void trellis_fields(const std::int16_t* rows, std::size_t n, std::size_t d, const TrellisSpec& spec,
                    std::uint8_t* fields, std::uint16_t* starts, const std::string& isa) {
  Buffer<std::uint8_t> scratch(trellis_scratch(d, spec));
  Buffer<std::int16_t> values(d * kLanes);
  Buffer<std::uint16_t> windows(d * kLanes), first(kLanes);
  for (std::size_t row = 0; row < n; row += kLanes) {
    const std::size_t lanes = std::min(kLanes, n - row);
    for (std::size_t i = 0; i < lanes; ++i)
      for (std::size_t t = 0; t < d; ++t) values[t * kLanes + i] = rows[(row + i) * d + t];
    trellis_search(values.data(), d, spec, scratch.data(), windows.data(), first.data(), isa);
    for (std::size_t i = 0; i < lanes; ++i)
      for (std::size_t t = 0; t < d; ++t)
        fields[(row + i) * d + t] = static_cast<std::uint8_t>(windows[t * kLanes + i] >> (spec.window - spec.bits));
    std::copy_n(first.data(), lanes, starts + row);
  }
}

}  // namespace vqindex
