#pragma once

#include "elcrec/core/checked.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/layer_norm.hpp"
#include "elcrec/nn/linear.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y = LN(x + dropout(W_2 · gelu(W_1 · x))), with an inner width of 4D.
template <Backend B>
struct FeedForward {
  static_assert(operation::Gelu<typename B::Lane>, "FeedForward: the lane lacks operations of operation::Gelu");
  using Backend = B;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    In x;       // (T, D)
    Out inner;  // (T, 4D) before bias and activation
    typename LayerNorm<B>::Cache norm;
  };

  FeedForward(const B& backend, Index hidden, double dropout_rate, double epsilon)
      : first(backend, hidden, checked_product("feed-forward", 4, hidden)),
        second(backend, checked_product("feed-forward", 4, hidden), hidden),
        norm(backend, hidden, epsilon),
        dropout(dropout_rate) {}

  void forward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, In x, Cache& cache, Out y) const {
    cache = {x, pass.keep(x.rows(), 4 * x.cols()), {}};
    const auto frame = pass.lane.workspace().frame();
    const Out active = pass.scratch(x.rows(), 4 * x.cols());
    const Out out = pass.scratch(x.rows(), x.cols());
    first.forward_without_bias(pass.lane, x, cache.inner);
    bias_gelu(pass.lane, cache.inner, first.bias.view(), active);
    second.forward_without_bias(pass.lane, active, out);
    norm.add_forward(pass, tokens, pass.dropout.mask(site, dropout), out, second.bias.view(), x, cache.norm, y);
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, const Cache& cache, In dy,
                FeedForward& gradient, Out dx) const {
    const auto frame = pass.lane.workspace().frame();
    const Out dout = pass.scratch(dy.rows(), dy.cols());
    const Out active = pass.scratch(dy.rows(), 4 * dy.cols());
    const Out dinner = pass.scratch(dy.rows(), 4 * dy.cols());
    norm.add_backward(pass, tokens, pass.dropout.mask(site, dropout), cache.norm, dy, gradient.norm, dx, dout,
                      gradient.second.bias.view());
    second.input_gradient(pass.lane, dout, dinner, Write::replace);
    bias_gelu_backward(pass.lane, cache.inner, first.bias.view(), dinner, active, dinner);
    second.accumulate_weight(pass.lane, active, dout, gradient.second);
    first.accumulate(pass.lane, cache.x, dinner, gradient.first);
    first.input_gradient(pass.lane, dinner, dx, Write::add);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    Linear<B>::visit_parameters(self.first, scoped("dense_1.", visitor));
    Linear<B>::visit_parameters(self.second, scoped("dense_2.", visitor));
    LayerNorm<B>::visit_parameters(self.norm, scoped("LayerNorm.", visitor));
  }

  static void visit_shapes(Index hidden, auto&& visitor) {
    const Index wide = checked_product("feed-forward", 4, hidden);
    Linear<B>::visit_shapes(hidden, wide, scoped("dense_1.", visitor));
    Linear<B>::visit_shapes(wide, hidden, scoped("dense_2.", visitor));
    LayerNorm<B>::visit_shapes(hidden, scoped("LayerNorm.", visitor));
  }

  Linear<B> first;   // (4D, D)
  Linear<B> second;  // (D, 4D)
  LayerNorm<B> norm;
  double dropout;
};

}  // namespace elcrec::inline ELCREC_TARGET
