#pragma once

#include <cmath>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

/// σ(x) = 1 / (1 + e^-x)
template <class T>
T logistic(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

/// y_rc = f(x_rc, z_rc)
template <class T, class F>
void map(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, F f) {
  for (Index r = 0; r < y.rows(); ++r) {
    for (Index c = 0; c < y.cols(); ++c) {
      y(r, c) = f(x(r, c), z(r, c));
    }
  }
}

}  // namespace reference

// Every output may be an input. A backward pass needs of the forward pass what its name says: the output y or the input
// x, each (R, D).

/// y = σ(x)
template <class T>
void sigmoid(ReferenceLane<T>&, Input<T> x, Output<T> y) {
  reference::map<T>(x, x, y, [](T v, T) { return reference::logistic(v); });
}

/// dx = dy ∘ y (1 - y)
template <class T>
void sigmoid_backward(ReferenceLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  reference::map<T>(y, dy, dx, [](T s, T d) { return d * s * (T(1) - s); });
}

/// y = tanh(x)
template <class T>
void tanh(ReferenceLane<T>&, Input<T> x, Output<T> y) {
  reference::map<T>(x, x, y, [](T v, T) { return std::tanh(v); });
}

/// dx = dy ∘ (1 - y²)
template <class T>
void tanh_backward(ReferenceLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  reference::map<T>(y, dy, dx, [](T t, T d) { return d * (T(1) - t * t); });
}

/// y = max(x, 0)
template <class T>
void relu(ReferenceLane<T>&, Input<T> x, Output<T> y) {
  reference::map<T>(x, x, y, [](T v, T) { return v > T(0) ? v : T(0); });
}

/// dx = dy where y > 0, else 0
template <class T>
void relu_backward(ReferenceLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  reference::map<T>(y, dy, dx, [](T v, T d) { return v > T(0) ? d : T(0); });
}

/// y = x σ(x)
template <class T>
void silu(ReferenceLane<T>&, Input<T> x, Output<T> y) {
  reference::map<T>(x, x, y, [](T v, T) { return v * reference::logistic(v); });
}

/// dx = dy ∘ σ(x) (1 + x (1 - σ(x)))
template <class T>
void silu_backward(ReferenceLane<T>&, Input<T> x, Input<T> dy, Output<T> dx) {
  reference::map<T>(x, dy, dx, [](T v, T d) {
    const T s = reference::logistic(v);
    return d * s * (T(1) + v * (T(1) - s));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
