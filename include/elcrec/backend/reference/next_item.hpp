#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "elcrec/backend/reference/activations.hpp"
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

template <class T>
T softplus(T x) {
  return (std::max)(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}

}  // namespace reference

/// Pairwise next-item loss of every token with a target, a negative item beside it (T): loss_t (1, T), 0 without a
/// target; d loss / d score times `weight` in positive_t and negative_t (1, T);
/// dx_t += positive_t table[target] + negative_t table[negative].
template <class T>
void pairwise_next_item(ReferenceLane<T>&, PairwiseLoss kind, std::span<const ItemId> targets,
                        std::span<const ItemId> negatives, Input<T> x, Input<T> table, std::type_identity_t<T> weight,
                        Output<T> loss, Output<T> positive, Output<T> negative, Output<T> dx) {
  for (Index t = 0; t < ssize(targets); ++t) {
    const ItemId target = targets[static_cast<std::size_t>(t)];
    loss(0, t) = positive(0, t) = negative(0, t) = T(0);
    if (target == padding_item) {
      continue;
    }
    const T* pos = table.row(target);
    const T* neg = table.row(negatives[static_cast<std::size_t>(t)]);
    const T score_pos = reference::dot(x.row(t), pos, x.cols());
    const T score_neg = reference::dot(x.row(t), neg, x.cols());
    if (kind == PairwiseLoss::bce) {
      loss(0, t) = reference::softplus(-score_pos) + reference::softplus(score_neg);
      positive(0, t) = -weight * reference::logistic(-score_pos);
      negative(0, t) = weight * reference::logistic(score_neg);
    } else if (kind == PairwiseLoss::bpr_capped) {
      const T p = reference::logistic(score_pos - score_neg);
      loss(0, t) = -std::log(static_cast<T>(bpr_cap) + p);
      positive(0, t) = -weight * p * reference::logistic(score_neg - score_pos) / (static_cast<T>(bpr_cap) + p);
      negative(0, t) = -positive(0, t);
    } else {
      loss(0, t) = reference::softplus(score_neg - score_pos);
      positive(0, t) = -weight * reference::logistic(score_neg - score_pos);
      negative(0, t) = -positive(0, t);
    }
    for (Index c = 0; c < x.cols(); ++c) {
      dx(t, c) += positive(0, t) * pos[c] + negative(0, t) * neg[c];
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
