#pragma once

#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y = gamma ∘ (x - mean) / sqrt(var + eps) + beta over the columns, with the biased variance.
template <Backend B>
struct LayerNorm {
  static_assert(operation::LayerNorm<typename B::Lane>, "LayerNorm: the lane lacks operations of operation::LayerNorm");
  using Backend = B;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    Out normalised;  // (T, D)
    Out rstd;        // (1, T)
  };

  LayerNorm(const B& backend, Index columns, double eps)
      : gamma(backend, 1, columns), beta(backend, 1, columns), epsilon(static_cast<T>(eps)) {
    initialise_constant(backend, 1.0, gamma.view());
  }

  /// x (T, D) -> y (T, D)
  void forward(const Pass<B>& pass, In x, Cache& cache, Out y) const {
    cache = {pass.keep(x.rows(), x.cols()), pass.keep(1, x.rows())};
    layer_norm(pass.lane, x, gamma.view(), beta.view(), epsilon, cache.normalised, cache.rstd, y);
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, const Cache& cache, In dy, LayerNorm& gradient, Out dx) const {
    layer_norm_backward(pass.lane, cache.normalised, cache.rstd, gamma.view(), dy, dx, gradient.gamma.view(),
                        gradient.beta.view());
  }

  /// y = LN(residual + dropout(x + b)), with a bias b (1, D) or none. x, residual (T, D) -> y (T, D)
  void add_forward(const Pass<B>& pass, const TokenView& tokens, const DropoutMask& mask, In x, In b, In residual,
                   Cache& cache, Out y) const {
    cache = {pass.keep(x.rows(), x.cols()), pass.keep(1, x.rows())};
    add_norm(pass.lane, tokens, mask, x, b, residual, gamma.view(), beta.view(), epsilon, cache.normalised, cache.rstd,
             y);
  }

  /// dy (T, D) -> dresidual (T, D), which may be dy, and dx (T, D); adds to db (1, D) or, without a bias, to none.
  void add_backward(const Pass<B>& pass, const TokenView& tokens, const DropoutMask& mask, const Cache& cache, In dy,
                    LayerNorm& gradient, Out dresidual, Out dx, Out db) const {
    add_norm_backward(pass.lane, tokens, mask, cache.normalised, cache.rstd, gamma.view(), dy, dresidual, dx,
                      gradient.gamma.view(), gradient.beta.view(), db);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("weight", self.gamma.view(), 1);
    visitor("bias", self.beta.view(), 1);
  }

  static void visit_shapes(Index hidden, auto&& visitor) {
    visitor("weight", std::vector<Index>{hidden});
    visitor("bias", std::vector<Index>{hidden});
  }

  Matrix<B> gamma;  // (1, D)
  Matrix<B> beta;   // (1, D)
  T epsilon;
};

}  // namespace elcrec::inline ELCREC_TARGET
