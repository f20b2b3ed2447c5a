#pragma once

#include <concepts>
#include <span>
#include <string>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Options of an update rule; `State<B>` does the work:
/// - State(options, backend, parameters): one slot for each parameter;
/// - step(backend, parameters, gradients, rate_factor): one update, the lists being parallel;
/// - steps(): updates made; set_steps(n) when resuming;
/// - visit(visitor): visitor(name, MatrixView) for everything that a checkpoint must hold;
/// - never_negative(name), if it has one: whether a checkpoint with negative values under that name is refused.
template <class O>
concept Optimizer = std::copy_constructible<O> && requires {
  { O::name } -> std::convertible_to<std::string_view>;
};

/// Whether O can train parameters on backend B.
template <class O, class B>
concept OptimizerOn = Optimizer<O> && Backend<B> &&
    requires(typename O::template State<B>& state, const B& backend, long n,
             std::span<const Parameter<typename B::Scalar>> list) {
  state.step(backend, list, list, 1.0);
  { state.steps() } -> std::convertible_to<long>;
  state.set_steps(n);
  state.visit(AnyFunction{});
};

}  // namespace elcrec::inline ELCREC_TARGET
