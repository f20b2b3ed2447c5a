#pragma once

#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/layer_norm.hpp"
#include "elcrec/nn/linear.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec {

/// y = LN(x + dropout(W_2 · gelu(W_1 · x))), with an inner width of 4D.
template <Backend B>
struct FeedForward {
  using Backend = B;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    In x;       // (T, D)
    Out inner;  // (T, 4D) before the activation
    typename LayerNorm<B>::Cache norm;
  };

  FeedForward(const B& backend, Index hidden, double dropout_rate, double epsilon)
      : first(backend, hidden, 4 * hidden),
        second(backend, 4 * hidden, hidden),
        norm(backend, hidden, epsilon),
        dropout(dropout_rate) {}

  void forward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, In x, Cache& cache, Out y) const {
    cache = {x, pass.keep(x.rows(), 4 * x.cols()), {}};
    const auto frame = pass.lane.workspace().frame();
    const Out active = pass.scratch(x.rows(), 4 * x.cols());
    const Out sum = pass.scratch(x.rows(), x.cols());
    first.forward(pass.lane, x, cache.inner);
    pass.lane.gelu(cache.inner, active);
    second.forward(pass.lane, active, sum);
    pass.lane.dropout(tokens, pass.dropout.mask(site, dropout), sum);
    pass.lane.add_scaled(T(1), x, sum);
    norm.forward(pass, sum, cache.norm, y);
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, const Cache& cache, In dy,
                FeedForward& gradient, Out dx) const {
    const auto frame = pass.lane.workspace().frame();
    const Out dsum = pass.scratch(dy.rows(), dy.cols());
    const Out active = pass.scratch(dy.rows(), 4 * dy.cols());
    const Out dinner = pass.scratch(dy.rows(), 4 * dy.cols());
    norm.backward(pass, cache.norm, dy, gradient.norm, dx);  // the residual branch of dx
    pass.lane.copy(dx, dsum);
    pass.lane.dropout(tokens, pass.dropout.mask(site, dropout), dsum);
    second.input_gradient(pass.lane, dsum, dinner, Write::replace);
    pass.lane.gelu_backward(cache.inner, dinner, active, dinner);
    second.accumulate(pass.lane, active, dsum, gradient.second);
    first.accumulate(pass.lane, cache.x, dinner, gradient.first);
    first.input_gradient(pass.lane, dinner, dx, Write::add);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    Linear<B>::visit_parameters(self.first, scoped("dense_1.", visitor));
    Linear<B>::visit_parameters(self.second, scoped("dense_2.", visitor));
    LayerNorm<B>::visit_parameters(self.norm, scoped("LayerNorm.", visitor));
  }

  Linear<B> first;   // (4D, D)
  Linear<B> second;  // (D, 4D)
  LayerNorm<B> norm;
  double dropout;
};

}  // namespace elcrec
