#pragma once

#include <concepts>
#include <string_view>

#include "elcrec/core/type_list.hpp"
#include "elcrec/loss/step.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// One term of the training loss.
///
/// - `Views`: a TypeList of the views (data/views.hpp) that it may read;
/// - `name`: its key in logs;
/// - `weight`: its factor in the total; with 0 it is not evaluated at all;
/// - `reads<V>()`: whether, as it is set now, it reads view V (views that nobody reads are not built);
/// - `predicts`: false in a loss that reads no targets, so that it may be evaluated on any view of any encoder; a loss
///   that does not say predicts;
/// - `sums_over_samples`: true in a loss that is a sum over the sequences of one view, divided by what is known of the
///   whole batch (Encoding::targets): a step that would take too much memory evaluates it on a part after the other;
/// - `reads_negatives()`: whether it reads the sampled negatives of its views (where nobody does, none are drawn);
/// - `evaluate(step)`: const, returns void; gets a TrainingStep (loss/step.hpp), adds the unweighted loss to
///   `step.loss(*this)` and weight times its gradients to the encodings' dy and to the gradients of the parts. It never
///   writes to the model.
template <class O>
concept Objective = std::copy_constructible<O> && requires(const O& objective, StepArchetype& step) {
  typename O::Views;
  { O::name } -> std::convertible_to<std::string_view>;
  { objective.weight } -> std::convertible_to<double>;
  objective.evaluate(step);
};

/// What changes the model at its place among the objectives of a step, before those that follow it: `update(model)`, as
/// the centers' return to the unit sphere (cluster/project_centers.hpp).
template <class U>
concept ModelUpdate = std::copy_constructible<U> && requires(const U& update, ModelArchetype& model) {
  update.update(model);
};

/// Whether O reads the targets of its views.
template <Objective O>
[[nodiscard]] consteval bool predicts() {
  if constexpr (requires { O::predicts; }) {
    return O::predicts;
  } else {
    return true;
  }
}

/// Whether `objective` reads view V now. An objective without `reads` reads all its views whenever it has a weight.
template <class V, Objective O>
[[nodiscard]] bool reads_view(const O& objective) {
  if constexpr (!O::Views::template contains<V>) {
    return false;
  } else if constexpr (requires { objective.template reads<V>(); }) {
    return objective.weight != 0 && objective.template reads<V>();
  } else {
    return objective.weight != 0;
  }
}

/// Whether `objective` reads sampled negatives now. One that does not say may.
template <Objective O>
[[nodiscard]] bool reads_negatives(const O& objective) {
  if constexpr (requires { objective.reads_negatives(); }) {
    return objective.weight != 0 && objective.reads_negatives();
  } else {
    return objective.weight != 0;
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
