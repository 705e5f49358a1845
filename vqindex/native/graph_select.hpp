// Distances between rows, and the choice of a row's links among candidates (codes/graph.py).
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "buffer.hpp"
#include "graph_link.hpp"
#include "graph_walk.hpp"

namespace vqindex {

// The distance of one row from others, by the cosine of their codes.
struct RowDistance {
  bool has_norm;
  float inverse, norm;  // of the row
  Lift lift;

  VQ_INLINE float operator()(std::int32_t sum, float other_inverse, float other_norm) const {
    const float cosine = static_cast<float>(sum) * (other_inverse * inverse);
    float distance =
        has_norm ? (other_norm * other_norm + norm * norm) - 2.0f * (other_norm * norm * cosine) : 1.0f - cosine;
    if (lift.is_on) distance += lift.climb_to(other_norm);
    return std::max(distance, 0.0f);
  }
};

// Decodes rows, to levels of padded(dim, 64) bytes, and knows the lengths of the decoded rows.
class RowDecoder {
 public:
  RowDecoder(const LinkRequest& request, const Kernels& kernels)
      : stride(padded(request.code.fields.dim, 64)),
        code_(request.code),
        records_(request.records),
        kernels_(kernels),
        inverse_norms_(request.links.rows) {
    lift_.is_on = records_.layout().has_norm && !code_.distance;
    ones_.resize(stride);
    std::fill_n(ones_.begin(), code_.fields.dim, std::int8_t{1});
  }

  const std::size_t stride;

  // Takes the ceiling of the first `count` rows; before threads ask for distances.
  void set_ceiling(std::size_t count) {
    if (!lift_.is_on || !count) return;
    std::vector<float> norms(std::min(count, kNorms));
    for (std::size_t i = 0; i < norms.size(); ++i)
      norms[i] = norm_of(static_cast<std::uint32_t>(i * count / norms.size()));
    const auto at = norms.begin() + static_cast<std::ptrdiff_t>(norms.size() * 99 / 100);
    std::nth_element(norms.begin(), at, norms.end());
    lift_.ceiling = *at;
  }

  void decode(std::uint32_t row, std::int8_t* levels) const {
    const RecordLayout& layout = records_.layout();
    const std::uint8_t* record = records_.of(row);
    kernels_.decode_s8(code_.fields, record + layout.code_at, layout.code_bytes, record, levels);
  }

  // Decoded levels as a query.
  NarrowQuery query_of(const std::int8_t* levels) const {
    std::int32_t total;
    const NarrowQuery ones{ones_.data(), static_cast<std::int32_t>(128 * code_.fields.dim)};
    kernels_.dot_many_s8s8(&levels, stride, 1, ones, &total);
    return {levels, 128 * total};
  }

  // Computed when it is first asked for: a call may link few rows to many. Threads that compute it at the same time
  // write the same value.
  float inverse_norm_of(std::uint32_t row) const {
    const float known = inverse_norms_[row].load(std::memory_order_relaxed);
    return known != 0.0f ? known : compute_inverse_norm(row);
  }
  float norm_of(std::uint32_t row) const { return records_.layout().norm_of(records_.of(row)); }

  RowDistance distances_from(std::uint32_t row) const {
    return {records_.layout().has_norm, inverse_norm_of(row), norm_of(row), lift_.from(norm_of(row))};
  }
  // How sums of a row's levels and others' become link scores.
  WalkScore link_scores_for(std::uint32_t row) const {
    const float square = static_cast<float>(2 * code_.multiplier * code_.multiplier);
    return {records_.layout().has_norm, square * records_.layout().rescale_of(records_.of(row)),
            lift_.from(norm_of(row))};
  }

 private:
  static constexpr std::size_t kNorms = 4096;  // rows whose norms tell the ceiling

