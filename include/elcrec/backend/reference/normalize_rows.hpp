#pragma once

#include <algorithm>
#include <cmath>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y_r = x_r / max(|x_r|, 1e-12); norms (1, R) are kept for the backward pass. y may be x.
template <class T>
void normalize_rows(ReferenceLane<T>&, Input<T> x, Output<T> norms, Output<T> y) {
  for (Index r = 0; r < x.rows(); ++r) {
    norms(0, r) = (std::max)(std::sqrt(reference::dot(x.row(r), x.row(r), x.cols())), T(1e-12));
    for (Index c = 0; c < x.cols(); ++c) {
      y(r, c) = x(r, c) / norms(0, r);
    }
  }
}

/// dx_r = (dy_r - y_r (y_r·dy_r)) / norm_r. dx may be dy.
template <class T>
void normalize_rows_backward(ReferenceLane<T>&, Input<T> y, Input<T> norms, Input<T> dy, Output<T> dx) {
  for (Index r = 0; r < y.rows(); ++r) {
    const T along = reference::dot(y.row(r), dy.row(r), y.cols());
    for (Index c = 0; c < y.cols(); ++c) {
      dx(r, c) = (dy(r, c) - y(r, c) * along) / norms(0, r);
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
