#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/activations.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/types.hpp"

/// Next-item losses against one sampled negative with their gradients.
///
/// A warp a token: the scores of target and negative, loss, and dx += ... . A token with a target reads x, two item
/// rows and dx and writes dx: 20 D + 20 bytes (float), 8 D operations.
namespace elcrec::inline ELCREC_TARGET::cuda {

inline constexpr int pairwise_warps = 4;

template <class T>
struct PairwiseNextItemKernel {
  static constexpr int max_threads = pairwise_warps * warp_size;
  PairwiseLoss kind;
  const ItemId* targets;
  const ItemId* negatives;
  MatrixView<const T> x;
  MatrixView<const T> table;
  T weight;
  T* loss;
  T* positive;
  T* negative;
  MatrixView<T> dx;

  __device__ void operator()() const {
    const Index t = global_warp();
    if (t >= x.rows()) {
      return;
    }
    T row_loss = 0;
    T dpositive = 0;
    T dnegative = 0;
    if (targets[t] != padding_item) {
      const T* const pos = table.row(targets[t]);
      const T* const neg = table.row(negatives[t]);
      T score_pos = 0;
      T score_neg = 0;
      for (Index c = lane(); c < x.cols(); c += warp_size) {
        score_pos += x(t, c) * pos[c];
        score_neg += x(t, c) * neg[c];
      }
      score_pos = warp_sum(score_pos);
      score_neg = warp_sum(score_neg);
      if (kind == PairwiseLoss::bpr_capped) {
        const T p = detail::logistic(score_pos - score_neg);
        row_loss = -std::log(static_cast<T>(bpr_cap) + p);
        dpositive = -weight * p * detail::logistic(score_neg - score_pos) / (static_cast<T>(bpr_cap) + p);
        dnegative = -dpositive;
      } else if (kind == PairwiseLoss::bpr) {
        row_loss = softplus(score_neg - score_pos);
        dpositive = -weight * detail::logistic(score_neg - score_pos);
        dnegative = -dpositive;
      } else {
        row_loss = softplus(-score_pos) + softplus(score_neg);
        dpositive = -weight * detail::logistic(-score_pos);
        dnegative = weight * detail::logistic(score_neg);
      }
      for (Index c = lane(); c < x.cols(); c += warp_size) {
        dx(t, c) += dpositive * pos[c] + dnegative * neg[c];
      }
    }
    if (lane() == 0) {
      loss[t] = row_loss;
      positive[t] = dpositive;
      negative[t] = dnegative;
    }
  }

  __device__ static T softplus(T v) { return larger(v, T(0)) + std::log1p(std::exp(-std::abs(v))); }
};

template <class T>
void pairwise_next_item(const Stream& stream, PairwiseLoss kind, std::span<const ItemId> targets,
                        std::span<const ItemId> negatives, MatrixView<const T> x, MatrixView<const T> table, T weight,
                        MatrixView<T> loss, MatrixView<T> positive, MatrixView<T> negative, MatrixView<T> dx) {
  launch(stream, {.x = blocks_for(x.rows(), pairwise_warps)}, {.x = pairwise_warps * warp_size}, 0,
         PairwiseNextItemKernel<T>{kind, targets.data(), negatives.data(), x, table, weight, loss.data(),
                                   positive.data(), negative.data(), dx});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
