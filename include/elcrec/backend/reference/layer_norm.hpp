#pragma once

#include <cmath>
#include <type_traits>

#include "elcrec/backend/reference/dropout.hpp"
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

/// rstd of layer_norm.
template <class T>
T inverse_deviation(T variance, T eps) {
  return variance == T(0) ? T(0) : T(1) / std::sqrt(variance + eps);
}

}  // namespace reference

/// y = x̂ ∘ gamma + beta with x̂ = (x - mean) rstd, rstd = 1 / sqrt(var + eps), var biased; x̂ (T, D) and rstd (1, T)
/// are kept for the backward pass. x̂ may be x.
/// A row without variance, as dropout makes them, gets rstd 0: x̂ is 0 either way, and so is its gradient, where
/// 1 / sqrt(eps) would make it a million times what arrived and eight layers of such rows infinite.
template <class T>
void layer_norm(ReferenceLane<T>&, Input<T> x, Input<T> gamma, Input<T> beta, std::type_identity_t<T> eps,
                Output<T> normalised, Output<T> rstd, Output<T> y) {
  const T d = static_cast<T>(x.cols());
  for (Index t = 0; t < x.rows(); ++t) {
    T mean = 0;
    for (Index c = 0; c < x.cols(); ++c) {
      mean += x(t, c) / d;
    }
    T variance = 0;
    for (Index c = 0; c < x.cols(); ++c) {
      variance += (x(t, c) - mean) * (x(t, c) - mean) / d;
    }
    rstd(0, t) = reference::inverse_deviation(variance, eps);
    for (Index c = 0; c < x.cols(); ++c) {
      normalised(t, c) = (x(t, c) - mean) * rstd(0, t);
      y(t, c) = normalised(t, c) * gamma(0, c) + beta(0, c);
    }
  }
}

/// With g = dy ∘ gamma: dx = rstd (g - mean(g) - x̂ mean(g ∘ x̂)); dgamma += Σ dy ∘ x̂; dbeta += Σ dy. dx may be dy.
template <class T>
void layer_norm_backward(ReferenceLane<T>&, Input<T> normalised, Input<T> rstd, Input<T> gamma, Input<T> dy,
                         Output<T> dx, Output<T> dgamma, Output<T> dbeta) {
  const T d = static_cast<T>(dy.cols());
  for (Index t = 0; t < dy.rows(); ++t) {
    T mean_g = 0;
    T mean_gx = 0;
    for (Index c = 0; c < dy.cols(); ++c) {
      const T g = dy(t, c) * gamma(0, c);
      mean_g += g / d;
      mean_gx += g * normalised(t, c) / d;
      dgamma(0, c) += dy(t, c) * normalised(t, c);
      dbeta(0, c) += dy(t, c);
    }
    for (Index c = 0; c < dy.cols(); ++c) {
      dx(t, c) = rstd(0, t) * (dy(t, c) * gamma(0, c) - mean_g - normalised(t, c) * mean_gx);
    }
  }
}

/// A sublayer's output joined with its input: s = residual + dropout(x + b) and the layer norm of s; without a bias
/// where b has no memory. x and residual (T, D). The tokens are read only if the mask is active.
template <class T>
void add_norm(ReferenceLane<T>& lane, const TokenView& tokens, const DropoutMask& mask, Input<T> x, Input<T> b,
              Input<T> residual, Input<T> gamma, Input<T> beta, std::type_identity_t<T> eps, Output<T> normalised,
              Output<T> rstd, Output<T> y) {
  lane.copy(x, normalised);
  if (b.data() != nullptr) {
    lane.add_row(T(1), b, normalised);
  }
  dropout(lane, tokens, mask, normalised);
  lane.add_scaled(T(1), residual, normalised);
  layer_norm(lane, normalised, gamma, beta, eps, normalised, rstd, y);
}

/// ds, which may be dy, as layer_norm_backward's dx: it is the gradient of the residual too. dx = mask ∘ ds / (1 -
/// rate); db += Σ dx, where it has memory.
template <class T>
void add_norm_backward(ReferenceLane<T>& lane, const TokenView& tokens, const DropoutMask& mask, Input<T> normalised,
                       Input<T> rstd, Input<T> gamma, Input<T> dy, Output<T> ds, Output<T> dx, Output<T> dgamma,
                       Output<T> dbeta, Output<T> db) {
  layer_norm_backward(lane, normalised, rstd, gamma, dy, ds, dgamma, dbeta);
  lane.copy(ds, dx);
  dropout(lane, tokens, mask, dx);
  if (db.data() != nullptr) {
    lane.add_column_sum(dx, db);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
