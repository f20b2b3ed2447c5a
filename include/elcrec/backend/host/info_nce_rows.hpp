#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <VectorLane L>
void info_nce_rows(L&, std::span<const std::int32_t> labels, typename L::Scalar temperature, typename L::Scalar weight,
                   Index i0, Index i1, typename L::Out s, typename L::Out loss) {
  using T = typename L::Scalar;
  constexpr T never = std::numeric_limits<T>::lowest();  // not -infinity, with which -ffast-math compares as it likes
  const Index half = s.cols() / 2;
  for (Index i = i0; i < i1; ++i) {
    const Index positive = (i + half) % s.cols();
    T* const z = s.row(i);
    const T at_positive = z[positive] / temperature;
    z[i] = never;
    if (!labels.empty()) {
      const std::int32_t mine = labels[static_cast<std::size_t>(i % half)];
      for (Index j = 0; j < s.cols(); ++j) {
        if (j != positive && labels[static_cast<std::size_t>(j % half)] == mine) {
          z[j] = never;
        }
      }
    }
    const auto [largest, sum] = L::Vector::exponentials(z, s.cols(), T(1) / temperature);
    loss(0, i) = std::log(sum) + largest - at_positive;
    const T factor = weight / (temperature * sum);
    L::Vector::each(s.cols(), [z, factor](auto at) { at.put(z, factor * at(z)); });
    z[positive] -= weight / temperature;
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
