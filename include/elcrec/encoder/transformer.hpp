#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <string>
#include <string_view>
#include <vector>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/nn/feed_forward.hpp"
#include "elcrec/nn/filtered_attention.hpp"
#include "elcrec/nn/layer_norm.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <>
inline constexpr std::array<std::string_view, 2> names_of<AttentionMask>{"causal", "bidirectional"};

struct TransformerOptions {
  Index hidden = 64;
  Index layers = 2;
  Index heads = 2;
  Index max_length = 50;
  double dropout = 0.5;            ///< on embeddings and block outputs
  double attention_dropout = 0.5;  ///< on attention probabilities
  double epsilon = 1e-12;          ///< of every layer norm
  double deviation = 0.02;         ///< weights start as N(0, deviation²), biases as 0
  AttentionMask mask = AttentionMask::causal;
  double filter_share = 0;       ///< of a low-pass filter beside attention, as BSARec's 0.7; not causal if above 0
  Index filter_frequencies = 3;  ///< that it lets pass

  /// All but the deviation, which only matters before training.
  static void visit_options(auto& self, auto&& visitor) {
    visitor("hidden", self.hidden);
    visitor("layers", self.layers);
    visitor("heads", self.heads);
    visitor("max_length", self.max_length);
    visitor("dropout", self.dropout);
    visitor("attention_dropout", self.attention_dropout);
    visitor("epsilon", self.epsilon);
    visitor("mask", self.mask);
    visitor("filter_share", self.filter_share);
    visitor("filter_frequencies", self.filter_frequencies);
  }
};

/// SASRec's encoder as ELCRec uses it (post-norm):
/// x_t = dropout(LN(E[item_t] + P[position_t])), then N times a = FilteredAttention(x), x = FeedForward(a).
template <Index Hidden, Backend B>
class TransformerEncoder {
  static_assert(operation::Embedding<typename B::Lane>,
                "TransformerEncoder: the lane lacks operations of operation::Embedding");
  static_assert(operation::Dropout<typename B::Lane>,
                "TransformerEncoder: the lane lacks operations of operation::Dropout");
  static_assert(operation::LastPooling<typename B::Lane>,
                "TransformerEncoder: the lane lacks operations of operation::LastPooling");

 public:
  static constexpr std::string_view name = "transformer";
  using Backend = B;
  using Options = TransformerOptions;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Layer {
    FilteredAttention<B> attention;
    FeedForward<B> feed_forward;

    struct Cache {
      typename FilteredAttention<B>::Cache attention;
      typename FeedForward<B>::Cache feed_forward;
    };
  };

  struct Cache {
    typename LayerNorm<B>::Cache norm;
    std::span<typename Layer::Cache> layers;
  };

  TransformerEncoder(const B& backend, const TransformerOptions& options, std::uint64_t seed = 0)
      : options_(checked(options)),
        positions_(backend, options.max_length, options.hidden),
        norm_(backend, options.hidden, options.epsilon) {
    const AttentionOptions attention{.heads = options.heads,
                                     .dropout = options.dropout,
                                     .probability_dropout = options.attention_dropout,
                                     .epsilon = options.epsilon,
                                     .mask = options.mask};
    const FilterOptions filter{.max_length = options.max_length,
                               .frequencies = options.filter_frequencies,
                               .dropout = options.dropout,
                               .epsilon = options.epsilon};
    for (Index i = 0; i < options.layers; ++i) {
      layers_.push_back({FilteredAttention<B>(backend, options.hidden, attention, options.filter_share, filter),
                         FeedForward<B>(backend, options.hidden, options.dropout, options.epsilon)});
    }
    std::uint32_t which = 1;  // 0 draws the item table
    for (auto& p : parameters(*this)) {
      if (p.rank == 2) {
        initialise_normal(backend, seed, which++, options.deviation, p.values);
      }
    }
  }

  [[nodiscard]] Index hidden() const { return options_.hidden; }
  [[nodiscard]] Index max_length() const { return options_.max_length; }
  [[nodiscard]] bool causal() const { return options_.mask == AttentionMask::causal && options_.filter_share == 0; }
  [[nodiscard]] const TransformerOptions& options() const { return options_; }

  /// An encoder of the same options, its parameters drawn anew.
  template <class To>
  [[nodiscard]] TransformerEncoder<Hidden, To> remake(const To& backend) const {
    return {backend, options_};
  }

  /// y (T, D) from table (V, D). Allocates in pass.memory only.
  void forward(const Pass<B>& pass, const TokenView& tokens, In table, Cache& cache, Out y) const {
    forward_layers(pass, tokens, table, layers_.size(), cache, y);
  }

  /// y (S, D): forward's rows for the last token of each sequence, without dropout. The last layer works on those rows
  /// alone, and on its input for every token. A sequence without tokens gets anything finite.
  void forward_last(const Pass<B>& pass, const TokenView& tokens, In table, Out y) const {
    assert(!pass.dropout.training);
    const auto frame = pass.memory.frame();
    const std::size_t below = layers_.empty() ? 0 : layers_.size() - 1;
    const Out x = pass.keep(tokens.tokens(), hidden());
    Cache cache;
    forward_layers(pass, tokens, table, below, cache, x);
    const Out last = layers_.empty() ? y : pass.keep(y.rows(), hidden());
    last_pool(pass.lane, tokens, x, last);
    if (!layers_.empty()) {
      const Out a = pass.keep(y.rows(), hidden());
      layers_.back().attention.forward_last(pass, tokens, x, last, a);
      typename FeedForward<B>::Cache unused;
      layers_.back().feed_forward.forward(pass, feed_forward_site(below), tokens, a, unused, y);
    }
  }

