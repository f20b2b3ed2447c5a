#pragma once

#include "elcrec/core/checked.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A row-major matrix in a backend's memory, zero at first. Extents are fixed at compile time or Dynamic. Copies are
/// deep.
template <class B, Index Rows = Dynamic, Index Cols = Dynamic>
class Matrix {
 public:
  using Backend = B;
  using Scalar = typename B::Scalar;

  Matrix() = default;
  Matrix(const B& backend, Index rows, Index cols)
      : storage_(backend.template allocate<Scalar>(checked_size(rows, cols))), rows_(rows), cols_(cols) {}

  [[nodiscard]] Index rows() const { return rows_; }
  [[nodiscard]] Index cols() const { return cols_; }
  [[nodiscard]] MatrixView<Scalar, Rows, Cols> view() { return {storage_.data(), rows_, cols_}; }
  [[nodiscard]] MatrixView<const Scalar, Rows, Cols> view() const { return {storage_.data(), rows_, cols_}; }

 private:
  static Index checked_size(Index rows, Index cols) {
    require(rows >= 0 && cols >= 0, "matrix: found shape (", rows, ", ", cols, "), expected no negative extent");
    require((Rows == Dynamic || Rows == rows) && (Cols == Dynamic || Cols == cols), "matrix: found shape (", rows, ", ",
            cols, "), expected the fixed extents (", Rows, ", ", Cols, ")");
    return checked_product("matrix", rows, cols);
  }

  typename B::template Buffer<Scalar> storage_;
  Index rows_ = 0;
  Index cols_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
