// Rows that a filter leaves, brought together so that kernels meet full blocks of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "kernels.hpp"
#include "scan.hpp"

namespace vqindex {

constexpr std::size_t kGather = 32;                           // rows met in a batch that cost as much as gathering one
constexpr std::size_t kGathered = std::size_t{1} << 16;       // most rows gathered at a time
constexpr std::size_t kGatheredBytes = std::size_t{1} << 21;  // of their sign plane, unless rows are very long

inline std::uint64_t first_bits(std::size_t count) {
  return count < kBlockRows ? (std::uint64_t{1} << count) - 1 : ~std::uint64_t{0};
}

// Rows from `first`, a multiple of 64, to `last` that the one filter for all queries leaves.
inline std::size_t count_allowed(const Rows& rows, std::size_t first, std::size_t last) {
  std::size_t count = 0;
  for (std::size_t at = first; at < last; at += kBlockRows)
    count += count_bits(rows.allowed[at / kBlockRows] & first_bits(last - at));
  return count;
}

// Signs and scalars of gathered rows are copied, their codes stay where they are.
class Gathered {
 public:
  Gathered(const Rows& from, std::size_t sign_bytes, std::size_t most)
      : from_(from), sign_bytes_(from.signs ? sign_bytes : 0) {
    const std::size_t fit = kGatheredBytes / std::max<std::size_t>(sign_bytes_, 1) / kBlockRows * kBlockRows;
    room_ = std::min(padded(most, kBlockRows), std::clamp(fit, 16 * kBlockRows, kGathered));
    signs_.resize(room_ * sign_bytes_);
    number_.reserve(room_);
    factor_.reserve(room_);
    if (from.norm) norm_.reserve(room_);
  }

  // Takes rows from `at` on, whole blocks of 64, until there is no room for another; returns where it stopped.
  std::size_t fill(std::size_t at, std::size_t last) {
    number_.clear();
    factor_.clear();
    norm_.clear();
    for (; at < last; at += kBlockRows) {
      const std::uint64_t word = from_.allowed[at / kBlockRows] & first_bits(last - at);
      if (!word) continue;
      if (number_.size() + count_bits(word) > room_) break;
      take(at, word);
    }
    return at;
  }

  Rows rows() const {
    Rows rows = from_;
    rows.signs = from_.signs ? signs_.data() : nullptr;
    rows.factor = factor_.data();
    rows.norm = from_.norm ? norm_.data() : nullptr;
    rows.count = number_.size();
    rows.allowed = nullptr;
    rows.number = number_.data();
    return rows;
  }

 private:
  void take(std::size_t at, std::uint64_t word) {
    std::uint8_t place[kBlockRows];
    std::size_t count = 0;
    for (std::uint64_t bits = word; bits; bits &= bits - 1)
      place[count++] = static_cast<std::uint8_t>(lowest_bit(bits));
    const std::size_t slot = number_.size();
    for (std::size_t i = 0; i < count; ++i) {
      number_.push_back(at + place[i]);
      factor_.push_back(from_.factor[at + place[i]]);
      if (from_.norm) norm_.push_back(from_.norm[at + place[i]]);
    }
    const std::uint8_t* source = from_.signs + at * sign_bytes_;
    for (std::size_t i = 0; sign_bytes_ && i < count;) {
      const std::size_t to = slot + i, some = std::min(count - i, kBlockRows - to % kBlockRows);
      std::uint8_t* target = signs_.data() + to / kBlockRows * kBlockRows * sign_bytes_ + to % kBlockRows;
      for (std::size_t j = 0; j < sign_bytes_ * kBlockRows; j += kBlockRows)
        for (std::size_t r = 0; r < some; ++r) target[j + r] = source[j + place[i + r]];
      i += some;
    }
  }

  const Rows& from_;
  std::size_t sign_bytes_, room_;
  Buffer<std::uint8_t> signs_;
  std::vector<std::size_t> number_;
  std::vector<float> factor_, norm_;
};

}  // namespace vqindex