  float compute_inverse_norm(std::uint32_t row) const {
    Buffer<std::int8_t> levels(stride);
    decode(row, levels.data());
    const double square = static_cast<double>(kernels_.square_s8(levels.data(), stride));
    const float inverse = square > 0 ? static_cast<float>(1.0 / std::sqrt(square)) : 0.0f;
    inverse_norms_[row].store(inverse, std::memory_order_relaxed);
    return inverse;
  }

  const Code& code_;
  const Records& records_;
  const Kernels& kernels_;
  mutable std::vector<std::atomic<float>> inverse_norms_;  // 0 until they are computed
  Buffer<std::int8_t> ones_;
  Lift lift_;
};

class LinkSelector {
 public:
  LinkSelector(const LinkRequest& request, const Kernels& kernels, const RowDecoder& decoder)
      : request_(request),
        kernels_(kernels),
        decoder_(decoder),
        query_levels_(decoder_.stride),
        scratch_(decoder_.stride) {}

  // Makes the keys of rows by their distances from one row, and sorts them.
  void sort_by_distance(std::uint32_t row, const std::vector<std::uint32_t>& rows, std::vector<Key>& keys) {
    const RecordLayout& layout = request_.records.layout();
    decoder_.decode(row, query_levels_.data());
    const NarrowQuery query = decoder_.query_of(query_levels_.data());
    const RowDistance distance = decoder_.distances_from(row);
    keys.clear();
    for (std::size_t at = 0; at < rows.size(); at += kAtOnce) {
      const std::size_t count = std::min(kAtOnce, rows.size() - at);
      const std::uint8_t* records[kAtOnce];
      std::int32_t sums[kAtOnce];
      for (std::size_t i = 0; i < count; ++i) {
        records[i] = request_.records.of(rows[at + i]);
        prefetch_lines(records[i], layout.size);
      }
      kernels_.decode_dot_s8s8(request_.code.fields, records, layout.code_at, layout.code_bytes, count, query,
                               scratch_.data(), sums);
      for (std::size_t i = 0; i < count; ++i)
        keys.push_back(key_of(-distance(sums[i], decoder_.inverse_norm_of(rows[at + i]), layout.norm_of(records[i])),
                              rows[at + i]));
    }
    std::sort(keys.begin(), keys.end());
  }

  // Chooses the links of a row among candidates, whose keys have their distances from it and are sorted. Those in
  // `keep` are chosen in any case. Returns the links, the parent first; kNoRow if there is none.
  void select(const std::vector<Key>& candidates, const std::vector<std::uint32_t>& keep, std::uint32_t parent,
              std::vector<std::uint32_t>& links) {
    begin(candidates, keep);
    const LinkRule& rule = request_.rule;
    const float factors[kPasses] = {1.0f, (1.0f + rule.alpha) / 2.0f, rule.alpha};
    for (std::size_t pass = 0; pass < kPasses; ++pass) take_unoccluded(candidates, pass, factors[pass]);
    std::size_t count = taken_count_;
    for (std::size_t j = 0; j < candidates.size() && count < rule.kept / 2; ++j) {
      count += !states_[j].is_taken;
      states_[j].is_taken = true;
    }
    links.clear();
    if (parent != kNoRow) links.push_back(parent);
    for (std::size_t j = 0; j < candidates.size() && links.size() < rule.slots; ++j)
      if (states_[j].is_taken && row_of(candidates[j]) != parent) links.push_back(row_of(candidates[j]));
  }

 private:
  static constexpr std::size_t kAtOnce = 64;
  static constexpr std::size_t kCompared = 8;  // rows taken that a candidate is compared with at once

  static constexpr std::size_t kPasses = 3;

  // A candidate, and how far it is compared with the rows that were taken before it. The nearer ones of these are, of
  // each pass, those from its start to `end`: of a pass, nearer rows are taken first.
  struct State {
    bool is_kept, is_taken;
    std::int32_t offset;   // of its levels as a query
    float nearest;         // the smallest distance from a row that it is compared with
    std::size_t pass, at;  // the next row to compare
    std::size_t end[kPasses];
  };

