#pragma once

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {

/// 1 / (1 + e^-x)
template <class V>
[[nodiscard]] auto logistic(const V& x) {
  using T = typename V::Scalar;
  return (T(1) + (-x).exp()).inverse();
}

/// f(at, a row of x, a row of z, a row of y) for all rows and elements
template <class T, class F>
void map(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, F f) {
  for (Index r = 0; r < y.rows(); ++r) {
    each<T>(y.cols(), [f, in = x.row(r), by = z.row(r), to = y.row(r)](auto at) { f(at, in, by, to); });
  }
}

}  // namespace eigen

template <class T>
void sigmoid(EigenLane<T>&, Input<T> x, Output<T> y) {
  eigen::map<T>(x, x, y, [](auto at, auto* in, auto*, auto* to) { at(to) = eigen::logistic(at(in)); });
}

template <class T>
void sigmoid_backward(EigenLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  eigen::map<T>(y, dy, dx, [](auto at, auto* s, auto* d, auto* to) { at(to) = at(d) * at(s) * (T(1) - at(s)); });
}

template <class T>
void tanh(EigenLane<T>&, Input<T> x, Output<T> y) {
  eigen::map<T>(x, x, y, [](auto at, auto* in, auto*, auto* to) { at(to) = at(in).tanh(); });
}

template <class T>
void tanh_backward(EigenLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  eigen::map<T>(y, dy, dx, [](auto at, auto* t, auto* d, auto* to) { at(to) = at(d) * (T(1) - at(t).square()); });
}

template <class T>
void relu(EigenLane<T>&, Input<T> x, Output<T> y) {
  eigen::map<T>(x, x, y, [](auto at, auto* in, auto*, auto* to) { at(to) = (at(in).max)(T(0)); });
}

template <class T>
void relu_backward(EigenLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  eigen::map<T>(y, dy, dx, [](auto at, auto* v, auto* d, auto* to) { at(to) = (at(v) > T(0)).select(at(d), T(0)); });
}

template <class T>
void silu(EigenLane<T>&, Input<T> x, Output<T> y) {
  eigen::map<T>(x, x, y, [](auto at, auto* in, auto*, auto* to) { at(to) = at(in) * eigen::logistic(at(in)); });
}

template <class T>
void silu_backward(EigenLane<T>&, Input<T> x, Input<T> dy, Output<T> dx) {
  eigen::map<T>(x, dy, dx, [](auto at, auto* v, auto* d, auto* to) {
    const auto s = eigen::logistic(at(v)).eval();
    at(to) = at(d) * s * (T(1) + at(v) * (T(1) - s));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
