// Owns the tables of one codec, and gives the views of them that the encoder takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "encode.hpp"

namespace vqindex {

class CodecTables {
 public:
  // `signs` has kRounds * dim signs of the rotation, and `source` its dim sources (see Hadamard).
  CodecTables(const float* signs, std::vector<std::uint32_t> source, int bits, bool cosine, bool renormalized,
              float cell_scale)
      : round_factors_(kRounds * source.size()), source_(std::move(source)) {
    const std::size_t dim = source_.size();
    if (dim < 1 || bits < 1 || bits > 8 || *std::max_element(source_.begin(), source_.end()) >= dim)
      throw std::invalid_argument("expected bits 1..8, signs (3, dim) and sources (dim,) below dim");
    round_factors(dim, signs, source_.data(), round_factors_.data());
    views_ = {{dim, round_factors_.data(), source_.data()},
              bits,
              cosine,
              renormalized,
              cell_scale,
              nullptr,
              nullptr,
              nullptr};
  }
  CodecTables(const CodecTables&) = delete;
  CodecTables& operator=(const CodecTables&) = delete;

  // Makes it a scalar code of 2^bits cells, which must be symmetric about 0. Only the positive halves are kept.
  void set_codebook(const std::vector<float>& thresholds, const std::vector<std::int16_t>& levels) {
    const std::size_t cells = std::size_t{1} << views_.bits, half = cells / 2;
    if (thresholds.size() != cells - 1 || levels.size() != cells)
      throw std::invalid_argument("expected 2^bits - 1 thresholds and 2^bits levels");
    bool symmetric = thresholds[half - 1] == 0.0f && std::is_sorted(thresholds.begin(), thresholds.end());
    for (std::size_t i = 0; i < half; ++i)
      symmetric &= thresholds[i] == -thresholds[cells - 2 - i] && levels[i] == -levels[cells - 1 - i];
    if (!symmetric) throw std::invalid_argument("expected ascending thresholds and levels that are symmetric about 0");
    if (*std::min_element(levels.begin() + half, levels.end()) <= 0)
      throw std::invalid_argument("expected no level of 0");
    thresholds_.assign(thresholds.begin() + half, thresholds.end());
    levels_.assign(levels.begin() + half, levels.end());
    views_.thresholds = thresholds_.data();
    views_.levels = levels_.data();
  }

  // Makes it a trellis code of 2^window levels. For the other arguments see TrellisSpec and TrellisCode; the search
  // works on levels times `fraction`.
  void set_trellis(std::vector<std::int8_t> levels, int fraction, int window, int limit, int gain, int start_mask,
                   float grid) {
    if (!is_trellis(views_.bits, window, gain) || levels.size() != std::size_t{1} << window)
      throw std::invalid_argument(kTrellisExpected);
    trellis_levels_ = std::move(levels);
    std::vector<std::int16_t> scaled;
    for (std::int8_t level : trellis_levels_) scaled.push_back(static_cast<std::int16_t>(level * fraction));
    search_levels_ = TrellisLevels(scaled);
    trellis_ = {search_levels_.spec(views_.bits, window, limit, gain, start_mask), trellis_levels_.data(), grid};
    views_.trellis = &trellis_;
  }

  // The views, once a codebook or a trellis is set.
  const EncodeTables& views() const {
    if (!views_.levels && !views_.trellis)
      throw std::invalid_argument("the tables have no codebook and no trellis yet");
    return views_;
  }

 private:
  std::vector<float> round_factors_, thresholds_;
  std::vector<std::uint32_t> source_;
  std::vector<std::int32_t> levels_;
  std::vector<std::int8_t> trellis_levels_;
  TrellisLevels search_levels_;
  TrellisCode trellis_{};
  EncodeTables views_{};
};

}  // namespace vqindex
