// The Viterbi search of trellis codes (definition: vqindex/codes/trellis.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace vqindex {

// The cost that the search minimizes. Each coordinate shifts `bits` new bits into a window of `window` bits, which
// looks up a level t. The cost of level t for value v is (clamp(v - t, +-limit) << gain)^2 >> 16. The costs of
// window / bits coordinates add up to 32767 at most.
struct TrellisSpec {
  const std::int16_t* levels;  // in units of v; v - t fits 16 bits
  std::size_t level_count;
  const std::uint16_t* place_of_window;  // [2^window], in `levels`
  int bits;                              // 1 to 4
  int window;                            // see is_trellis
  int limit;
  int gain;
  int start_mask;  // bits of the first state that must be 0: the highest bits of its fields, or none
};

// The levels of a trellis code, each once. Windows with one level have one cost, which the search computes once for all
// of them: the codes of 256 and 512 windows have 98 to 148 levels.
class TrellisLevels {
 public:
  TrellisLevels() = default;
  explicit TrellisLevels(const std::vector<std::int16_t>& level_of_window);

  // Views of these levels, and the rest of the cost.
  TrellisSpec spec(int bits, int window, int limit, int gain, int start_mask) const {
    return {levels_.data(), levels_.size(), place_of_window_.data(), bits, window, limit, gain, start_mask};
  }

 private:
  std::vector<std::int16_t> levels_;            // ascending
  std::vector<std::uint16_t> place_of_window_;  // in `levels_`
};

// Whether there is a search for such a code, and what one must be like.
constexpr bool is_trellis(int bits, int window, int gain) {
  return bits >= 1 && bits <= 4 && window > bits && window <= 12 && window % bits == 0 && gain >= 0 && gain <= 3;
}
constexpr const char* kTrellisExpected =
    "expected bits 1..4, a window of whole fields, bits < window <= 12, gain 0..3, and a table of 2^window levels";

// Vectors of one search, one per lane. The search reads and writes the values of lanes that have no vector, too.
constexpr std::size_t kTrellisLanes = 32;

// Bytes of scratch memory, aligned to 64, of a search for vectors of d values.
std::size_t trellis_scratch(std::size_t d, const TrellisSpec& spec);

// Searches for kTrellisLanes vectors of d values, [d][lane]. Writes the window of each coordinate, [d][lane], and the
// `window - bits` oldest bits of the first window, [lane]. `isa` is one of supported_isas(). The loops are compiled for
// "avx2"; all of "avx512" have a step of their own; other names run the baseline.
void trellis_search(const std::int16_t* values, std::size_t d, const TrellisSpec& spec, void* scratch,
                    std::uint16_t* windows, std::uint16_t* starts, const std::string& isa);

// Searches for n vectors of d values, row by row. Writes for each d fields of `bits` bits, and its start.
void trellis_fields(const std::int16_t* rows, std::size_t n, std::size_t d, const TrellisSpec& spec,
                    std::uint8_t* fields, std::uint16_t* starts, const std::string& isa);

}  // namespace vqindex
