#pragma once

#include <algorithm>

#include "elcrec/backend/cpu/gemm.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

/// Below this many multiplications repacking costs more than it gains.
template <class T>
[[nodiscard]] bool is_small(MatrixView<T> y, Index depth) {
  return y.rows() < 4 || y.size() * depth < 8192;
}

/// y (M, N) = or += a (M, K) · b (b_rows, K)ᵀ in tiles, whatever the shape, + bias (N) where there is one; `memory`
/// holds the packed factor.
template <class T, class Workspace>
void multiply(Workspace& memory, gemm::Operand<T> a, gemm::Operand<T> b, Index b_rows, Index depth, MatrixView<T> y,
              Write write, const T* bias = nullptr) {
  const auto frame = memory.frame();
  gemm::multiply(a, b, b_rows, depth, y, write, bias,
                 memory.template array<T>(gemm::packed_size<T>(depth, y.cols())).data());
}

template <class T, class Workspace>
void multiply_nt(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.cols())) {
    for (Index m = 0; m < y.rows(); ++m) {
      for (Index n = 0; n < y.cols(); ++n) {
        y(m, n) = (write == Write::add ? y(m, n) : T(0)) + simd::dot(x.row(m), w.row(n), x.cols());
      }
    }
    return;
  }
  cpu::multiply<T>(memory, {x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, y.cols(), x.cols(), y, write);
}

template <class T, class Workspace>
void multiply_nn(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.cols())) {
    if (write == Write::replace) {
      reference::fill(y, T(0));
    }
    for (Index m = 0; m < y.rows(); ++m) {
      for (Index k = 0; k < x.cols(); ++k) {
        simd::add_scaled(x(m, k), w.row(k), y.row(m), y.cols());
      }
    }
    return;
  }
  cpu::multiply<T>(memory, {x.data(), x.stride(), 1}, {w.data(), 1, w.stride()}, y.cols(), x.cols(), y, write);
}

template <class T, class Workspace>
void multiply_tn(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.rows())) {
    if (write == Write::replace) {
      reference::fill(y, T(0));
    }
    for (Index k = 0; k < x.rows(); ++k) {
      for (Index m = 0; m < y.rows(); ++m) {
        simd::add_scaled(x(k, m), w.row(k), y.row(m), y.cols());
      }
    }
    return;
  }
  cpu::multiply<T>(memory, {x.data(), 1, x.stride()}, {w.data(), 1, w.stride()}, y.cols(), x.rows(), y, write);
}

template <class T, class Workspace>
void linear(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<const T> b, MatrixView<T> y) {
  if (is_small(y, x.cols())) {
    for (Index t = 0; t < y.rows(); ++t) {
      std::copy_n(b.data(), y.cols(), y.row(t));
    }
    cpu::multiply_nt(memory, x, w, y, Write::add);
    return;
  }
  cpu::multiply<T>(memory, {x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, y.cols(), x.cols(), y, Write::replace,
                   b.data());
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
