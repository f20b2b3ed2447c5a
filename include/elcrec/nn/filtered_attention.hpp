#pragma once

#include <optional>

#include "elcrec/core/error.hpp"
#include "elcrec/nn/attention.hpp"
#include "elcrec/nn/filter_block.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y = s · FilterBlock(x) + (1 - s) · AttentionBlock(x), as a layer of BSARec mixes the tokens of a sequence. With s =
/// 0 it is the AttentionBlock: there is no filter then, and no parameter of one.
template <Backend B>
struct FilteredAttention {
  using Backend = B;
  using T = typename B::Scalar;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    typename AttentionBlock<B>::Cache attention;
    typename FilterBlock<B>::Cache filter;
  };

  /// Dropout places, counted from the layer's first; those of the attention come before.
  static constexpr std::uint32_t filter_site = AttentionBlock<B>::output_site + 1;
  static constexpr std::uint32_t sites = filter_site + 1;

  FilteredAttention(const B& backend, Index hidden, const AttentionOptions& attention_options, double filter_share,
                    const FilterOptions& filter_options)
      : attention(backend, hidden, attention_options), share(filter_share) {
    require(share >= 0 && share < 1, "share of the filter: found ", share, ", expected a value in [0, 1)");
    if (share > 0) {
      filter.emplace(backend, hidden, filter_options);
    }
  }

  void forward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, In x, Cache& cache, Out y) const {
    attention.forward(pass, site, tokens, x, cache.attention, y);
    if (filter) {
      const auto frame = pass.lane.workspace().frame();
      const Out filtered = pass.scratch(x.rows(), x.cols());
      filter->forward(pass, site + filter_site, tokens, x, cache.filter, filtered);
      mix(pass, filtered, y);
    }
  }

  void forward_last(const Pass<B>& pass, const TokenView& tokens, In x, In x_last, Out y) const {
    attention.forward_last(pass, tokens, x, x_last, y);
    if (filter) {
      const auto frame = pass.lane.workspace().frame();
      const Out filtered = pass.scratch(y.rows(), y.cols());
      filter->forward_last(pass, tokens, x, x_last, filtered);
      mix(pass, filtered, y);
    }
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, const Cache& cache, In dy,
                FilteredAttention& gradient, Out dx) const {
    if (!filter) {
      attention.backward(pass, site, tokens, cache.attention, dy, gradient.attention, dx);
      return;
    }
    const auto frame = pass.lane.workspace().frame();
    const Out dattention = pass.scratch(dy.rows(), dy.cols());
    const Out dfilter = pass.scratch(dy.rows(), dy.cols());
    pass.lane.copy(dy, dattention);
    pass.lane.copy(dy, dfilter);
    pass.lane.scale(static_cast<T>(1 - share), dattention);
    pass.lane.scale(static_cast<T>(share), dfilter);
    attention.backward(pass, site, tokens, cache.attention, dattention, gradient.attention, dx);
    filter->backward(pass, site + filter_site, tokens, cache.filter, dfilter, *gradient.filter, dfilter);
    pass.lane.add_scaled(T(1), dfilter, dx);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    AttentionBlock<B>::visit_parameters(self.attention, visitor);
    if (self.filter) {
      FilterBlock<B>::visit_parameters(*self.filter, scoped("filter.", visitor));
    }
  }

  static void visit_shapes(Index hidden, double filter_share, auto&& visitor) {
    AttentionBlock<B>::visit_shapes(hidden, visitor);
    if (filter_share > 0) {
      FilterBlock<B>::visit_shapes(hidden, scoped("filter.", visitor));
    }
  }

  AttentionBlock<B> attention;
  std::optional<FilterBlock<B>> filter;
  double share;  ///< s, in [0, 1)

 private:
  void mix(const Pass<B>& pass, In filtered, Out y) const {
    pass.lane.scale(static_cast<T>(1 - share), y);
    pass.lane.add_scaled(static_cast<T>(share), filtered, y);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
