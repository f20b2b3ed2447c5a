#pragma once

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <class T>
void embed(EigenLane<T>&, const TokenView& tokens, Input<T> table, Input<T> positions, Output<T> y) {
  for (Index t = 0; t < tokens.tokens(); ++t) {
    const T* item = table.row(tokens.item(t));
    const T* position = positions.row(tokens.position(t));
    T* to = y.row(t);
    eigen::each<T>(y.cols(), [&](auto at) { at(to) = at(item) + at(position); });
  }
}

template <class T>
void position_gradient(EigenLane<T>&, const TokenView& tokens, Input<T> dy, Output<T> dpositions) {
  for (Index t = 0; t < tokens.tokens(); ++t) {
    eigen::add_scaled(T(1), dy.row(t), dpositions.row(tokens.position(t)), dy.cols());
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
