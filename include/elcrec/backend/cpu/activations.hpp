#pragma once

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

/// y = f(x) element by element
template <class T, class F>
void map(MatrixView<const T> x, MatrixView<T> y, F f) {
  for (Index r = 0; r < y.rows(); ++r) {
    simd::each<T>(y.cols(), [&f, in = x.row(r), to = y.row(r)](auto at) { at.put(to, f(at(in))); });
  }
}

/// y = f(x, z) element by element
template <class T, class F>
void map(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, F f) {
  for (Index r = 0; r < y.rows(); ++r) {
    simd::each<T>(y.cols(),
                  [&f, in = x.row(r), by = z.row(r), to = y.row(r)](auto at) { at.put(to, f(at(in), at(by))); });
  }
}

}  // namespace cpu

template <class T>
void sigmoid(CpuLane<T>&, Input<T> x, Output<T> y) {
  cpu::map<T>(x, y, [](auto v) { return simd::logistic(v); });
}

template <class T>
void sigmoid_backward(CpuLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  cpu::map<T>(y, dy, dx, [](auto s, auto d) { return d * s * (T(1) - s); });
}

template <class T>
void tanh(CpuLane<T>&, Input<T> x, Output<T> y) {
  cpu::map<T>(x, y, [](auto v) { return simd::tanh(v); });
}

template <class T>
void tanh_backward(CpuLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  cpu::map<T>(y, dy, dx, [](auto t, auto d) { return d * (T(1) - t * t); });
}

template <class T>
void relu(CpuLane<T>&, Input<T> x, Output<T> y) {
  cpu::map<T>(x, y, [](auto v) { return v > T(0) ? v : decltype(v){}; });
}

template <class T>
void relu_backward(CpuLane<T>&, Input<T> y, Input<T> dy, Output<T> dx) {
  cpu::map<T>(y, dy, dx, [](auto v, auto d) { return v > T(0) ? d : decltype(d){}; });
}

template <class T>
void silu(CpuLane<T>&, Input<T> x, Output<T> y) {
  cpu::map<T>(x, y, [](auto v) { return v * simd::logistic(v); });
}

template <class T>
void silu_backward(CpuLane<T>&, Input<T> x, Input<T> dy, Output<T> dx) {
  cpu::map<T>(x, dy, dx, [](auto v, auto d) {
    const auto s = simd::logistic(v);
    return d * s * (T(1) + v * (T(1) - s));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
