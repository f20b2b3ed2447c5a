#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::reference {

/// y_r = or += table[ids_r]
template <class T>
void gather_rows(MatrixView<const T> table, std::span<const std::int32_t> ids, MatrixView<T> y, Write write) {
  for (Index r = 0; r < y.rows(); ++r) {
    const T* row = table.row(ids[static_cast<std::size_t>(r)]);
    for (Index c = 0; c < y.cols(); ++c) {
      y(r, c) = write == Write::add ? y(r, c) + row[c] : row[c];
    }
  }
}

/// out_r = values[ids_r]
inline void gather_ids(std::span<const std::int32_t> values, std::span<const std::int32_t> ids,
                       std::span<std::int32_t> out) {
  std::transform(ids.begin(), ids.end(), out.begin(),
                 [&](std::int32_t id) { return values[static_cast<std::size_t>(id)]; });
}

/// y[ids_r] += x_r; with equal ids in the order of r
template <class T>
void scatter_add_rows(MatrixView<const T> x, std::span<const std::int32_t> ids, MatrixView<T> y) {
  for (Index r = 0; r < x.rows(); ++r) {
    const Index to = ids[static_cast<std::size_t>(r)];
    add_scaled(T(1), x.slice_rows(r, r + 1), y.slice_rows(to, to + 1));
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::reference
