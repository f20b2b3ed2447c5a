#pragma once

#include <algorithm>

#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::reference {

template <class T, class F>
void product(Index rows, Index cols, Index depth, MatrixView<T> y, Write write, F term) {
  for (Index m = 0; m < rows; ++m) {
    for (Index n = 0; n < cols; ++n) {
      T sum = write == Write::add ? y(m, n) : T(0);
      for (Index k = 0; k < depth; ++k) {
        sum += term(m, n, k);
      }
      y(m, n) = sum;
    }
  }
}

/// y (M, N) = or += x (M, K) · w (N, K)ᵀ
template <class T>
void multiply_nt(MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  product(x.rows(), w.rows(), x.cols(), y, write, [&](Index m, Index n, Index k) { return x(m, k) * w(n, k); });
}

/// y (M, N) = or += x (M, K) · w (K, N)
template <class T>
void multiply_nn(MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  product(x.rows(), w.cols(), x.cols(), y, write, [&](Index m, Index n, Index k) { return x(m, k) * w(k, n); });
}

/// y (M, N) = or += x (K, M)ᵀ · w (K, N)
template <class T>
void multiply_tn(MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  product(x.cols(), w.cols(), x.rows(), y, write, [&](Index m, Index n, Index k) { return x(k, m) * w(k, n); });
}

/// y (T, O) = x (T, I) · w (O, I)ᵀ + b (1, O)
template <class T>
void linear(MatrixView<const T> x, MatrixView<const T> w, MatrixView<const T> b, MatrixView<T> y) {
  for (Index t = 0; t < y.rows(); ++t) {
    std::copy_n(b.data(), y.cols(), y.row(t));
  }
  multiply_nt(x, w, y, Write::add);
}

}  // namespace elcrec::inline ELCREC_TARGET::reference
