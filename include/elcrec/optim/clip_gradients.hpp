#pragma once

#include <cmath>
#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/nn/sums_of_squares.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Scales all gradients by limit / norm when their joint Euclidean norm exceeds the limit; returns the norm before.
template <Backend B>
double clip_gradients(const B& backend, std::span<const Parameter<typename B::Scalar>> gradients, double limit) {
  double sum = 0;
  for (const double s : sums_of_squares(backend, gradients)) {
    sum += s;
  }
  const double norm = std::sqrt(sum);
  if (norm > limit) {
    backend.parallel_for(static_cast<Index>(gradients.size()), [&](auto& lane, Index i) {
      lane.scale(static_cast<typename B::Scalar>(limit / norm), gradients[static_cast<std::size_t>(i)].values);
    });
  }
  return norm;
}

}  // namespace elcrec::inline ELCREC_TARGET
