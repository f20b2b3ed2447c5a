#pragma once

#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Σ x² of each parameter or gradient, in double; of what is not finite neither is the sum. Reads everything once, one
/// task a parameter.
template <Backend B, class T>
  requires std::is_same_v < std::remove_const_t<T>,
typename B::Scalar >
    [[nodiscard]] std::vector<double> sums_of_squares(const B& backend, std::span<const Parameter<T>> list) {
  auto squares = backend.template allocate<double>(static_cast<Index>(list.size()));
  backend.parallel_for(static_cast<Index>(list.size()), [&](auto& lane, Index i) {
    const auto x = list[static_cast<std::size_t>(i)].values;
    lane.add_dot(1.0, x, x, squares.data() + i);
  });
  std::vector<double> host(list.size());
  backend.template copy<double>(std::span<const double>(squares.data(), host.size()), std::span<double>(host));
  return host;
}

/// Throws DivergenceError, `where` before the parameter's name, if a component holds a number that is not finite (or
/// one whose square is not: no trained weight comes near).
template <class Component, Backend B>
void require_finite(const B& backend, const Component& component, std::string_view where) {
  for (const auto& p : parameters(component)) {  // one by one: a recommender that is made starts no threads
    require<DivergenceError>(is_finite(sums_of_squares(backend, std::span(&p, 1))[0]), where, ": parameter '", p.name,
                             "' holds numbers that are not finite; expected finite weights. Lower the learning rate?");
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
