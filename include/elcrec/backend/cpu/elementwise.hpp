#pragma once

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

template <class T>
void multiply_elementwise(MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, Write write) {
  for (Index r = 0; r < y.rows(); ++r) {
    const auto rows = [&, r](auto f) {
      simd::each<T>(y.cols(), [f, in = x.row(r), by = z.row(r), to = y.row(r)](auto at) { f(at, in, by, to); });
    };
    if (write == Write::add) {
      rows([](auto at, const T* in, const T* by, T* to) { at.put(to, at(to) + at(in) * at(by)); });
    } else {
      rows([](auto at, const T* in, const T* by, T* to) { at.put(to, at(in) * at(by)); });
    }
  }
}

template <class T>
void scale_rows(MatrixView<const T> factors, MatrixView<T> x) {
  for (Index r = 0; r < x.rows(); ++r) {
    simd::scale(factors(0, r), x.row(r), x.cols());
  }
}

template <class T>
void row_dots(MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> dots) {
  for (Index r = 0; r < x.rows(); ++r) {
    dots(0, r) = simd::dot(x.row(r), y.row(r), x.cols());
  }
}

template <class T>
void add_dot(double a, MatrixView<const T> x, MatrixView<const T> y, double* sum) {
  double total = 0;
  for (Index r = 0; r < x.rows(); ++r) {
    total += static_cast<double>(simd::dot(x.row(r), y.row(r), x.cols()));
  }
  *sum += a * total;
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
