#pragma once

#include <algorithm>
#include <span>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::reference {

template <class T, class F>
void for_each_row(MatrixView<T> x, F f) {
  for (Index r = 0; r < x.rows(); ++r) {
    f(x.row(r));
  }
}

/// Σ a_i b_i
template <class T>
T dot(const T* a, const T* b, Index n) {
  T sum = 0;
  for (Index i = 0; i < n; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

/// x = value
template <class T>
void fill(MatrixView<T> x, T value) {
  for_each_row(x, [&](T* row) { std::fill_n(row, x.cols(), value); });
}

/// Every element of every matrix = 0
template <class T>
void clear(std::span<const MatrixView<T>> list) {
  for (const MatrixView<T> x : list) {
    fill(x, T(0));
  }
}

/// y = x
template <class T>
void copy(MatrixView<const T> x, MatrixView<T> y) {
  for (Index r = 0; r < x.rows(); ++r) {
    std::copy_n(x.row(r), x.cols(), y.row(r));
  }
}

/// x *= a
template <class T>
void scale(T a, MatrixView<T> x) {
  for_each_row(x, [&](T* row) { std::transform(row, row + x.cols(), row, [&](T v) { return a * v; }); });
}

/// y += a x
template <class T>
void add_scaled(T a, MatrixView<const T> x, MatrixView<T> y) {
  for (Index r = 0; r < x.rows(); ++r) {
    for (Index c = 0; c < x.cols(); ++c) {
      y(r, c) += a * x(r, c);
    }
  }
}

/// y = or += x ∘ z. y may be x or z.
template <class T>
void multiply_elementwise(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, Write write) {
  for (Index r = 0; r < y.rows(); ++r) {
    for (Index c = 0; c < y.cols(); ++c) {
      y(r, c) = write == Write::add ? y(r, c) + x(r, c) * z(r, c) : x(r, c) * z(r, c);
    }
  }
}

/// y_r += a row, for every row r; row is (1, D)
template <class T>
void add_row(T a, MatrixView<const T> row, MatrixView<T> y) {
  for (Index r = 0; r < y.rows(); ++r) {
    for (Index c = 0; c < y.cols(); ++c) {
      y(r, c) += a * row(0, c);
    }
  }
}

/// x_r *= factors_r; factors is (1, R)
template <class T>
void scale_rows(MatrixView<const T> factors, MatrixView<T> x) {
  for (Index r = 0; r < x.rows(); ++r) {
    scale(factors(0, r), x.slice_rows(r, r + 1));
  }
}

/// dots_r (1, R) = x_r·y_r
template <class T>
void row_dots(MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> dots) {
  for (Index r = 0; r < x.rows(); ++r) {
    dots(0, r) = dot(x.row(r), y.row(r), x.cols());
  }
}

/// *sum += a <x, y>, summed in double
template <class T>
void add_dot(double a, MatrixView<const T> x, MatrixView<const T> y, double* sum) {
  double dot = 0;
  for (Index r = 0; r < x.rows(); ++r) {
    for (Index c = 0; c < x.cols(); ++c) {
      dot += static_cast<double>(x(r, c)) * static_cast<double>(y(r, c));
    }
  }
  *sum += a * dot;
}

/// *sum += a Σ x, summed in double
template <class T>
void add_sum(double a, MatrixView<const T> x, double* sum) {
  double total = 0;
  for (Index r = 0; r < x.rows(); ++r) {
    for (Index c = 0; c < x.cols(); ++c) {
      total += static_cast<double>(x(r, c));
    }
  }
  *sum += a * total;
}

/// mean (1, D) of the rows of x; of no rows it is 0
template <class T>
void column_mean(MatrixView<const T> x, MatrixView<T> mean) {
  fill(mean, T(0));
  for (Index r = 0; r < x.rows(); ++r) {
    add_scaled(T(1) / static_cast<T>(x.rows()), x.slice_rows(r, r + 1), mean);
  }
}

/// db (1, D) += Σ_t dy_t
template <class T>
void add_column_sum(MatrixView<const T> dy, MatrixView<T> db) {
  for (Index t = 0; t < dy.rows(); ++t) {
    add_scaled(T(1), dy.slice_rows(t, t + 1), db);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::reference
