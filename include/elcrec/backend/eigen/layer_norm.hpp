#pragma once

#include <algorithm>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// On top of Dropout.
template <class Base>
class LayerNorm : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void layer_norm(In x, In gamma, In beta, T eps, Out normalised, Out rstd, Out y) const {
    for (Index t = 0; t < x.rows(); ++t) {
      rstd(0, t) = norm_row(x.row(t), gamma.data(), beta.data(), eps, x.cols(), normalised.row(t), y.row(t));
    }
  }

  void layer_norm_backward(In normalised, In rstd, In gamma, In dy, Out dx, Out dgamma, Out dbeta) const {
    for (Index t = 0; t < dy.rows(); ++t) {
      norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), dx.row(t), dgamma.data(),
                        dbeta.data());
    }
  }

  void add_norm(const TokenView& tokens, const DropoutMask& mask, In x, In b, In residual, In gamma, In beta, T eps,
                Out normalised, Out rstd, Out y) {
    const auto frame = this->workspace().frame();
    const T* bias = b.data() == nullptr ? zero_row(x.cols()) : b.data();
    this->for_each_mask_row(tokens, mask, x, [&](Index t, const T* factors) {
      const T* in = x.row(t);
      const T* add = residual.row(t);
      T* sum = normalised.row(t);
      each<T>(x.cols(), [&](auto at) { at(sum) = (at(in) + at(bias)) * at(factors) + at(add); });
      rstd(0, t) = norm_row(sum, gamma.data(), beta.data(), eps, x.cols(), sum, y.row(t));
    });
  }

  void add_norm_backward(const TokenView& tokens, const DropoutMask& mask, In normalised, In rstd, In gamma, In dy,
                         Out ds, Out dx, Out dgamma, Out dbeta, Out db) {
    const auto frame = this->workspace().frame();
    T* dbias = db.data() == nullptr ? zero_row(dy.cols()) : db.data();
    this->for_each_mask_row(tokens, mask, dy, [&](Index t, const T* factors) {
      T* in = ds.row(t);
      T* out = dx.row(t);
      norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), in, dgamma.data(),
                        dbeta.data());
      each<T>(dy.cols(), [&](auto at) {
        at(out) = at(in) * at(factors);
        at(dbias) += at(out);
      });
    });
  }

 private:
  T* zero_row(Index columns) {
    const auto row = this->workspace().template array<T>(columns);
    std::fill(row.begin(), row.end(), T(0));
    return row.data();
  }

  /// x̂ and y of layer_norm for one row of d elements; returns its rstd. hat may be x.
  static T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
    const T mean = sum_of<T>(d, [&](auto at) { return at(x); }) / static_cast<T>(d);
    const T variance = sum_of<T>(d, [&](auto at) { return (at(x) - mean).square(); }) / static_cast<T>(d);
    const T r = Base::inverse_deviation(variance, eps);
    each<T>(d, [&](auto at) {
      at(hat) = (at(x) - mean) * r;
      at(y) = at(hat) * at(gamma) + at(beta);
    });
    return r;
  }

  /// layer_norm_backward for one row of d elements. dx may be dy.
  static void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
    const T mean_g = dot(dy, gamma, d) / static_cast<T>(d);
    const T mean_gx = sum_of<T>(d, [&](auto at) { return at(dy) * at(gamma) * at(hat); }) / static_cast<T>(d);
    each<T>(d, [&](auto at) {
      at(dgamma) += at(dy) * at(hat);
      at(dbeta) += at(dy);
      at(dx) = r * (at(dy) * at(gamma) - mean_g - at(hat) * mean_gx);
    });
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
