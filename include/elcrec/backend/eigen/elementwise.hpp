#pragma once

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// What moves memory only is the reference's.
template <class Base>
class Elementwise : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void scale(T a, Out x) const {
    for (Index r = 0; r < x.rows(); ++r) {
      scale_row(a, x.row(r), x.cols());
    }
  }

  void add_scaled(T a, In x, Out y) const {
    for (Index r = 0; r < x.rows(); ++r) {
      eigen::add_scaled(a, x.row(r), y.row(r), x.cols());
    }
  }

  void add_row(T a, In row, Out y) const {
    for (Index r = 0; r < y.rows(); ++r) {
      eigen::add_scaled(a, row.data(), y.row(r), y.cols());
    }
  }

  void scale_rows(In factors, Out x) const {
    for (Index r = 0; r < x.rows(); ++r) {
      scale_row(factors(0, r), x.row(r), x.cols());
    }
  }

  void row_dots(In x, In y, Out dots) const {
    for (Index r = 0; r < x.rows(); ++r) {
      dots(0, r) = dot(x.row(r), y.row(r), x.cols());
    }
  }

  void add_dot(double a, In x, In y, double* sum) const {
    double total = 0;
    for (Index r = 0; r < x.rows(); ++r) {
      total += static_cast<double>(dot(x.row(r), y.row(r), x.cols()));
    }
    *sum += a * total;
  }

  void column_mean(In x, Out mean) const {
    this->fill(mean, T(0));
    for (Index r = 0; r < x.rows(); ++r) {
      eigen::add_scaled(T(1) / static_cast<T>(x.rows()), x.row(r), mean.data(), x.cols());
    }
  }

  void add_column_sum(In dy, Out db) const {
    for (Index t = 0; t < dy.rows(); ++t) {
      eigen::add_scaled(T(1), dy.row(t), db.data(), dy.cols());
    }
  }

  void embed(const TokenView& tokens, In table, In positions, Out y) const {
    for (Index t = 0; t < tokens.tokens(); ++t) {
      const T* item = table.row(tokens.item(t));
      const T* position = positions.row(tokens.position(t));
      T* to = y.row(t);
      each<T>(y.cols(), [&](auto at) { at(to) = at(item) + at(position); });
    }
  }

  void position_gradient(const TokenView& tokens, In dy, Out dpositions) const {
    for (Index t = 0; t < tokens.tokens(); ++t) {
      eigen::add_scaled(T(1), dy.row(t), dpositions.row(tokens.position(t)), dy.cols());
    }
  }

 protected:
  static void scale_row(T a, T* x, Index n) {
    each<T>(n, [&](auto at) { at(x) *= a; });
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
