#pragma once

#include <cmath>
#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Scales all gradients by limit / norm when their joint Euclidean norm exceeds the limit; returns the norm before.
template <Backend B>
double clip_gradients(const B& backend, std::span<const Parameter<typename B::Scalar>> gradients, double limit) {
  auto squares = backend.template allocate<double>(static_cast<Index>(gradients.size()));
  backend.parallel_for(static_cast<Index>(gradients.size()), [&](auto& lane, Index i) {
    const auto g = gradients[static_cast<std::size_t>(i)].values;
    lane.add_dot(1.0, g, g, squares.data() + i);
  });
  std::vector<double> host(gradients.size());
  backend.template copy<double>(std::span<const double>(squares.data(), host.size()), std::span<double>(host));
  double sum = 0;
  for (const double s : host) {
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
