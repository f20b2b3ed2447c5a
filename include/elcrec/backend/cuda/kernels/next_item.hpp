#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/softmax.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

/// Next-item losses with their gradients, in one pass each.
///
/// pairwise_next_item, a warp a token: the scores of target and negative, loss, and dx += ... . A token with a target
/// reads x, two item rows and dx and writes dx: 20 D + 20 bytes (float), 8 D operations.
///
/// softmax_cross_entropy, a block a row of V logits: one reading for maximum and sum at once, then a second one (from
/// L2: a row is 4 V bytes) that leaves weight (softmax - onehot) in place. 12 V bytes a row at most, 4 V exponentials'
/// worth of operations. 256 bytes of shared memory.
namespace elcrec::cuda {

inline constexpr int pairwise_warps = 4;

template <class T>
struct PairwiseNextItemKernel {
  static constexpr int max_threads = pairwise_warps * warp_size;
  bool bpr;
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
      if (bpr) {
        row_loss = softplus(score_neg - score_pos);
        dpositive = -weight * logistic(score_neg - score_pos);
        dnegative = -dpositive;
      } else {
        row_loss = softplus(-score_pos) + softplus(score_neg);
        dpositive = -weight * logistic(-score_pos);
        dnegative = weight * logistic(score_neg);
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
  __device__ static T logistic(T v) { return T(1) / (T(1) + std::exp(-v)); }
};

template <class T>
void pairwise_next_item(const Stream& stream, PairwiseLoss kind, const TokenView& tokens, MatrixView<const T> x,
                        MatrixView<const T> table, T weight, MatrixView<T> loss, MatrixView<T> positive,
                        MatrixView<T> negative, MatrixView<T> dx) {
  launch(stream, {.x = blocks_for(x.rows(), pairwise_warps)}, {.x = pairwise_warps * warp_size}, 0,
         PairwiseNextItemKernel<T>{kind == PairwiseLoss::bpr, tokens.targets.data(), tokens.negatives.data(), x, table,
                                   weight, loss.data(), positive.data(), negative.data(), dx});
}

template <class T>
struct SoftmaxCrossEntropyKernel {
  static constexpr int max_threads = 256;
  const ItemId* targets;
  T weight;
  MatrixView<T> logits;
  T* loss;

  __device__ void operator()() const {
    const int r = block_x();
    T* const z = logits.row(r);
    const Index target = targets[r];
    const T at_target = z[target];
    const auto total = block_exponential_sum<T>(logits.cols(), [z](Index c) { return c == 0 ? -infinity<T> : z[c]; });
    const T factor = weight / total.sum;
    for (Index c = thread_x(); c < logits.cols(); c += threads_x()) {
      z[c] = c == 0 ? T(0) : factor * std::exp(z[c] - total.largest) - (c == target ? weight : T(0));
    }
    if (thread_x() == 0) {
      loss[r] = total.logarithm() - at_target;
    }
  }
};

template <class T>
void softmax_cross_entropy(const Stream& stream, std::span<const ItemId> targets, T weight, MatrixView<T> logits,
                           MatrixView<T> loss) {
  using Kernel = SoftmaxCrossEntropyKernel<T>;
  launch(stream, {.x = logits.rows()}, {.x = Kernel::max_threads}, 0,
         Kernel{targets.data(), weight, logits, loss.data()});
}

}  // namespace elcrec::cuda
