#pragma once

#include <cmath>

#include "elcrec/backend/cuda/kernels/elementwise.hpp"

/// sigmoid, tanh, relu and silu of matrices (R, D), and their gradients from the output (silu: from the input).
///
/// Bytes an element (float): forward 8 and what `map` reads of the output, 4; backward 12 and 4. Up to 30 operations,
/// most of them the exponential's. Bound by memory: one pack of 16 bytes a thread, no shared memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

namespace detail {

template <class T>
[[nodiscard]] __device__ T logistic(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <class T>
struct Sigmoid {
  __device__ T operator()(T x, T) const { return logistic(x); }
};
template <class T>
struct Tanh {
  __device__ T operator()(T x, T) const { return std::tanh(x); }
};
template <class T>
struct Relu {
  __device__ T operator()(T x, T) const { return x > T(0) ? x : T(0); }
};
template <class T>
struct Silu {
  __device__ T operator()(T x, T) const { return x * logistic(x); }
};
template <class T>
struct SigmoidBackward {
  __device__ T operator()(T y, T dy, T) const { return dy * y * (T(1) - y); }
};
template <class T>
struct TanhBackward {
  __device__ T operator()(T y, T dy, T) const { return dy * (T(1) - y * y); }
};
template <class T>
struct ReluBackward {
  __device__ T operator()(T y, T dy, T) const { return y > T(0) ? dy : T(0); }
};
template <class T>
struct SiluBackward {
  __device__ T operator()(T x, T dy, T) const {
    const T s = logistic(x);
    return dy * s * (T(1) + x * (T(1) - s));
  }
};

}  // namespace detail

template <class T>
void sigmoid(const Stream& stream, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::Sigmoid<T>{});
}

template <class T>
void sigmoid_backward(const Stream& stream, MatrixView<const T> y, MatrixView<const T> dy, MatrixView<T> dx) {
  combine(stream, y, dy, dx, detail::SigmoidBackward<T>{});
}

template <class T>
void tanh(const Stream& stream, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::Tanh<T>{});
}

template <class T>
void tanh_backward(const Stream& stream, MatrixView<const T> y, MatrixView<const T> dy, MatrixView<T> dx) {
  combine(stream, y, dy, dx, detail::TanhBackward<T>{});
}

template <class T>
void relu(const Stream& stream, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::Relu<T>{});
}

template <class T>
void relu_backward(const Stream& stream, MatrixView<const T> y, MatrixView<const T> dy, MatrixView<T> dx) {
  combine(stream, y, dy, dx, detail::ReluBackward<T>{});
}

template <class T>
void silu(const Stream& stream, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::Silu<T>{});
}

template <class T>
void silu_backward(const Stream& stream, MatrixView<const T> x, MatrixView<const T> dy, MatrixView<T> dx) {
  combine(stream, x, dy, dx, detail::SiluBackward<T>{});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
