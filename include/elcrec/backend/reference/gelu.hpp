#pragma once

#include <cmath>
#include <numbers>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

template <class T>
T normal_cdf(T x) {
  return T(0.5) * std::erfc(-x / std::numbers::sqrt2_v<T>);
}

}  // namespace reference

/// y = v Φ(v) of v = x + b, Φ the standard normal distribution function (exact, by erf)
template <class T>
void bias_gelu(ReferenceLane<T>&, Input<T> x, Input<T> b, Output<T> y) {
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index c = 0; c < x.cols(); ++c) {
      const T v = x(t, c) + b(0, c);
      y(t, c) = v * reference::normal_cdf(v);
    }
  }
}

/// y = bias_gelu(x, b) again, and dx = dy (Φ(v) + v φ(v)). dx may be dy.
template <class T>
void bias_gelu_backward(ReferenceLane<T>&, Input<T> x, Input<T> b, Input<T> dy, Output<T> y, Output<T> dx) {
  const T density = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index c = 0; c < x.cols(); ++c) {
      const T v = x(t, c) + b(0, c);
      const T cdf = reference::normal_cdf(v);
      y(t, c) = v * cdf;
      dx(t, c) = dy(t, c) * (cdf + v * density * std::exp(-v * v / 2));
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
