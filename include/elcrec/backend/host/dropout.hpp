#pragma once

#include <algorithm>

#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// Room for the dropout factors of `columns` elements.
template <VectorLane L>
[[nodiscard]] typename L::Scalar* factor_row(L& lane, Index columns) {
  const Index elements = DropoutMask::groups(columns) * DropoutMask::group_columns;
  return lane.workspace().template array<typename L::Scalar>(elements).data();
}

/// f(t, what the elements of row t of x are multiplied by), for every row.
template <VectorLane L, class F>
void for_each_mask_row(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::In x, F f) {
  using T = typename L::Scalar;
  T* factors = factor_row(lane, x.cols());
  if (!mask.active()) {
    std::fill_n(factors, x.cols(), T(1));
    for (Index t = 0; t < x.rows(); ++t) {
      f(t, factors);
    }
    return;
  }
  typename L::Vector::DropoutFactors source(mask);
  for (Index s = 0; s < tokens.sequences(); ++s) {
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      source.row(tokens.random_row(s, t), x.cols(), 0, x.cols(), factors);
      f(t, factors);
    }
  }
}

}  // namespace detail

template <VectorLane L>
void dropout(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::Out x) {
  if (!mask.active()) {
    return;
  }
  const auto frame = lane.workspace().frame();
  detail::for_each_mask_row(lane, tokens, mask, x, [&](Index t, const auto* factors) {
    L::Vector::each(x.cols(), [row = x.row(t), factors](auto at) { at.put(row, at(row) * at(factors)); });
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
