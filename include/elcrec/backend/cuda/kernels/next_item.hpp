#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/activations.hpp"
#include "elcrec/backend/cuda/kernels/softmax.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/types.hpp"

/// Next-item losses with their gradients, in one pass each.
///
/// pairwise_next_item, a warp a token: the scores of target and negative, loss, and dx += ... . A token with a target
/// reads x, two item rows and dx and writes dx: 20 D + 20 bytes (float), 8 D operations.
///
/// exponentials, a block a row of C logits: one reading for maximum and sum at once, then a second one (from L2: a row
/// is 4 C bytes) that leaves the exponentials in place. 12 C bytes a row at most, 2 C exponentials. 256 bytes of shared
/// memory.
///
/// softmax_factors, a thread a column of G blocks' maxima and sums: 28 G bytes, 2 G exponentials.
namespace elcrec::inline ELCREC_TARGET::cuda {

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
         PairwiseNextItemKernel<T>{kind == PairwiseLoss::bpr, targets.data(), negatives.data(), x, table, weight,
                                   loss.data(), positive.data(), negative.data(), dx});
}

template <class T>
struct ExponentialsKernel {
  static constexpr int max_threads = 256;
  MatrixView<T> z;
  T* largest;
  T* sum;

  __device__ void operator()() const {
    const int r = block_x();
    T* const row = z.row(r);
    const auto total = block_exponential_sum<T>(z.cols(), [row](Index c) { return row[c]; });
    for (Index c = thread_x(); c < z.cols(); c += threads_x()) {
      row[c] = std::exp(row[c] - total.largest);
    }
    if (thread_x() == 0) {
      largest[r] = total.largest;
      sum[r] = total.sum;
    }
  }
};

template <class T>
void exponentials(const Stream& stream, MatrixView<T> z, MatrixView<T> largest, MatrixView<T> sum) {
  using Kernel = ExponentialsKernel<T>;
  launch(stream, {.x = z.rows()}, {.x = Kernel::max_threads}, 0, Kernel{z, largest.data(), sum.data()});
}

template <class T>
struct SoftmaxFactorsKernel {
  static constexpr int max_threads = 128;
  MatrixView<const T> largest;
  MatrixView<const T> sum;
  const T* at_target;
  T weight;
  MatrixView<T> factors;
  T* loss;

  __device__ void operator()() const {
    const Index r = global_thread();
    if (r >= largest.cols()) {
      return;
    }
    T m = largest(0, r);
    for (Index g = 1; g < largest.rows(); ++g) {
      m = larger(m, largest(g, r));
    }
    T total = 0;
    for (Index g = 0; g < largest.rows(); ++g) {
      total += sum(g, r) * std::exp(largest(g, r) - m);
    }
    for (Index g = 0; g < largest.rows(); ++g) {
      factors(g, r) = weight / total * std::exp(largest(g, r) - m);
    }
    loss[r] = std::log(total) + m - at_target[r];
  }
};

template <class T>
void softmax_factors(const Stream& stream, MatrixView<const T> largest, MatrixView<const T> sum,
                     MatrixView<const T> at_target, T weight, MatrixView<T> factors, MatrixView<T> loss) {
  using Kernel = SoftmaxFactorsKernel<T>;
  launch(stream, {.x = blocks_for(largest.cols(), Kernel::max_threads)}, {.x = Kernel::max_threads}, 0,
         Kernel{largest, sum, at_target.data(), weight, factors, loss.data()});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
