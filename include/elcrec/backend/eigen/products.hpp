#pragma once

#include <algorithm>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/tile_product.hpp"
#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// Below this many multiplications repacking costs more than it gains.
template <class T>
[[nodiscard]] bool is_small(MatrixView<T> y, Index depth) {
  return y.rows() < 4 || y.size() * depth < 8192;
}

/// y (M, N) = or += a (M, K) · b (b_rows, K)ᵀ in tiles, whatever the shape: equal rows of b give equal columns.
/// `memory` holds the packed factor.
template <class T, class Workspace>
void multiply(Workspace& memory, Operand<T> a, Operand<T> b, Index b_rows, Index depth, MatrixView<T> y, Write write) {
  const auto frame = memory.frame();
  eigen::multiply<T>(a, b, b_rows, depth, y, write, memory.template array<T>(panel_size<T>(depth)));
}

template <class T, class Workspace>
void multiply_nt(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.cols())) {
    for (Index m = 0; m < y.rows(); ++m) {
      for (Index n = 0; n < y.cols(); ++n) {
        y(m, n) = (write == Write::add ? y(m, n) : T(0)) + eigen::dot(x.row(m), w.row(n), x.cols());
      }
    }
    return;
  }
  eigen::multiply<T>(memory, {x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, y.cols(), x.cols(), y, write);
}

template <class T, class Workspace>
void multiply_nn(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.cols())) {
    if (write == Write::replace) {
      reference::fill(y, T(0));
    }
    for (Index m = 0; m < y.rows(); ++m) {
      for (Index k = 0; k < x.cols(); ++k) {
        eigen::add_scaled(x(m, k), w.row(k), y.row(m), y.cols());
      }
    }
    return;
  }
  eigen::multiply<T>(memory, {x.data(), x.stride(), 1}, {w.data(), 1, w.stride()}, y.cols(), x.cols(), y, write);
}

template <class T, class Workspace>
void multiply_tn(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  if (is_small(y, x.rows())) {
    if (write == Write::replace) {
      reference::fill(y, T(0));
    }
    for (Index k = 0; k < x.rows(); ++k) {
      for (Index m = 0; m < y.rows(); ++m) {
        eigen::add_scaled(x(k, m), w.row(k), y.row(m), y.cols());
      }
    }
    return;
  }
  eigen::multiply<T>(memory, {x.data(), 1, x.stride()}, {w.data(), 1, w.stride()}, y.cols(), x.rows(), y, write);
}

template <class T, class Workspace>
void linear(Workspace& memory, MatrixView<const T> x, MatrixView<const T> w, MatrixView<const T> b, MatrixView<T> y) {
  for (Index t = 0; t < y.rows(); ++t) {
    std::copy_n(b.data(), y.cols(), y.row(t));
  }
  eigen::multiply_nt(memory, x, w, y, Write::add);
}

/// scores (U, N) = queries (U, D) · rows (N, D)ᵀ, each by one sequence of operations.
template <class T, class Workspace>
void score(Workspace& memory, Input<T> queries, Input<T> rows, Output<T> scores) {
  eigen::multiply<T>(memory, {queries.data(), queries.stride(), 1}, {rows.data(), rows.stride(), 1}, scores.cols(),
                     rows.cols(), scores, Write::replace);
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