  void begin(const std::vector<Key>& candidates, const std::vector<std::uint32_t>& keep) {
    const std::size_t count = candidates.size();
    levels_.resize(std::max(levels_.size(), count * decoder_.stride));
    states_.resize(count);
    reserved_ = taken_count_ = 0;
    for (std::size_t j = 0; j < count; ++j) {
      const bool is_kept = std::find(keep.begin(), keep.end(), row_of(candidates[j])) != keep.end();
      reserved_ += is_kept;
      states_[j] = {is_kept, false, 0, std::numeric_limits<float>::infinity(), 0, 0, {}};
    }
    most_ = std::max(request_.rule.kept, reserved_);
    taken_levels_.resize(most_);
    taken_inverse_.resize(most_);
    taken_norm_.resize(most_);
  }

  bool has_room() const { return taken_count_ + reserved_ < most_; }

  void take(std::size_t j, std::uint32_t row) {
    taken_levels_[taken_count_] = levels_of(j);
    taken_inverse_[taken_count_] = decoder_.inverse_norm_of(row);
    taken_norm_[taken_count_++] = decoder_.norm_of(row);
    reserved_ -= states_[j].is_kept;
    states_[j].is_taken = true;
  }

  // Takes candidates to which no row taken before, and nearer, is nearer than the row itself by a factor.
  void take_unoccluded(const std::vector<Key>& candidates, std::size_t pass, float factor) {
    start_[pass] = taken_count_;
    for (std::size_t j = 0; j < candidates.size() && (has_room() || reserved_); ++j) {
      State& state = states_[j];
      if (state.is_taken || (!state.is_kept && !has_room())) continue;
      const std::uint32_t row = row_of(candidates[j]);
      if (!pass) {
        if (j + 1 < candidates.size()) prefetch_row(row_of(candidates[j + 1]));
        decoder_.decode(row, levels_of(j));
        if (!state.is_kept) state.offset = decoder_.query_of(levels_of(j)).offset;
      }
      state.end[pass] = taken_count_;
      if (state.is_kept || !is_occluded(j, row, pass, factor, -score_of(candidates[j]))) take(j, row);
    }
  }

  // Goes on comparing a candidate with rows taken, until one occludes it.
  bool is_occluded(std::size_t j, std::uint32_t row, std::size_t pass, float factor, float distance) {
    State& state = states_[j];
    if (factor * state.nearest <= distance) return true;
    const NarrowQuery query{levels_of(j), state.offset};
    const RowDistance distance_to = decoder_.distances_from(row);
    for (;; state.at = start_[++state.pass]) {
      while (state.at < state.end[state.pass]) {
        const std::size_t count = std::min(kCompared, state.end[state.pass] - state.at);
        std::int32_t sums[kCompared];
        kernels_.dot_many_s8s8(taken_levels_.data() + state.at, decoder_.stride, count, query, sums);
        for (std::size_t i = 0; i < count; ++i, ++state.at)
          state.nearest =
              std::min(state.nearest, distance_to(sums[i], taken_inverse_[state.at], taken_norm_[state.at]));
        if (factor * state.nearest <= distance) return true;
      }
      if (state.pass == pass) return false;
    }
  }

  std::int8_t* levels_of(std::size_t j) { return levels_.data() + j * decoder_.stride; }

  VQ_INLINE void prefetch_row(std::uint32_t row) const {
    prefetch_lines(request_.records.of(row), request_.records.layout().size);
  }

  const LinkRequest& request_;
  const Kernels& kernels_;
  const RowDecoder& decoder_;
  Buffer<std::int8_t> query_levels_, scratch_;
  // Of the candidates of one row.
  Buffer<std::int8_t> levels_;
  std::vector<State> states_;
  // Of those taken, in this order.
  std::vector<const std::int8_t*> taken_levels_;
  std::vector<float> taken_inverse_, taken_norm_;
  std::size_t taken_count_ = 0, reserved_ = 0, most_ = 0;
  std::size_t start_[kPasses] = {};  // rows taken before each pass
};

}  // namespace vqindex
