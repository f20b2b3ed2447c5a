#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The factor of the learning rate over a run: a linear warm-up, then constant or a half cosine down to `floor`.
struct Schedule {
  enum class Shape { constant, cosine };

  Shape shape = Shape::constant;
  long warmup_steps = 0;
  double floor = 0.0;  ///< last factor of the cosine

  /// Factor at step `step` (from 0) of `total`.
  [[nodiscard]] double factor(long step, long total) const {
    if (step < warmup_steps) {
      return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    }
    if (shape == Shape::constant) {
      return 1.0;
    }
    const auto span = static_cast<double>(std::max<long>(1, total - warmup_steps));
    const double done = (std::min)(1.0, static_cast<double>(step - warmup_steps) / span);
    return floor + (1 - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done));
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
