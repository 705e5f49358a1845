// Gathers the rows that a sparse selection leaves, so that kernels scan full blocks of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "selection.hpp"

namespace vqindex {

constexpr std::size_t kGatherCost = 32;  // gathering a row costs as much as scanning it for so many queries
constexpr std::size_t kGatherMaxRows = std::size_t{1} << 16;  // most rows gathered at a time
constexpr std::size_t kGatherSignBytes = std::size_t{1}
                                         << 21;  // most bytes of their sign bits, unless rows are very long

// Copies sign bits and scalars of gathered rows. Their codes stay where they are.
class GatheredRows {
 public:
  // `count`: how many rows there are to gather.
  GatheredRows(const SegmentView& from, std::size_t sign_bytes, std::size_t count)
      : from_(from), sign_bytes_(from.signs ? sign_bytes : 0) {
    const std::size_t fit = kGatherSignBytes / std::max<std::size_t>(sign_bytes_, 1) / kBlockRows * kBlockRows;
    capacity_ = std::min(padded(count, kBlockRows), std::clamp(fit, 16 * kBlockRows, kGatherMaxRows));
    signs_.resize(capacity_ * sign_bytes_);
    code_row_.reserve(capacity_);
    rescale_.reserve(capacity_);
    if (from.norm) norm_.reserve(capacity_);
  }

  // Gathers rows from `at` on, in whole blocks of 64, until another block would not fit. Returns where it stopped.
  std::size_t fill(std::size_t at, std::size_t last) {
    code_row_.clear();
    rescale_.clear();
    norm_.clear();
    for (; at < last; at += kBlockRows) {
      const std::uint64_t mask = from_.selection[at / kBlockRows] & first_bits(last - at);
      if (!mask) continue;
      if (code_row_.size() + count_bits(mask) > capacity_) break;
      gather_block(at, mask);
    }
    return at;
  }

  SegmentView view() const {
    SegmentView view = from_;
    view.signs = from_.signs ? signs_.data() : nullptr;
    view.rescale = {rescale_.data()};
    view.norm = {from_.norm ? norm_.data() : nullptr};
    view.count = code_row_.size();
    view.selection = nullptr;
    view.code_row = code_row_.data();
    return view;
  }

 private:
  void gather_block(std::size_t at, std::uint64_t mask) {
    std::uint8_t place[kBlockRows];
    std::size_t count = 0;
    for (std::uint64_t bits = mask; bits; bits &= bits - 1)
      place[count++] = static_cast<std::uint8_t>(lowest_bit(bits));
    const std::size_t slot = code_row_.size();
    for (std::size_t i = 0; i < count; ++i) {
      code_row_.push_back(at + place[i]);
      rescale_.push_back(from_.rescale[at + place[i]]);
      if (from_.norm) norm_.push_back(from_.norm[at + place[i]]);
    }
    // The rows go on in a block that is already begun, and then in the next one.
    const std::uint8_t* source = from_.signs + at * sign_bytes_;
    for (std::size_t i = 0; sign_bytes_ && i < count;) {
      const std::size_t to = slot + i, some = std::min(count - i, kBlockRows - to % kBlockRows);
      std::uint8_t* target = signs_.data() + to / kBlockRows * kBlockRows * sign_bytes_ + to % kBlockRows;
      for (std::size_t j = 0; j < sign_bytes_ * kBlockRows; j += kBlockRows)
        for (std::size_t r = 0; r < some; ++r) target[j + r] = source[j + place[i + r]];
      i += some;
    }
  }

  const SegmentView& from_;
  std::size_t sign_bytes_, capacity_;
  Buffer<std::uint8_t> signs_;
  std::vector<std::size_t> code_row_;
  std::vector<float> rescale_, norm_;
};

}  // namespace vqindex
