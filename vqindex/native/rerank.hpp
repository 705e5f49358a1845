// Exact scores of shortlists of kept vectors, and the best rows of each. Definition: `rerank` and `exact_scores` of
// vqindex/search/rerank.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "poll.hpp"

namespace vqindex {

enum class Metric { ip, cosine, l2 };

// The type of a coordinate. Coordinates of type int8 are in steps of their row's scale.
enum class VectorType { f32, f16, int8 };

constexpr std::size_t value_bytes(VectorType type) {
  return type == VectorType::f32 ? 4 : type == VectorType::f16 ? 2 : 1;
}

// Rows of one array; `scale` is null unless they are int8.
struct VectorPart {
  const void* values;
  const float* scale;
  std::size_t rows;
};

// Views of vectors in row order, in one array or several.
class VectorParts {
 public:
  VectorParts(VectorType type, std::size_t dim, std::vector<VectorPart> parts)
      : type(type), dim(dim), row_bytes(dim * value_bytes(type)), parts_(std::move(parts)) {
    for (const VectorPart& part : parts_) ends_.push_back(rows() + part.rows);
  }

  const VectorType type;
  const std::size_t dim, row_bytes;
  std::size_t rows() const { return ends_.empty() ? 0 : ends_.back(); }

  struct Row {
    const void* values;
    const float* scale;
  };
  // Where row `row` lies, which must be below rows(). Reads nothing of it.
  Row row(std::size_t row) const {
    const std::size_t i = static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), row) - ends_.begin());
    const VectorPart& part = parts_[i];
    const std::size_t at = row - (ends_[i] - part.rows);
    return {static_cast<const char*>(part.values) + at * row_bytes, part.scale ? part.scale + at : nullptr};
  }

 private:
  std::vector<VectorPart> parts_;
  std::vector<std::size_t> ends_;  // the row after the last one of each part
};

// Shortlists of rows: -1 in empty places, and otherwise below the number of vectors.
struct Shortlists {
  const float* queries;  // [count][dim]
  std::size_t count;
  const std::int64_t* rows;  // [count][length]
  std::size_t length;
};

// Writes the k best scores and rows of each shortlist, [count][k], best first; k is at most their length. Ties go to
// the lower row. Returns false, and has not finished, once `poll` does.
bool rerank(const VectorParts& vectors, Metric metric, const Shortlists& lists, std::size_t k, std::size_t threads,
            const std::string& isa, const Poll& poll, float* scores, std::int64_t* rows);

}  // namespace vqindex
