#pragma once

#include <concepts>
#include <type_traits>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/batch_slice.hpp"
#include "elcrec/data/views.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The encoding of a view in a training step.
template <class T>
struct Encoding {
  TokenView tokens{};
  Index targets = 0;   ///< of the whole batch, of which the tokens may be a part: what a mean is over
  MatrixView<T> y{};   ///< (T, D)
  MatrixView<T> dy{};  ///< (T, D) objectives add their gradients here
  MatrixView<T> q{};   ///< (T, C) queries that the head made of y; y itself under a plain head
  MatrixView<T> dq{};  ///< (T, C) their gradient; dy under a plain head
  std::vector<BatchSlice> slices{};
};

/// What an objective is evaluated on: the encodings of a batch, the model, and where gradients go
/// (model/training_pass.hpp is one).
///
/// - `encoding<V>()`: the Encoding of view V, one of the objective's own;
/// - `model()`: const;
/// - `scored_items()`: the table P (V, C) that the head made of the item table, of which q · P[v] is the score of item
/// v;
///   `scored_items_gradient()`: its TableGradient (nn/embedding_table.hpp);
/// - `gradient(part)`: what holds the gradient of a part of the model (GradientOf, nn/part.hpp);
/// - `backend()`, and `memory()`: a workspace for the calling thread only, whose contents live until the next step;
/// - `for_each_slice(encoding, f)`: f(lane, slice) for the encoding's slices, in parallel;
/// - `loss(objective)`: where the objective adds its loss; backend memory.
template <class S>
concept TrainingStep = requires(S& step, Encoding<typename S::Scalar>& encoding) {
  typename S::Backend;
  typename S::Lane;
  { step.template encoding<InputView>() } -> std::same_as<Encoding<typename S::Scalar>&>;
  { step.scored_items() } -> std::convertible_to<MatrixView<const typename S::Scalar>>;
  { step.backend() } -> std::convertible_to<const typename S::Backend&>;
  step.scored_items_gradient();
  step.memory();
  step.for_each_slice(encoding, AnyFunction{});
}
&&std::is_const_v<std::remove_reference_t<decltype(std::declval<S&>().model())>>;

/// A model that is only declared: what a ModelUpdate is checked with.
struct ModelArchetype {
  struct Backend;
  const Backend& backend() const;
};

/// A step that is only declared: what an Objective's `evaluate` is checked with, long before there is a model.
struct StepArchetype {
  using Scalar = float;
  using Backend = ModelArchetype::Backend;
  struct Lane;
  struct Memory;
  struct Gradient;

  template <class V>
  Encoding<Scalar>& encoding();
  const ModelArchetype& model() const;
  MatrixView<const Scalar> scored_items() const;
  Gradient& scored_items_gradient();
  template <class P>
  Gradient& gradient(const P& part);
  const Backend& backend() const;
  Memory& memory();
  void for_each_slice(const Encoding<Scalar>& encoding, auto f);
  template <class O>
  double* loss(const O& objective);
};
static_assert(TrainingStep<StepArchetype>);

}  // namespace elcrec::inline ELCREC_TARGET
