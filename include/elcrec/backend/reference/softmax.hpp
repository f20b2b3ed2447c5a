#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Rows of logits z (R, C): largest_r (1, R) = max_c z, z = exp(z - largest_r), sum_r (1, R) = Σ_c z
template <class T>
void exponentials(ReferenceLane<T>&, Output<T> z, Output<T> largest, Output<T> sum) {
  for (Index r = 0; r < z.rows(); ++r) {
    largest(0, r) = *std::max_element(z.row(r), z.row(r) + z.cols());
    sum(0, r) = 0;
    for (Index c = 0; c < z.cols(); ++c) {
      z(r, c) = std::exp(z(r, c) - largest(0, r));
      sum(0, r) += z(r, c);
    }
  }
}

/// What turns the exponentials of G blocks of logits, each with its own largest and sum (G, R), to weight · softmax:
/// factors_gr = weight exp(largest_gr - m_r) / Σ_g sum_gr exp(largest_gr - m_r), m_r = max_g largest_gr. And the loss
/// of the row, logsumexp of all its logits less that of its target, at_target (1, R): loss (1, R).
template <class T>
void softmax_factors(ReferenceLane<T>&, Input<T> largest, Input<T> sum, Input<T> at_target,
                     std::type_identity_t<T> weight, Output<T> factors, Output<T> loss) {
  for (Index r = 0; r < largest.cols(); ++r) {
    T m = largest(0, r);
    for (Index g = 1; g < largest.rows(); ++g) {
      m = (std::max)(m, largest(g, r));
    }
    T total = 0;
    for (Index g = 0; g < largest.rows(); ++g) {
      factors(g, r) = std::exp(largest(g, r) - m);
      total += sum(g, r) * factors(g, r);
    }
    for (Index g = 0; g < largest.rows(); ++g) {
      factors(g, r) *= weight / total;
    }
    loss(0, r) = std::log(total) + m - at_target(0, r);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
