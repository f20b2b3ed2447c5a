#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/nn/layer_norm.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct FilterOptions {
  Index max_length = 50;  ///< L
  Index frequencies = 3;  ///< the lowest C of the L/2 + 1 frequencies pass; at least 1, the mean
  double dropout = 0.5;
  double epsilon = 1e-12;  ///< of the layer norm
};

/// y = LN(x + dropout(low + W (x - low))): a low-pass filter along each sequence beside a learned map of what it leaves
/// out. After the frequency layer of BSARec (Shin et al., "An Attentive Inductive Bias for Sequential Recommendation
/// beyond the Self-Attention", AAAI 2024), whose W is diagonal and positive.
///
/// Of a sequence laid out on L positions, 0 where there is no token, the low frequencies are low = F[pos, pos] x with
/// F_ij = (1 + 2 Σ_{0 < f < C} cos(2π f (i - j) / L)) / L. F = U Uᵀ with the L x (2C - 1) matrix U of sines and
/// cosines, so that a sequence of n tokens costs O(n C D) and gaps between its positions cost nothing. F is symmetric:
/// the backward pass applies it too. Not causal: every position sees the whole sequence.
template <Backend B>
struct FilterBlock {
  static_assert(operation::SequenceProjection<typename B::Lane>,
                "FilterBlock: the lane lacks operations of operation::SequenceProjection");
  static_assert(operation::LastPooling<typename B::Lane>,
                "FilterBlock: the lane lacks operations of operation::LastPooling");
  using Backend = B;
  using T = typename B::Scalar;
  using Lane = typename B::Lane;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  struct Cache {
    Out high;  // (T, D) x - low
    typename LayerNorm<B>::Cache norm;
  };

  /// Throws ArgumentError for frequencies that L positions do not have.
  FilterBlock(const B& backend, Index hidden, const FilterOptions& o)
      : high_weight(backend, hidden, hidden),
        norm(backend, hidden, o.epsilon),
        dropout(o.dropout),
        basis_(backend, o.max_length, columns(o)) {
    const auto length = static_cast<double>(o.max_length);
    std::vector<T> host;
    for (Index p = 0; p < o.max_length; ++p) {
      host.push_back(static_cast<T>(1 / std::sqrt(length)));
      for (Index f = 1; f < o.frequencies; ++f) {
        const double angle = 2 * std::numbers::pi * static_cast<double>(f * p % o.max_length) / length;
        host.push_back(static_cast<T>(std::sqrt(2 / length) * std::cos(angle)));
        host.push_back(static_cast<T>(std::sqrt(2 / length) * std::sin(angle)));
      }
    }
    backend.template copy<T>(host, basis_.view().flat());
  }

  void forward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, In x, Cache& cache, Out y) const {
    cache = {pass.keep(x.rows(), x.cols()), {}};
    const auto frame = pass.lane.workspace().frame();
    const Out low = pass.scratch(x.rows(), x.cols());
    project_sequences(pass.lane, tokens, basis_.view(), x, low);
    pass.lane.copy(x, cache.high);
    pass.lane.add_scaled(T(-1), low, cache.high);
    pass.lane.multiply_nt(cache.high, high_weight.view(), low, Write::add);
    norm.add_forward(pass, tokens, pass.dropout.mask(site, dropout), low, In(), x, cache.norm, y);
  }

  /// forward's rows for the last token of each sequence, without dropout. x (T, D), x_last (S, D) -> y (S, D)
  void forward_last(const Pass<B>& pass, const TokenView& tokens, In x, In x_last, Out y) const {
    const auto frame = pass.lane.workspace().frame();
    const Out low = pass.scratch(x.rows(), x.cols());
    const Out sum = pass.scratch(x_last.rows(), x.cols());
    const Out high = pass.scratch(x_last.rows(), x.cols());
    project_sequences(pass.lane, tokens, basis_.view(), x, low);
    last_pool(pass.lane, tokens, low, sum);
    pass.lane.copy(x_last, high);
    pass.lane.add_scaled(T(-1), sum, high);
    pass.lane.multiply_nt(high, high_weight.view(), sum, Write::add);
    typename LayerNorm<B>::Cache unused;
    norm.add_forward(pass, tokens, DropoutMask(), sum, In(), x_last, unused, y);
  }

  /// dy (T, D) -> dx (T, D), which may be dy
  void backward(const Pass<B>& pass, std::uint32_t site, const TokenView& tokens, const Cache& cache, In dy,
                FilterBlock& gradient, Out dx) const {
    const auto frame = pass.lane.workspace().frame();
    const Out dsum = pass.scratch(dy.rows(), dy.cols());
    const Out dhigh = pass.scratch(dy.rows(), dy.cols());
    norm.add_backward(pass, tokens, pass.dropout.mask(site, dropout), cache.norm, dy, gradient.norm, dx, dsum, Out());
    pass.lane.multiply_tn(dsum, cache.high, gradient.high_weight.view(), Write::add);
    pass.lane.multiply_nn(dsum, high_weight.view(), dhigh, Write::replace);
    pass.lane.add_scaled(T(1), dhigh, dx);
    pass.lane.add_scaled(T(-1), dhigh, dsum);  // d low
    project_sequences(pass.lane, tokens, basis_.view(), dsum, dhigh);
    pass.lane.add_scaled(T(1), dhigh, dx);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("high.weight", self.high_weight.view(), 2);
    LayerNorm<B>::visit_parameters(self.norm, scoped("LayerNorm.", visitor));
  }

  static void visit_shapes(Index hidden, auto&& visitor) {
    visitor("high.weight", std::vector<Index>{hidden, hidden});
    LayerNorm<B>::visit_shapes(hidden, scoped("LayerNorm.", visitor));
  }

  Matrix<B> high_weight;  // W (D, D)
  LayerNorm<B> norm;
  double dropout;

 private:
  static Index columns(const FilterOptions& o) {
    require(o.frequencies >= 1 && o.frequencies <= o.max_length / 2 + o.max_length % 2, "filter: found ", o.frequencies,
            " frequencies, expected 1 to ", o.max_length / 2 + o.max_length % 2, " of ", o.max_length, " positions");
    return 2 * o.frequencies - 1;
  }

  Matrix<B> basis_;  // U (L, 2C - 1), with orthonormal columns
};

}  // namespace elcrec::inline ELCREC_TARGET
