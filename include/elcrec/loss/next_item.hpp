#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <type_traits>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/full_softmax.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec::inline ELCREC_TARGET {

enum class NextItemLoss {
  bce,     ///< binary cross entropy against one sampled negative (SASRec, the paper)
  bpr,     ///< Bayesian personalised ranking against one sampled negative
  softmax  ///< cross entropy over all items: -log softmax(x·Eᵀ)[target]
};
template <>
inline constexpr std::array<std::string_view, 3> names_of<NextItemLoss>{"bce", "bpr", "softmax"};

/// The loss against one sampled negative for each target of an encoding, averaged over the targets, added to *loss;
/// `weight` times its gradients go to the step.
template <TrainingStep Step>
void pairwise_loss(Step& step, Encoding<typename Step::Scalar>& encoding, PairwiseLoss kind, double weight,
                   double* loss) {
  using T = typename Step::Scalar;
  using Lane = typename Step::Lane;
  static_assert(operation::PairwiseNextItem<Lane>,
                "pairwise_loss: the lane lacks operations of operation::PairwiseNextItem");
  const TokenView& tokens = encoding.tokens;
  const Index width = tokens.template width<Negatives>();
  require(width == 1, "column '", Negatives::name, "': found ", width,
          " for each target, expected 1: the pairwise losses compare a target with one negative");
  const double mean = 1.0 / static_cast<double>(std::max<Index>(1, encoding.targets));
  const auto row_loss = step.memory().template matrix<T>(1, tokens.tokens());
  const auto positive = step.memory().template matrix<T>(1, tokens.tokens());  // d loss / d score
  const auto negative = step.memory().template matrix<T>(1, tokens.tokens());
  step.for_each_slice(encoding, [&](Lane& lane, const BatchSlice& slice) {
    pairwise_next_item(lane, kind, slice.tokens.template column<Targets>(), slice.tokens.template column<Negatives>(),
                       slice.rows(encoding.q), step.scored_items(), static_cast<T>(weight * mean),
                       slice.columns(row_loss), slice.columns(positive), slice.columns(negative),
                       slice.rows(encoding.dq));
  });
  step.backend().parallel_for(1, [&](Lane& lane, Index) { lane.add_sum(mean, row_loss, loss); });
  step.scored_items_gradient().add({tokens.template column<Targets>(), positive.flat(), encoding.q});
  step.scored_items_gradient().add({tokens.template column<Negatives>(), negative.flat(), encoding.q});
}

/// Predicts the next item at every target of view V, by the loss that the type names.
template <NextItemLoss Loss, class V = InputView>
struct NextItemBy {
  using Views = TypeList<V>;
  static constexpr std::string_view name = "next_item";
  static constexpr bool sums_over_samples = true;

  double weight = 1.0;
  SoftmaxLabels labels{};  ///< of the softmax, without agreement

  static void visit_options(auto& self, auto&& visitor) {
    constexpr NextItemLoss loss = Loss;
    constexpr std::string_view view = V::name;
    visitor("weight", self.weight);
    visitor("labels", self.labels);
    visitor("loss", loss);
    visitor("view", view);
  }
  void check() const { check_weight("weight", weight); }

  [[nodiscard]] static bool reads_negatives() { return Loss != NextItemLoss::softmax; }

  void evaluate(TrainingStep auto& step) const {
    auto& encoding = step.template encoding<V>();
    if constexpr (Loss == NextItemLoss::softmax) {
      const std::array sides = {&encoding};
      full_softmax<std::remove_reference_t<decltype(step)>>(step, sides, weight, labels, step.loss(*this));
    } else {
      pairwise_loss(step, encoding, Loss == NextItemLoss::bce ? PairwiseLoss::bce : PairwiseLoss::bpr, weight,
                    step.loss(*this));
    }
  }
};

using NextItemBce = NextItemBy<NextItemLoss::bce>;
using NextItemBpr = NextItemBy<NextItemLoss::bpr>;
using NextItemSoftmax = NextItemBy<NextItemLoss::softmax>;

/// What the encoder has seen where it predicts the next item.
enum class NextItemSamples {
  positions,  ///< every position of the input: needs a causal encoder
  prefixes    ///< every prefix of the input as a sequence of its own, at its last position
};
template <>
inline constexpr std::array<std::string_view, 2> names_of<NextItemSamples>{"positions", "prefixes"};

/// The same, by a loss and on samples that are chosen at run time.
struct NextItem {
  using Views = TypeList<InputView, PrefixView, Again<InputView>, Again<PrefixView>>;
  static constexpr std::string_view name = "next_item";
  static constexpr bool sums_over_samples = true;

  double weight = 1.0;
  NextItemLoss loss = NextItemLoss::bce;
  NextItemSamples samples = NextItemSamples::positions;
  SoftmaxLabels labels{};  ///< of the softmax; sequences are encoded twice for an agreement above 0

  static void visit_options(auto& self, auto&& visitor) {
    visitor("weight", self.weight);
    visitor("loss", self.loss);
    visitor("samples", self.samples);
    visitor("labels", self.labels);
  }
  void check() const { check_weight("weight", weight); }

  template <class V>
  [[nodiscard]] bool reads() const {
    using Source = typename SourceOf<V>::Type;
    return std::is_same_v<Source, PrefixView> == (samples == NextItemSamples::prefixes) &&
           (std::is_same_v<V, Source> || agrees());
  }

  [[nodiscard]] bool reads_negatives() const { return loss != NextItemLoss::softmax; }

  void evaluate(TrainingStep auto& step) const {
    if (samples == NextItemSamples::positions) {
      evaluate_on<InputView>(step);
    } else {
      evaluate_on<PrefixView>(step);
    }
  }

 private:
  [[nodiscard]] bool agrees() const { return loss == NextItemLoss::softmax && labels.agreement > 0; }

  template <class V>
  void evaluate_on(auto& step) const {
    using Step = std::remove_reference_t<decltype(step)>;
    auto& encoding = step.template encoding<V>();
    switch (loss) {
      case NextItemLoss::bce:
        return pairwise_loss(step, encoding, PairwiseLoss::bce, weight, step.loss(*this));
      case NextItemLoss::bpr:
        return pairwise_loss(step, encoding, PairwiseLoss::bpr, weight, step.loss(*this));
      case NextItemLoss::softmax: {
        const std::array sides = {&encoding, &step.template encoding<Again<V>>()};
        return full_softmax<Step>(step, std::span(sides).first(agrees() ? 2 : 1), weight, labels, step.loss(*this));
      }
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
