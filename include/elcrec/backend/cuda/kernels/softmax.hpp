#pragma once

#include <cmath>

#include "elcrec/backend/cuda/kernels/thread.hpp"
#include "elcrec/core/matrix_view.hpp"

/// Sums of exponentials.
///
/// exponentials, a block a row of C logits: one reading for maximum and sum at once, then a second one (from L2: a row
/// is 4 C bytes) that leaves the exponentials in place. 12 C bytes a row at most, 2 C exponentials. 256 bytes of shared
/// memory.
///
/// softmax_factors, a thread a column of G blocks' maxima and sums: 28 G bytes, 2 G exponentials.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// Σ exp(z_j) of numbers seen one at a time, as sum exp(largest).
template <class T>
struct ExponentialSum {
  T largest = -infinity<T>;
  T sum = 0;

  __device__ void add(T z) {
    if (z <= largest) {
      sum += std::exp(z - largest);
    } else if (z > largest) {
      sum = sum * std::exp(largest - z) + T(1);
      largest = z;
    } else {
      sum = z;  // NaN stays visible
    }
  }

  __device__ void merge(T other_largest, T other_sum) {
    const T both = larger(largest, other_largest);
    const auto part = [both](T at, T value) { return at == -infinity<T> ? value : value * std::exp(at - both); };
    sum = part(largest, sum) + part(other_largest, other_sum);
    largest = both;
  }

  [[nodiscard]] __device__ T logarithm() const { return std::log(sum) + largest; }
};

/// Σ_j exp(value(j)) over j in [0, count) by a block, given to all its threads; -infinity takes no part.
template <class T, class F>
[[nodiscard]] __device__ ExponentialSum<T> block_exponential_sum(Index count, F value) {
  __shared__ T largest[warp_size];
  __shared__ T sums[warp_size];
  ExponentialSum<T> total;
  for (Index j = thread_x(); j < count; j += threads_x()) {
    if (const T z = value(j); z != -infinity<T>) {
      total.add(z);
    }
  }
  const auto merge_lanes = [&] {
    for (int reach = warp_size / 2; reach > 0; reach /= 2) {
      const T other_largest = __shfl_xor_sync(whole_warp, total.largest, reach);
      const T other_sum = __shfl_xor_sync(whole_warp, total.sum, reach);
      total.merge(other_largest, other_sum);
    }
  };
  merge_lanes();
  if (lane() == 0) {
    largest[warp()] = total.largest;
    sums[warp()] = total.sum;
  }
  __syncthreads();
  total.largest = lane() < warps() ? largest[lane()] : -infinity<T>;
  total.sum = lane() < warps() ? sums[lane()] : T(0);
  merge_lanes();
  return total;
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
