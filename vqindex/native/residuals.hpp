// Rows less a point, after their division by their norms if asked. Definition: residuals_of of vqindex/residuals.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace vqindex {

struct Centering {
  std::size_t dim;
  const float* point;
  bool unit;  // whether rows are divided by their norms
};

// Writes n residuals, and for each whether its row is a zero vector (0 without `unit`).
void subtract_point(const Centering& centering, const float* rows, std::size_t n, float* out, std::uint8_t* zero,
                    const std::string& isa);

}  // namespace vqindex
