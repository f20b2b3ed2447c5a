#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <class T>
void nearest_rows(EigenLane<T>& lane, Input<T> x, Input<T> centers, std::span<std::int32_t> ids) {
  // In blocks of both, so that memory does not grow with K.
  constexpr Index block = 64;
  constexpr Index center_block = 512;
  const auto frame = lane.workspace().frame();
  const Index k = centers.rows();
  T* const squares = lane.workspace().template array<T>(k).data();
  for (Index j = 0; j < k; ++j) {
    squares[j] = eigen::dot(centers.row(j), centers.row(j), centers.cols());
  }
  const Output<T> products = lane.workspace().template matrix<T>(block, (std::min)(center_block, k));
  const auto smallest = lane.workspace().template array<T>(x.rows());
  std::fill(smallest.begin(), smallest.end(), (std::numeric_limits<T>::max)());
  std::fill(ids.begin(), ids.end(), 0);
  for (Index r0 = 0; r0 < x.rows(); r0 += block) {
    const Index r1 = (std::min)(x.rows(), r0 + block);
    for (Index j0 = 0; j0 < k; j0 += center_block) {
      const Index j1 = (std::min)(k, j0 + center_block);
      const Output<T> part = products.slice_rows(0, r1 - r0).slice_cols(0, j1 - j0);
      eigen::score<T>(lane.workspace(), x.slice_rows(r0, r1), centers.slice_rows(j0, j1), part);
      for (Index r = r0; r < r1; ++r) {
        T* const away = part.row(r - r0);  // negative distances less |x|²
        eigen::each<T>(j1 - j0, [&](auto at) { at(away) = T(2) * at(away) - at(squares + j0); });
        const T closest = eigen::largest_of(away, j1 - j0);
        T& best = smallest[static_cast<std::size_t>(r)];
        if (-closest < best) {
          best = -closest;
          ids[static_cast<std::size_t>(r)] =
              static_cast<std::int32_t>(j0 + (std::find(away, away + (j1 - j0), closest) - away));
        }
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
