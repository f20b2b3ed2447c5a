#pragma once

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/reference/layer_norm.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// x̂ and y of layer_norm for one row of d elements; returns its rstd. hat may be x.
template <class T>
T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
  const T mean = sum_of<T>(d, [&](auto at) { return at(x); }) / static_cast<T>(d);
  const T variance = sum_of<T>(d, [&](auto at) { return (at(x) - mean).square(); }) / static_cast<T>(d);
  const T r = reference::inverse_deviation(variance, eps);
  each<T>(d, [&](auto at) {
    at(hat) = (at(x) - mean) * r;
    at(y) = at(hat) * at(gamma) + at(beta);
  });
  return r;
}

/// layer_norm_backward for one row of d elements. dx may be dy.
template <class T>
void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
  const T mean_g = dot(dy, gamma, d) / static_cast<T>(d);
  const T mean_gx = sum_of<T>(d, [&](auto at) { return at(dy) * at(gamma) * at(hat); }) / static_cast<T>(d);
  each<T>(d, [&](auto at) {
    at(dgamma) += at(dy) * at(hat);
    at(dbeta) += at(dy);
    at(dx) = r * (at(dy) * at(gamma) - mean_g - at(hat) * mean_gx);
  });
}

/// s = (x + bias) ∘ factors + residual in `hat`, then norm_row of it.
template <class T>
T add_norm_row(const T* x, const T* bias, const T* factors, const T* residual, const T* gamma, const T* beta, T eps,
               Index d, T* hat, T* y) {
  each<T>(d, [&](auto at) { at(hat) = (at(x) + at(bias)) * at(factors) + at(residual); });
  return eigen::norm_row<T>(hat, gamma, beta, eps, d, hat, y);
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
