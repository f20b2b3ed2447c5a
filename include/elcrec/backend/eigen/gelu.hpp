#pragma once

#include <cmath>
#include <numbers>
#include <type_traits>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {

template <class Array>
struct Normal {
  Array cdf;   // Φ(v)
  Array bell;  // e^(-v²/2)
};

/// In float by Abramowitz & Stegun 7.1.26, whose absolute error in Φ is below 3e-7, mostly rounding; in double by the
/// standard library's erfc.
template <class T, class Array>
Normal<Array> normal(const Array& v) {
  const Array bell = (v.square() * T(-0.5)).exp();
  if constexpr (std::is_same_v<T, float>) {
    const Array t = (v.abs() * (0.3275911F * std::numbers::sqrt2_v<float> / 2) + 1.0F).inverse();
    const Array tail =
        t * bell *
        ((((t * 0.5307027145F - 0.7265760135F) * t + 0.7107068705F) * t - 0.142248368F) * t + 0.127414796F);  // Φ(-|v|)
    // A comparison would leave the vector registers: ±1 but where v, and 1/2 - tail with it, is next to nothing.
    const Array sign = ((((v * 1e30F).max)(-1.0F)).min)(1.0F);
    return {0.5F + sign * (0.5F - tail), bell};
  } else {
    const Array cdf = v.unaryExpr([](T x) { return T(0.5) * std::erfc(-x / std::numbers::sqrt2_v<T>); });
    return {cdf, bell};
  }
}

}  // namespace eigen

template <class T>
void bias_gelu(EigenLane<T>&, Input<T> x, Input<T> b, Output<T> y) {
  for (Index t = 0; t < x.rows(); ++t) {
    eigen::each<T>(x.cols(), [&, from = x.row(t), to = y.row(t)](auto at) {
      const auto v = (at(from) + at(b.data())).eval();
      at(to) = v * eigen::normal<T>(v).cdf;
    });
  }
}

template <class T>
void bias_gelu_backward(EigenLane<T>&, Input<T> x, Input<T> b, Input<T> dy, Output<T> y, Output<T> dx) {
  constexpr T density = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
  for (Index t = 0; t < x.rows(); ++t) {
    eigen::each<T>(x.cols(), [&, from = x.row(t), arrived = dy.row(t), to = y.row(t), back = dx.row(t)](auto at) {
      const auto v = (at(from) + at(b.data())).eval();
      const auto [cdf, bell] = eigen::normal<T>(v);
      at(back) = at(arrived) * (cdf + v * bell * density);
      at(to) = v * cdf;
    });
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
