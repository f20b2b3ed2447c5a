#pragma once

#include <tuple>
#include <type_traits>

#include "elcrec/core/error.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Throws ArgumentError if an objective would train the encoder on targets that it can see.
template <class Model>
void check_causality(const Model& model) {
  if (is_causal(model.encoder)) {
    return;
  }
  const auto check = [&]<class O>(const O& objective) {
    O::Views::for_each([&]<class V>(std::type_identity<V>) {
      if constexpr (predicts<O>() && needs_causal<V>()) {
        require(!reads_view<V>(objective), "encoder: found one that ",
                TellsCausality<typename Model::EncoderType> ? "sees the tokens that follow"
                                                            : "does not say whether it is causal",
                " under the objective '", O::name, "', which predicts those of ", view_name<V>(),
                "; expected a causal encoder (causal() is true), or PrefixView");
      }
    });
  };
  std::apply([&](const auto&... objective) { (check(objective), ...); }, model.objectives);
}

}  // namespace elcrec::inline ELCREC_TARGET