  /// dy (T, D), overwritten -> dembedded (T, D); adds to gradient's parameters.
  void backward(const Pass<B>& pass, const TokenView& tokens, const Cache& cache, Out dy, TransformerEncoder& gradient,
                Out dembedded) const {
    for (std::size_t i = layers_.size(); i-- > 0;) {
      auto& into = gradient.layers_[i];
      layers_[i].feed_forward.backward(pass, feed_forward_site(i), tokens, cache.layers[i].feed_forward, dy,
                                       into.feed_forward, dy);
      layers_[i].attention.backward(pass, attention_site(i), tokens, cache.layers[i].attention, dy, into.attention, dy);
    }
    dropout(pass.lane, tokens, embedding_mask(pass), dy);
    norm_.backward(pass, cache.norm, dy, gradient.norm_, dembedded);
    position_gradient(pass.lane, tokens, dembedded, gradient.positions_.view());
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("position_embeddings.weight", MatrixView(self.positions_.view()), 2);
    for (std::size_t i = 0; i < self.layers_.size(); ++i) {
      const std::string layer = message("item_encoder.layer.", i, '.');
      FilteredAttention<B>::visit_parameters(self.layers_[i].attention, scoped(layer + "attention.", visitor));
      FeedForward<B>::visit_parameters(self.layers_[i].feed_forward, scoped(layer + "intermediate.", visitor));
    }
    LayerNorm<B>::visit_parameters(self.norm_, scoped("LayerNorm.", visitor));
  }

  /// visitor(name, shape) for the parameters of an encoder with these options, as visit_parameters names them.
  static void visit_shapes(const Options& o, auto&& visitor) {
    visitor("position_embeddings.weight", std::vector<Index>{o.max_length, o.hidden});
    for (Index i = 0; i < o.layers; ++i) {
      const std::string layer = message("item_encoder.layer.", i, '.');
      FilteredAttention<B>::visit_shapes(o.hidden, o.filter_share, scoped(layer + "attention.", visitor));
      FeedForward<B>::visit_shapes(o.hidden, scoped(layer + "intermediate.", visitor));
    }
    LayerNorm<B>::visit_shapes(o.hidden, scoped("LayerNorm.", visitor));
  }
  /// Throws ArgumentError if the filter, the one matrix that is no parameter, is larger than a file of so many numbers
  /// accounts for.
  static void check_unsaved(const Options& o, Index saved) {
    constexpr Index usual = Index{1} << 20;
    require(o.filter_share == 0 ||
                checked_product("filter", o.max_length, o.filter_frequencies) <= (std::max)(usual, saved),
            "filter_frequencies: found ", o.filter_frequencies, " for ", o.max_length,
            " positions, expected fewer than make the filter larger than the item table");
  }

 private:
  /// The embedding and the first `count` layers.
  void forward_layers(const Pass<B>& pass, const TokenView& tokens, In table, std::size_t count, Cache& cache,
                      Out y) const {
    cache.layers = pass.memory.template host_array<typename Layer::Cache>(static_cast<Index>(count));
    const Index t = tokens.tokens();
    Out x = count == 0 ? y : pass.keep(t, hidden());
    embed(pass.lane, tokens, table, positions_.view(), y);
    norm_.forward(pass, y, cache.norm, x);
    dropout(pass.lane, tokens, embedding_mask(pass), x);
    for (std::size_t i = 0; i < count; ++i) {
      const Out a = pass.keep(t, hidden());
      const Out next = i + 1 == count ? y : pass.keep(t, hidden());
      layers_[i].attention.forward(pass, attention_site(i), tokens, x, cache.layers[i].attention, a);
      layers_[i].feed_forward.forward(pass, feed_forward_site(i), tokens, a, cache.layers[i].feed_forward, next);
      x = next;
    }
  }

  static constexpr std::uint32_t sites_per_layer = FilteredAttention<B>::sites + 1;
  static std::uint32_t attention_site(std::size_t layer) {
    return 1 + sites_per_layer * static_cast<std::uint32_t>(layer);
  }
  static std::uint32_t feed_forward_site(std::size_t layer) {
    return attention_site(layer) + FilteredAttention<B>::sites;
  }
  [[nodiscard]] DropoutMask embedding_mask(const Pass<B>& pass) const { return pass.dropout.mask(0, options_.dropout); }

  static const TransformerOptions& checked(const TransformerOptions& o) {
    require(o.hidden >= 1, "hidden size: found ", o.hidden, ", expected at least 1");
    require(Hidden == Dynamic || Hidden == o.hidden, "hidden size: found ", o.hidden, ", expected ", Hidden,
            ", the size that the encoder's type fixes");
    require(o.heads >= 1 && o.hidden % o.heads == 0, "heads: found ", o.heads,
            ", expected a divisor of the hidden size ", o.hidden);
    require(o.layers >= 0 && o.layers <= 64, "layers: found ", o.layers, ", expected 0 to 64");
    require(o.max_length >= 1, "maximum length: found ", o.max_length, ", expected at least 1");
    require(o.filter_frequencies >= 1, "filter_frequencies: found ", o.filter_frequencies, ", expected at least 1");
    require(o.epsilon >= 1e-30 && o.epsilon <= 1, "epsilon of the layer norms: found ", o.epsilon,
            ", expected a value in [1e-30, 1]");
    for (const double rate : {o.dropout, o.attention_dropout}) {
      require(rate >= 0 && rate < 1, "dropout: found ", rate, ", expected a value in [0, 1)");
    }
    return o;
  }

  TransformerOptions options_;
  Matrix<B, Dynamic, Hidden> positions_;  // (L, D)
  LayerNorm<B> norm_;
  std::vector<Layer> layers_;
};

}  // namespace elcrec::inline ELCREC_TARGET
