#pragma once

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// x = mask ∘ x / (1 - rate), in place; its own backward pass
template <class T>
void dropout(ReferenceLane<T>&, const TokenView& tokens, const DropoutMask& mask, Output<T> x) {
  if (!mask.active()) {
    return;
  }
  for (Index s = 0; s < tokens.sequences(); ++s) {
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      for (Index c = 0; c < x.cols(); ++c) {
        const bool kept = mask.keeps(tokens.random_row(s, t), c, x.cols());
        x(t, c) = kept ? x(t, c) * static_cast<T>(mask.scale()) : T(0);
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
