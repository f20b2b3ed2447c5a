#pragma once

#include <algorithm>

#include "elcrec/backend/eigen/tile_product.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

template <class Base>
class Products : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void multiply_nt(In x, In w, Out y, Write write) {
    if (is_small(y, x.cols())) {
      for (Index m = 0; m < y.rows(); ++m) {
        for (Index n = 0; n < y.cols(); ++n) {
          y(m, n) = (write == Write::add ? y(m, n) : T(0)) + dot(x.row(m), w.row(n), x.cols());
        }
      }
      return;
    }
    multiply({x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, y.cols(), x.cols(), y, write);
  }

  void multiply_nn(In x, In w, Out y, Write write) {
    if (is_small(y, x.cols())) {
      clear_if(write, y);
      for (Index m = 0; m < y.rows(); ++m) {
        for (Index k = 0; k < x.cols(); ++k) {
          eigen::add_scaled(x(m, k), w.row(k), y.row(m), y.cols());
        }
      }
      return;
    }
    multiply({x.data(), x.stride(), 1}, {w.data(), 1, w.stride()}, y.cols(), x.cols(), y, write);
  }

  void multiply_tn(In x, In w, Out y, Write write) {
    if (is_small(y, x.rows())) {
      clear_if(write, y);
      for (Index k = 0; k < x.rows(); ++k) {
        for (Index m = 0; m < y.rows(); ++m) {
          eigen::add_scaled(x(k, m), w.row(k), y.row(m), y.cols());
        }
      }
      return;
    }
    multiply({x.data(), 1, x.stride()}, {w.data(), 1, w.stride()}, y.cols(), x.rows(), y, write);
  }

  void linear(In x, In w, In b, Out y) {
    for (Index t = 0; t < y.rows(); ++t) {
      std::copy_n(b.data(), y.cols(), y.row(t));
    }
    multiply_nt(x, w, y, Write::add);
  }

 protected:
  /// y (M, N) = or += a (M, K) · b (b_rows, K)ᵀ in tiles, whatever the shape: equal rows of b give equal columns.
  void multiply(Operand<T> a, Operand<T> b, Index b_rows, Index depth, Out y, Write write) {
    const auto frame = this->workspace().frame();
    eigen::multiply<T>(a, b, b_rows, depth, y, write, this->workspace().template array<T>(panel_size<T>(depth)));
  }

  /// scores (U, N) = queries (U, D) · rows (N, D)ᵀ, each by one sequence of operations.
  void score(In queries, In rows, Out scores) {
    multiply({queries.data(), queries.stride(), 1}, {rows.data(), rows.stride(), 1}, scores.cols(), rows.cols(), scores,
             Write::replace);
  }

  /// Below this many multiplications repacking costs more than it gains.
  static bool is_small(Out y, Index depth) { return y.rows() < 4 || y.size() * depth < 8192; }

 private:
  void clear_if(Write write, Out y) const {
    if (write == Write::replace) {
      this->fill(y, T(0));
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
