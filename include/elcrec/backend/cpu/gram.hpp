#pragma once

#include <algorithm>

#include "elcrec/backend/cpu/gemm.hpp"
#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

/// f(c, r0, r1, values) with m(r, c) for r in [r0, r1), side by side, for all columns c and blocks of rows.
template <class T, class F>
void for_each_transposed(CpuLane<T>& lane, Input<T> m, F f) {
  constexpr Index nr = gemm::tile_cols<T>;
  const auto frame = lane.workspace().frame();
  const auto block = lane.workspace().template array<T>(nr * m.cols());
  for (Index r0 = 0; r0 < m.rows(); r0 += nr) {
    const Index r1 = (std::min)(m.rows(), r0 + nr);
    gemm::detail::transpose(m.row(r0), m.stride(), r1 - r0, m.cols(), block.data());
    for (Index c = 0; c < m.cols(); ++c) {
      f(c, r0, r1, block.data() + c * nr);
    }
  }
}

/// to (N, M) = from (M, N)ᵀ
template <class T>
void transpose(CpuLane<T>& lane, Input<T> from, Output<T> to) {
  cpu::for_each_transposed(
      lane, from, [&](Index c, Index r0, Index r1, const T* values) { std::copy_n(values, r1 - r0, to.row(c) + r0); });
}

/// to (M, N) = rows (M, N) + columns (N, M)ᵀ
template <class T>
void add_transpose(CpuLane<T>& lane, Input<T> rows, Input<T> columns, Output<T> to) {
  cpu::for_each_transposed(lane, columns, [&](Index r, Index c0, Index c1, const T* values) {
    simd::each<T>(c1 - c0,
                  [values, from = rows.row(r) + c0, y = to.row(r) + c0](auto at) { at.put(y, at(from) + at(values)); });
  });
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
