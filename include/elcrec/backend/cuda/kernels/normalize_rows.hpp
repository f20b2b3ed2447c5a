#pragma once

#include <algorithm>
#include <cmath>

#include "elcrec/backend/cuda/kernels/thread.hpp"
#include "elcrec/core/matrix_view.hpp"

/// Rows scaled to unit length, and back: a warp takes one row. 8 D bytes (float) a row and 12 D backward: bound by
/// memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

inline constexpr int normalize_warps = 4;

template <class T>
struct NormalizeRowsKernel {
  static constexpr int max_threads = normalize_warps * warp_size;
  MatrixView<const T> x;
  T* norms;
  MatrixView<T> y;

  __device__ void operator()() const {
    const Index r = global_warp();
    if (r >= x.rows()) {
      return;
    }
    T square = 0;
    for (Index c = lane(); c < x.cols(); c += warp_size) {
      square += x(r, c) * x(r, c);
    }
    const T norm = larger(std::sqrt(warp_sum(square)), T(1e-12));
    if (lane() == 0) {
      norms[r] = norm;
    }
    for (Index c = lane(); c < x.cols(); c += warp_size) {
      y(r, c) = x(r, c) / norm;
    }
  }
};

template <class T>
struct NormalizeRowsBackwardKernel {
  static constexpr int max_threads = normalize_warps * warp_size;
  MatrixView<const T> y;
  const T* norms;
  MatrixView<const T> dy;
  MatrixView<T> dx;

  __device__ void operator()() const {
    const Index r = global_warp();
    if (r >= y.rows()) {
      return;
    }
    T along = 0;
    for (Index c = lane(); c < y.cols(); c += warp_size) {
      along += y(r, c) * dy(r, c);
    }
    along = warp_sum(along);
    for (Index c = lane(); c < y.cols(); c += warp_size) {
      dx(r, c) = (dy(r, c) - y(r, c) * along) / norms[r];
    }
  }
};

template <class T>
void normalize_rows(const Stream& stream, MatrixView<const T> x, MatrixView<T> norms, MatrixView<T> y) {
  launch(stream, {.x = blocks_for(x.rows(), normalize_warps)}, {.x = normalize_warps * warp_size}, 0,
         NormalizeRowsKernel<T>{x, norms.data(), y});
}

template <class T>
void normalize_rows_backward(const Stream& stream, MatrixView<const T> y, MatrixView<const T> norms,
                             MatrixView<const T> dy, MatrixView<T> dx) {
  launch(stream, {.x = blocks_for(y.rows(), normalize_warps)}, {.x = normalize_warps * warp_size}, 0,
         NormalizeRowsBackwardKernel<T>{y, norms.data(), dy, dx});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
