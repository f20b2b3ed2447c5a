#pragma once

#include <algorithm>
#include <string_view>
#include <type_traits>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec {

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

/// Cross entropy over all items at every target of view V, averaged. Works through the targets in chunks whose logits
/// take at most 16 MB, so no (tokens x items) matrix exists; three products a chunk.
template <class V = InputView, class Step>
void evaluate_softmax(Step& step, double weight, double* loss) {
  using T = typename Step::Scalar;
  using Lane = typename Step::Lane;
  auto& input = step.template encoding<V>();
  const auto table = step.items().slice_rows(0, step.model().item_count() + 1);  // without the mask id
  const auto dtable = step.all_item_gradients().slice_rows(0, table.rows());
  const Index d = table.cols();
  const Index n = input.tokens.target_count;
  const double mean = 1.0 / static_cast<double>(std::max<Index>(1, n));
  constexpr Index logits_budget = Index{4} << 20;
  constexpr Index row_grain = 64;
  constexpr Index item_grain = 512;
  const Index chunk = std::clamp<Index>(logits_budget / table.rows() / row_grain * row_grain, row_grain, 1024);

  const auto frame = step.memory().frame();
  const auto x = step.memory().template matrix<T>(chunk, d);
  const auto dx = step.memory().template matrix<T>(chunk, d);
  const auto logits = step.memory().template matrix<T>(chunk, table.rows());
  const auto targets = step.memory().template array<ItemId>(chunk);
  const auto row_loss = step.memory().template matrix<T>(1, chunk);
  for (Index first = 0; first < n; first += chunk) {
    const Index rows = std::min(chunk, n - first);
    const auto tokens = slice(input.tokens.target_tokens, first, first + rows);
    const auto xr = x.slice_rows(0, rows);
    const auto zr = logits.slice_rows(0, rows);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.gather_rows(input.y, tokens, xr, Write::replace);
      lane.gather_ids(input.tokens.targets, tokens, targets);
    });
    step.backend().parallel_blocks(table.rows(), item_grain, [&](Lane& lane, Index v0, Index v1) {
      lane.multiply_nt(xr, table.slice_rows(v0, v1), zr.slice_cols(v0, v1), Write::replace);
    });
    step.backend().parallel_blocks(rows, row_grain, [&](Lane& lane, Index r0, Index r1) {
      lane.softmax_cross_entropy(slice(std::span<const ItemId>(targets), r0, r1), static_cast<T>(weight * mean),
                                 zr.slice_rows(r0, r1), row_loss.slice_cols(r0, r1));
      lane.multiply_nn(zr.slice_rows(r0, r1), table, dx.slice_rows(r0, r1), Write::replace);
    });
    step.backend().parallel_blocks(table.rows(), item_grain, [&](Lane& lane, Index v0, Index v1) {
      lane.multiply_tn(zr.slice_cols(v0, v1), xr, dtable.slice_rows(v0, v1), Write::add);
    });
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.scatter_add_rows(dx.slice_rows(0, rows), tokens, input.dy);
      lane.add_sum(mean, row_loss.slice_cols(0, rows), loss);
    });
  }
}

/// Predicts the next item at every target of view V, by the loss that the type names.
template <NextItemLoss Loss, class V = InputView>
struct NextItemBy {
  using Views = TypeList<V>;
  static constexpr std::string_view name = "next_item";

  double weight = 1.0;

  void evaluate(auto& step) const {
    if constexpr (Loss == NextItemLoss::softmax) {
      evaluate_softmax<V>(step, weight, step.loss(*this));
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
  using Views = TypeList<InputView, PrefixView>;
  static constexpr std::string_view name = "next_item";

  double weight = 1.0;
  NextItemLoss loss = NextItemLoss::bce;
  NextItemSamples samples = NextItemSamples::positions;

  template <class V>
  [[nodiscard]] bool reads() const {
    return std::is_same_v<V, PrefixView> == (samples == NextItemSamples::prefixes);
  }

  void evaluate(auto& step) const {
    if (samples == NextItemSamples::positions) {
      evaluate_on<InputView>(step);
    } else {
      evaluate_on<PrefixView>(step);
    }
  }

 private:
  template <class V>
  void evaluate_on(auto& step) const {
    switch (loss) {
      case NextItemLoss::bce:
        return evaluate_pairwise<V>(step, PairwiseLoss::bce, weight, step.loss(*this));
      case NextItemLoss::bpr:
        return evaluate_pairwise<V>(step, PairwiseLoss::bpr, weight, step.loss(*this));
      case NextItemLoss::softmax:
        return evaluate_softmax<V>(step, weight, step.loss(*this));
    }
  }
};

}  // namespace elcrec
