#pragma once

#include <array>
#include <cmath>
#include <string>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/nn/layer_norm.hpp"
#include "elcrec/nn/linear.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct AttentionOptions {
  Index heads = 2;
  double dropout = 0.5;              ///< on the block's output
  double probability_dropout = 0.5;  ///< on the attention probabilities
  double epsilon = 1e-12;            ///< of the layer norm
  AttentionMask mask = AttentionMask::causal;
};

/// y = LN(x + dropout(W_o · attention(x))), attention over each sequence of a ragged batch (Vaswani et al., 2017).
template <Backend B>
struct AttentionBlock {
  static_assert(operation::Attention<typename B::Lane>,
                "AttentionBlock: the lane lacks operations of operation::Attention");
  using Backend = B;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    In x;               // (T, D)
    Out qkv;            // (T, 3D)
    Out probabilities;  // (T, heads · key columns)
    Out context;        // (T, D)
    typename LayerNorm<B>::Cache norm;
  };

  /// Dropout places, counted from the layer's first.
  static constexpr std::uint32_t probability_site = 0;
  static constexpr std::uint32_t output_site = 1;

  AttentionBlock(const B& backend, Index hidden, const AttentionOptions& o)
      : projection(backend, hidden, checked_product("attention", 3, hidden)),
        dense(backend, hidden, hidden),
        norm(backend, hidden, o.epsilon),
        options(o) {}

  void forward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, In x, Cache& cache, Out y) const {
    const Index t = x.rows();
    const Index d = x.cols();
    const Index keys = B::Lane::key_columns(tokens.longest);
    cache = {x, pass.keep(t, 3 * d), pass.keep(t, options.heads * keys), pass.keep(t, d), {}};
    projection.forward(pass.lane, x, cache.qkv);
    attention(pass.lane, tokens, options.heads, options.mask, probability_mask(pass, site), cache.qkv,
              cache.probabilities, cache.context);
    const auto frame = pass.lane.workspace().frame();
    const Out out = pass.scratch(t, d);
    dense.forward_without_bias(pass.lane, cache.context, out);
    norm.add_forward(pass, tokens, output_mask(pass, site), out, dense.bias.view(), x, cache.norm, y);
  }

  /// forward's rows for the last token of each sequence, without dropout. x (T, D), x_last (S, D) -> y (S, D)
  ///
  /// One query a sequence needs no keys and values of its tokens. With k_j = W_k x_j + b_k and v_j = W_v x_j + b_v of a
  /// head, q·k_j = (W_kᵀ q)·x_j + q·b_k, whose last term is the same for every j and so none of the softmax's, and
  /// Σ p_j v_j = W_v Σ p_j x_j + b_v. So the two projections are made once a sequence instead of once a token.
  void forward_last(const Pass<B>& pass, const TokenView& tokens, In x, In x_last, Out y) const {
    const Index s = x_last.rows();
    const Index d = x.cols();
    const auto frame = pass.lane.workspace().frame();
    const Index heads = options.heads;
    const Index w = d / heads;
    const Out queries = pass.scratch(s, d);
    const Out token_queries = pass.scratch(s, heads * d);  // W_kᵀ q of each head
    const Out sums = pass.scratch(s, heads * d);           // Σ p_j x_j of each head
    const Out context = pass.scratch(s, d);
    const In weight = projection.weight.view();
    const In bias = projection.bias.view();
    const auto of_head = [](auto matrix, Index h, Index columns) {
      return matrix.slice_cols(h * columns, (h + 1) * columns);
    };
    pass.lane.linear(x_last, weight.slice_rows(0, d), bias.slice_cols(0, d), queries);
    for (Index h = 0; h < heads; ++h) {
      const In key_weight = weight.slice_rows(d + h * w, d + (h + 1) * w);
      pass.lane.multiply_nn(of_head(queries, h, w), key_weight, of_head(token_queries, h, d), Write::replace);
    }
    last_attention(pass.lane, tokens, T(1) / std::sqrt(static_cast<T>(w)), token_queries, x, sums);
    for (Index h = 0; h < heads; ++h) {
      const In value_weight = weight.slice_rows(2 * d + h * w, 2 * d + (h + 1) * w);
      const In value_bias = of_head(bias.slice_cols(2 * d, 3 * d), h, w);
      pass.lane.linear(of_head(sums, h, d), value_weight, value_bias, of_head(context, h, w));
    }
    const Out out = pass.scratch(s, d);
    dense.forward_without_bias(pass.lane, context, out);
    typename LayerNorm<B>::Cache unused;
    norm.add_forward(pass, tokens, DropoutMask(), out, dense.bias.view(), x_last, unused, y);
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, const Cache& cache, In dy,
                AttentionBlock& gradient, Out dx) const {
    const auto frame = pass.lane.workspace().frame();
    const Out dout = pass.scratch(dy.rows(), dy.cols());
    const Out dcontext = pass.scratch(dy.rows(), dy.cols());
    const Out dqkv = pass.scratch(dy.rows(), 3 * dy.cols());
    norm.add_backward(pass, tokens, output_mask(pass, site), cache.norm, dy, gradient.norm, dx, dout,
                      gradient.dense.bias.view());
    dense.accumulate_weight(pass.lane, cache.context, dout, gradient.dense);
    dense.input_gradient(pass.lane, dout, dcontext, Write::replace);
    attention_backward(pass.lane, tokens, options.heads, options.mask, probability_mask(pass, site), cache.qkv,
                       cache.probabilities, dcontext, dqkv);
    projection.accumulate(pass.lane, cache.x, dqkv, gradient.projection);
    projection.input_gradient(pass.lane, dqkv, dx, Write::add);
  }

  /// The joint projection is three parameters to the outside, as in PyTorch.
  static void visit_parameters(auto& self, auto&& visitor) {
    const auto weight = self.projection.weight.view();
    const auto bias = self.projection.bias.view();
    const Index d = weight.cols();
    const std::array<const char*, 3> names{"query", "key", "value"};
    for (Index i = 0; i < 3; ++i) {
      const std::string name = names[static_cast<std::size_t>(i)];
      visitor(name + ".weight", weight.slice_rows(i * d, (i + 1) * d), 2);
      visitor(name + ".bias", bias.slice_cols(i * d, (i + 1) * d), 1);
    }
    Linear<B>::visit_parameters(self.dense, scoped("dense.", visitor));
    LayerNorm<B>::visit_parameters(self.norm, scoped("LayerNorm.", visitor));
  }

  static void visit_shapes(Index hidden, auto&& visitor) {
    for (const char* name : {"query.", "key.", "value.", "dense."}) {
      Linear<B>::visit_shapes(hidden, hidden, scoped(name, visitor));
    }
    LayerNorm<B>::visit_shapes(hidden, scoped("LayerNorm.", visitor));
  }

  Linear<B> projection;  // (3D, D): queries, keys, values
  Linear<B> dense;       // (D, D)
  LayerNorm<B> norm;
  AttentionOptions options;

 private:
  [[nodiscard]] DropoutMask probability_mask(const Pass<B>& pass, std::uint32_t site) const {
    return pass.dropout.mask(site + probability_site, options.probability_dropout);
  }
  [[nodiscard]] DropoutMask output_mask(const Pass<B>& pass, std::uint32_t site) const {
    return pass.dropout.mask(site + output_site, options.dropout);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
