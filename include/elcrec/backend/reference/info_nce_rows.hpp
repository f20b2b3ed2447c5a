#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// InfoNCE rows [i0, i1) of the similarities s (N, N) of two views of N/2 samples: row i's positive is (i + N/2) mod
/// N, its negatives all others but itself and, where labels (N/2) are given, those of its own label. loss_i (1, N) =
/// logsumexp(logits_i) - logits_i[positive] with logits = s / temperature; s_i becomes weight · d loss_i / d s_i.
template <class T>
void info_nce_rows(ReferenceLane<T>&, std::span<const std::int32_t> labels, std::type_identity_t<T> temperature,
                   std::type_identity_t<T> weight, Index i0, Index i1, Output<T> s, Output<T> loss) {
  const Index half = s.cols() / 2;
  const auto label = [&](Index i) { return labels[static_cast<std::size_t>(i % half)]; };
  for (Index i = i0; i < i1; ++i) {
    const Index positive = (i + half) % s.cols();
    T* z = s.row(i);
    T largest = std::numeric_limits<T>::lowest();
    for (Index j = 0; j < s.cols(); ++j) {
      const bool competes = j != i && (labels.empty() || j == positive || label(i) != label(j));
      z[j] = competes ? z[j] / temperature : std::numeric_limits<T>::lowest();
      largest = (std::max)(largest, z[j]);
    }
    const T at_positive = z[positive];
    T sum = 0;
    for (Index j = 0; j < s.cols(); ++j) {
      z[j] = std::exp(z[j] - largest);
      sum += z[j];
    }
    loss(0, i) = std::log(sum) + largest - at_positive;
    for (Index j = 0; j < s.cols(); ++j) {
      z[j] *= weight / (temperature * sum);
    }
    z[positive] -= weight / temperature;
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
