#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

/// The least of squares_j - 2 products_j and its j, the lowest among equals.
template <class T>
std::pair<T, Index> nearest_of(const T* squares, const T* products, Index k) {
  simd::Pack<T> best = simd::broadcast((std::numeric_limits<T>::max)());
  simd::Pack<T> where{};  // register number of each lane's best
  T number = 0;
  Index j = 0;
  for (; j + simd::width<T> <= k; j += simd::width<T>, number += 1) {
    const simd::Pack<T> distance = simd::load(squares + j) - 2 * simd::load(products + j);
    where = distance < best ? simd::broadcast(number) : where;
    best = distance < best ? distance : best;
  }
  T smallest = (std::numeric_limits<T>::max)();
  Index id = 0;
  for (Index i = 0; i < simd::width<T> && i < j; ++i) {
    const Index candidate = static_cast<Index>(where[i]) * simd::width<T> + i;
    if (best[i] < smallest || (best[i] == smallest && candidate < id)) {
      smallest = best[i];
      id = candidate;
    }
  }
  for (; j < k; ++j) {
    if (const T distance = squares[j] - 2 * products[j]; distance < smallest) {
      smallest = distance;
      id = j;
    }
  }
  return {smallest, id};
}

}  // namespace cpu

template <class T>
void nearest_rows(CpuLane<T>& lane, Input<T> x, Input<T> centers, std::span<std::int32_t> ids) {
  const auto frame = lane.workspace().frame();
  const Index k = centers.rows();
  const auto squares = lane.workspace().template array<T>(k);
  for (Index j = 0; j < k; ++j) {
    squares[static_cast<std::size_t>(j)] = simd::dot(centers.row(j), centers.row(j), centers.cols());
  }
  // In blocks of both, so that memory does not grow with K.
  constexpr Index block = 64;
  constexpr Index center_block = 512;
  const Output<T> products = lane.workspace().template matrix<T>(block, (std::min)(center_block, k));
  std::array<T, block> smallest;
  for (Index r0 = 0; r0 < x.rows(); r0 += block) {
    const Index r1 = (std::min)(x.rows(), r0 + block);
    smallest.fill((std::numeric_limits<T>::max)());
    for (Index j0 = 0; j0 < k; j0 += center_block) {
      const Index j1 = (std::min)(k, j0 + center_block);
      const Output<T> part = products.slice_rows(0, r1 - r0).slice_cols(0, j1 - j0);
      lane.multiply_nt(x.slice_rows(r0, r1), centers.slice_rows(j0, j1), part, Write::replace);
      for (Index r = r0; r < r1; ++r) {
        const auto [distance, id] = cpu::nearest_of(squares.data() + j0, part.row(r - r0), j1 - j0);
        T& best = smallest[static_cast<std::size_t>(r - r0)];
        if (distance < best || j0 == 0) {
          best = distance;
          ids[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(j0 + id);
        }
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
