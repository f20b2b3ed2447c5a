#pragma once

#include <cmath>

#include "elcrec/backend/cuda/kernels/thread.hpp"

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

}  // namespace elcrec::inline ELCREC_TARGET::cuda
