#pragma once

#include <algorithm>
#include <string_view>
#include <type_traits>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/full_softmax.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec::inline ELCREC_TARGET {

enum class NextItemLoss {
  bce,     ///< binary cross entropy against one sampled negative (SASRec, the paper)
  bpr,     ///< Bayesian personalised ranking against one sampled negative
  softmax  ///< cross entropy over all items: -log softmax(x·Eᵀ)[target]
};

/// The loss against one sampled negative for each target of view V, averaged over the targets, added to *loss; `weight`
/// times its gradients go to the step.
template <class V = InputView, class Step>
void evaluate_pairwise(Step& step, PairwiseLoss kind, double weight, double* loss) {
  using T = typename Step::Scalar;
  using Lane = typename Step::Lane;
  auto& input = step.template encoding<V>();
  const Index t = input.tokens.tokens();
  const double mean = 1.0 / static_cast<double>(std::max<Index>(1, input.tokens.target_count));
  const auto row_loss = step.memory().template matrix<T>(1, t);
  const auto positive = step.memory().template matrix<T>(1, t);  // d loss / d score
  const auto negative = step.memory().template matrix<T>(1, t);
  step.for_each_slice(input, [&](Lane& lane, const auto& slice) {
    const auto part = [&](auto row) { return row.slice_cols(slice.first_token, slice.last_token); };
    lane.pairwise_next_item(kind, slice.tokens, slice.rows(input.y), step.items(), static_cast<T>(weight * mean),
                            part(row_loss), part(positive), part(negative), slice.rows(input.dy));
  });
  step.backend().parallel_for(1, [&](Lane& lane, Index) { lane.add_sum(mean, row_loss, loss); });
  step.add_item_rows({input.tokens.targets, positive.flat(), input.y});
  step.add_item_rows({input.tokens.negatives, negative.flat(), input.y});
}

/// Predicts the next item at every target of view V, by the loss that the type names.
template <NextItemLoss Loss, class V = InputView>
struct NextItemBy {
  using Views = TypeList<V>;
  static constexpr std::string_view name = "next_item";

  double weight = 1.0;

  [[nodiscard]] static bool reads_negatives() { return Loss != NextItemLoss::softmax; }

  void evaluate(auto& step) const {
    if constexpr (Loss == NextItemLoss::softmax) {
      evaluate_full_softmax<V>(step, weight, {}, step.loss(*this));
    } else {
      constexpr PairwiseLoss kind = Loss == NextItemLoss::bce ? PairwiseLoss::bce : PairwiseLoss::bpr;
      evaluate_pairwise<V>(step, kind, weight, step.loss(*this));
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

/// The same, by a loss and on samples that are chosen at run time.
struct NextItem {
  using Views = TypeList<InputView, PrefixView, Again<InputView>, Again<PrefixView>>;
  static constexpr std::string_view name = "next_item";

  double weight = 1.0;
  NextItemLoss loss = NextItemLoss::bce;
  NextItemSamples samples = NextItemSamples::positions;
  SoftmaxLabels labels{};  ///< of the softmax; sequences are encoded twice for an agreement above 0

  template <class V>
  [[nodiscard]] bool reads() const {
    using Source = typename SourceOf<V>::Type;
    return std::is_same_v<Source, PrefixView> == (samples == NextItemSamples::prefixes) &&
           (std::is_same_v<V, Source> || agrees());
  }

  [[nodiscard]] bool reads_negatives() const { return loss != NextItemLoss::softmax; }

  void evaluate(auto& step) const {
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
    switch (loss) {
      case NextItemLoss::bce:
        return evaluate_pairwise<V>(step, PairwiseLoss::bce, weight, step.loss(*this));
      case NextItemLoss::bpr:
        return evaluate_pairwise<V>(step, PairwiseLoss::bpr, weight, step.loss(*this));
      case NextItemLoss::softmax:
        return agrees() ? evaluate_full_softmax<V, Again<V>>(step, weight, labels, step.loss(*this))
                        : evaluate_full_softmax<V>(step, weight, labels, step.loss(*this));
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
