#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// ids_r = argmin_k |x_r - centers_k|², the lowest k among equals
template <class T>
void nearest_rows(ReferenceLane<T>&, Input<T> x, Input<T> centers, std::span<std::int32_t> ids) {
  for (Index r = 0; r < x.rows(); ++r) {
    T best = (std::numeric_limits<T>::max)();
    ids[static_cast<std::size_t>(r)] = 0;
    for (Index k = 0; k < centers.rows(); ++k) {
      const T distance = reference::dot(centers.row(k), centers.row(k), x.cols()) -
                         2 * reference::dot(x.row(r), centers.row(k), x.cols());
      if (distance < best) {
        best = distance;
        ids[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(k);
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
