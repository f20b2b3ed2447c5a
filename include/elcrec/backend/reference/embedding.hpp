#pragma once

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y_t = table[item_t] + positions[position_t]
template <class T>
void embed(ReferenceLane<T>&, const TokenView& tokens, Input<T> table, Input<T> positions, Output<T> y) {
  for (Index t = 0; t < tokens.tokens(); ++t) {
    for (Index c = 0; c < y.cols(); ++c) {
      y(t, c) = table(tokens.item(t), c) + positions(tokens.position(t), c);
    }
  }
}

/// dpositions[position_t] += dy_t
template <class T>
void position_gradient(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dpositions) {
  for (Index t = 0; t < tokens.tokens(); ++t) {
    const Index p = tokens.position(t);
    lane.add_scaled(T(1), dy.slice_rows(t, t + 1), dpositions.slice_rows(p, p + 1));
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
