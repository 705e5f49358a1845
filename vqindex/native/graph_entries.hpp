// The rows that walks of a graph start from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "graph_records.hpp"
#include "kernels.hpp"
#include "lanes.hpp"

namespace vqindex {

constexpr std::size_t kFewEntries = 128;
constexpr std::size_t kMaxEntries = 8192;

// Of more than kFewEntries entries it holds what scores them, all levels together: their records lie far apart, and
// each would cost a cache miss and a decoding in every walk.
class EntryRows {
 public:
  EntryRows() = default;
  explicit EntryRows(std::vector<std::uint32_t> few) : rows_(std::move(few)) {}
  EntryRows(std::vector<std::uint32_t> rows, const Fields& fields, const Records& records, const Kernels& kernels)
      : rows_(std::move(rows)) {
    if (!are_many()) return;
    const RecordLayout& layout = records.layout();
    stride_ = padded(fields.dim, 64);
    decoded_.resize(rows_.size() * stride_);
    for (const std::uint32_t row : rows_) {
      const std::uint8_t* record = records.of(row);
      std::int8_t* levels = decoded_.data() + levels_.size() * stride_;
      kernels.decode_s8(fields, record + layout.code_at, layout.code_bytes, record, levels);
      levels_.push_back(levels);
      rescale_.push_back(layout.rescale_of(record));
      norm_.push_back(layout.norm_of(record));
    }
  }

  const std::vector<std::uint32_t>& rows() const { return rows_; }
  bool are_many() const { return rows_.size() > kFewEntries; }

  // Of many entries.
  const std::int8_t* const* levels() const { return levels_.data(); }
  std::size_t stride() const { return stride_; }
  float rescale(std::size_t i) const { return rescale_[i]; }
  float norm(std::size_t i) const { return norm_[i]; }

 private:
  std::vector<std::uint32_t> rows_;
  std::size_t stride_ = 0;
  Buffer<std::int8_t> decoded_;
  std::vector<const std::int8_t*> levels_;
  std::vector<float> rescale_, norm_;
};

}  // namespace vqindex
