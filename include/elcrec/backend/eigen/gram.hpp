#pragma once

#include <algorithm>

#include "elcrec/backend/eigen.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// The block [r0, r1) x [c0, c1) of a view.
template <class View>
auto block_of(View view, Index r0, Index r1, Index c0, Index c1) {
  return as_eigen(view.slice_rows(r0, r1).slice_cols(c0, c1));
}

/// f(r0, r1, c0, c1) for blocks that cover m, small enough that both they and their transposes stay in L1.
template <class T, class F>
void for_each_block(MatrixView<const T> m, F f) {
  constexpr Index block = 32;
  for (Index r = 0; r < m.rows(); r += block) {
    for (Index c = 0; c < m.cols(); c += block) {
      f(r, (std::min)(m.rows(), r + block), c, (std::min)(m.cols(), c + block));
    }
  }
}

/// to (N, M) = from (M, N)ᵀ
template <class T>
void transpose(MatrixView<const T> from, MatrixView<T> to) {
  for_each_block(from, [&](Index r0, Index r1, Index c0, Index c1) {
    block_of(to, c0, c1, r0, r1) = block_of(from, r0, r1, c0, c1).transpose();
  });
}

/// to (M, N) = rows (M, N) + columns (N, M)ᵀ
template <class T>
void add_transpose(MatrixView<const T> rows, MatrixView<const T> columns, MatrixView<T> to) {
  for_each_block(columns, [&](Index r0, Index r1, Index c0, Index c1) {
    block_of(to, c0, c1, r0, r1) = block_of(rows, c0, c1, r0, r1) + block_of(columns, r0, r1, c0, c1).transpose();
  });
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
