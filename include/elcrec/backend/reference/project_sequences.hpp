#pragma once

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y_s = U Uᵀ x_s for each sequence, where row t of U is the basis' row of the token's position; basis (L, R). y is
/// not x. O(R D) a token.
template <class T>
void project_sequences(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> basis, Input<T> x, Output<T> y) {
  const auto frame = lane.workspace().frame();
  const Output<T> amplitudes = lane.workspace().template matrix<T>(basis.cols(), x.cols());
  for (Index s = 0; s < tokens.sequences(); ++s) {
    lane.fill(amplitudes, T(0));
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      for (Index r = 0; r < basis.cols(); ++r) {
        lane.add_scaled(basis(tokens.position(t), r), x.slice_rows(t, t + 1), amplitudes.slice_rows(r, r + 1));
      }
    }
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      lane.fill(y.slice_rows(t, t + 1), T(0));
      for (Index r = 0; r < basis.cols(); ++r) {
        lane.add_scaled(basis(tokens.position(t), r), amplitudes.slice_rows(r, r + 1), y.slice_rows(t, t + 1));
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
