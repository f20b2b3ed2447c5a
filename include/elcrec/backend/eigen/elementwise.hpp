#pragma once

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

/// What moves memory only is the reference's.
namespace elcrec::inline ELCREC_TARGET::eigen {

template <class T>
void scale(T a, MatrixView<T> x) {
  for (Index r = 0; r < x.rows(); ++r) {
    eigen::scale(a, x.row(r), x.cols());
  }
}

template <class T>
void add_scaled(T a, MatrixView<const T> x, MatrixView<T> y) {
  for (Index r = 0; r < x.rows(); ++r) {
    eigen::add_scaled(a, x.row(r), y.row(r), x.cols());
  }
}

template <class T>
void multiply_elementwise(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, Write write) {
  for (Index r = 0; r < y.rows(); ++r) {
    const T* const in = x.row(r);
    const T* const by = z.row(r);
    T* const to = y.row(r);
    if (write == Write::add) {
      each<T>(y.cols(), [=](auto at) { at(to) += at(in) * at(by); });
    } else {
      each<T>(y.cols(), [=](auto at) { at(to) = at(in) * at(by); });
    }
  }
}

template <class T>
void add_row(T a, MatrixView<const T> row, MatrixView<T> y) {
  for (Index r = 0; r < y.rows(); ++r) {
    eigen::add_scaled(a, row.data(), y.row(r), y.cols());
  }
}

template <class T>
void scale_rows(MatrixView<const T> factors, MatrixView<T> x) {
  for (Index r = 0; r < x.rows(); ++r) {
    eigen::scale(factors(0, r), x.row(r), x.cols());
  }
}

template <class T>
void row_dots(MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> dots) {
  for (Index r = 0; r < x.rows(); ++r) {
    dots(0, r) = eigen::dot(x.row(r), y.row(r), x.cols());
  }
}

template <class T>
void add_dot(double a, MatrixView<const T> x, MatrixView<const T> y, double* sum) {
  double total = 0;
  for (Index r = 0; r < x.rows(); ++r) {
    total += static_cast<double>(eigen::dot(x.row(r), y.row(r), x.cols()));
  }
  *sum += a * total;
}

template <class T>
void column_mean(MatrixView<const T> x, MatrixView<T> mean) {
  reference::fill(mean, T(0));
  for (Index r = 0; r < x.rows(); ++r) {
    eigen::add_scaled(T(1) / static_cast<T>(x.rows()), x.row(r), mean.data(), x.cols());
  }
}

template <class T>
void add_column_sum(MatrixView<const T> dy, MatrixView<T> db) {
  for (Index t = 0; t < dy.rows(); ++t) {
    eigen::add_scaled(T(1), dy.row(t), db.data(), dy.cols());
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
