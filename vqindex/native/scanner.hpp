// Decodes and searches the stored rows of one code. A Scanner owns the code's tables of levels; rows and queries come
// with every call.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "buffer.hpp"
#include "dispatch.hpp"
#include "scan.hpp"

namespace vqindex {

class Scanner {
 public:
  // For step, window, tops and levels see Fields. Levels outside -127..127 are of codes with wide levels, which are
  // searched by their levels / 256 first.
  Scanner(std::size_t dim, int step, int window, int tops, std::vector<std::int16_t> levels, std::string metric,
          const std::string& isa)
      : isa_(checked_isa(isa)),
        kernels_(kernels_for(isa_)),
        dim_(dim),
        step_(step),
        window_(window),
        tops_(tops),
        metric_(std::move(metric)),
        levels_(std::move(levels)) {
    if (dim < 1 || dim > 16384 || step < 0 || step > 8 || window < step || tops < 0 || tops > 4 || window + tops > 10 ||
        7 * step + window > 64 || levels_.size() != std::size_t{1} << (window + tops) ||
        (metric_ != "ip" && metric_ != "cosine" && metric_ != "l2"))
      throw std::invalid_argument(
          "expected 1..16384 dim, step <= 8, step <= window, window + tops <= 10 and 2^(window + tops) levels");
    const auto [least, most] = std::minmax_element(levels_.begin(), levels_.end());
    if (*least < -127 || *most > 127) multiplier_ = 256;
    if (multiplier_ > 1 && levels_.size() > 256) throw std::invalid_argument("expected at most 256 levels of 16 bits");
    std::vector<std::int8_t> narrow, index;
    for (std::size_t i = 0; i < levels_.size(); ++i) {
      const int level = levels_[i];
      narrow.push_back(static_cast<std::int8_t>(multiplier_ == 1 ? level : std::clamp((level + 128) >> 8, -127, 127)));
      index.push_back(static_cast<std::int8_t>(i));
    }
    narrow_ = std::make_unique<FieldTables>(dim, step, window, tops, std::move(narrow));
    index_ = std::make_unique<FieldTables>(dim, step, window, tops, std::move(index));
  }

  const std::string& isa() const { return isa_; }
  const Kernels& kernels() const { return kernels_; }
  std::size_t dim() const { return dim_; }
  std::size_t sign_bytes() const { return (dim_ + 7) / 8; }
  std::size_t stride() const { return padded(dim_, 64); }  // of decoded levels
  bool decodes_signs() const { return tops_ > 0; }         // other rows have their signs in their codes
  bool has_norms() const { return metric_ != "cosine"; }
  bool holds_row(std::size_t row_bytes) const { return row_bytes * 8 >= (dim_ - 1) * step_ + window_; }

  Code code() const {
    const std::int16_t* wide = multiplier_ > 1 ? levels_.data() : nullptr;
    return {narrow_->fields(), index_->fields(), wide, multiplier_, metric_ == "l2"};
  }

  // Decodes n rows of row_bytes bytes, and sign_bytes() of sign bits each, to levels [n][stride()].
  void decode(const std::uint8_t* codes, std::size_t n, std::size_t row_bytes, const std::uint8_t* signs,
              std::int8_t* levels) const {
    std::vector<std::uint8_t> sign_row(stride() / 8);
    const Fields fields = narrow_->fields();
    for (std::size_t r = 0; r < n; ++r) {
      if (signs) std::copy_n(signs + r * sign_bytes(), sign_bytes(), sign_row.data());
      kernels_.decode_s8(fields, codes + r * row_bytes, row_bytes, sign_row.data(), levels + r * stride());
    }
  }

  // sums[q * n + r] = <query q, levels of row r>, for int16 queries [nq][dim] and levels [n][dim].
  void dot(const std::int16_t* queries, std::size_t nq, const std::int8_t* levels, std::size_t n, float* sums) const {
    std::vector<std::int16_t> padded_queries(nq * stride());
    std::vector<std::int8_t> row(stride());
    for (std::size_t q = 0; q < nq; ++q) std::copy_n(queries + q * dim_, dim_, padded_queries.data() + q * stride());
    for (std::size_t r = 0; r < n; ++r) {
      std::copy_n(levels + r * dim_, dim_, row.data());
      for (std::size_t q = 0; q < nq; ++q) {
        const std::int16_t* query = padded_queries.data() + q * stride();
        sums[q * n + r] = static_cast<float>(kernels_.dot_s8s16(row.data(), query, stride()));
      }
    }
  }

 private:
  std::string isa_;
  const Kernels& kernels_;
  std::size_t dim_;
  int step_, window_, tops_;
  std::string metric_;
  std::vector<std::int16_t> levels_;
  std::unique_ptr<FieldTables> narrow_, index_;
  int multiplier_ = 1;
};

}  // namespace vqindex
