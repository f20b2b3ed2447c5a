#pragma once

#include <type_traits>

#include <Eigen/Core>

#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The matrix of a view as an Eigen expression over the same memory, which must be a host backend's: for hosts and
/// parts of a model that are written with Eigen. Fixed extents stay fixed. Copies nothing; as thread-safe as the
/// memory.
template <class T, Index Rows, Index Cols>
[[nodiscard]] auto as_eigen(MatrixView<T, Rows, Cols> view) {
  using Scalar = std::remove_const_t<T>;
  constexpr int rows = Rows == Dynamic ? Eigen::Dynamic : static_cast<int>(Rows);
  constexpr int cols = Cols == Dynamic ? Eigen::Dynamic : static_cast<int>(Cols);
  constexpr auto order = cols == 1 && rows != 1 ? Eigen::ColMajor : Eigen::RowMajor;  // Eigen stores columns so
  using Matrix = Eigen::Matrix<Scalar, rows, cols, order>;
  using Element = std::conditional_t<std::is_const_v<T>, const Matrix, Matrix>;
  if constexpr (order == Eigen::ColMajor) {
    return Eigen::Map<Element, Eigen::Unaligned, Eigen::InnerStride<>>(view.data(), view.rows(), view.cols(),
                                                                       Eigen::InnerStride<>(view.stride()));
  } else {
    return Eigen::Map<Element, Eigen::Unaligned, Eigen::OuterStride<>>(view.data(), view.rows(), view.cols(),
                                                                       Eigen::OuterStride<>(view.stride()));
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
