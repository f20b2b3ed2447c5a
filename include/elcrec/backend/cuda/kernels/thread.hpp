#pragma once

#include <limits>

#include <cuda_runtime.h>

#include "elcrec/backend/cuda/launch.hpp"

/// Before a loop: how far nvcc is to unroll it, entirely if the argument is empty.
#ifdef __CUDACC__
#define ELCREC_PRAGMA(text) _Pragma(#text)
#define ELCREC_UNROLL(times) ELCREC_PRAGMA(unroll times)
#else
#define ELCREC_UNROLL(times)
#endif

/// Where a thread stands, as signed numbers, and what the threads of a warp or a block compute together. The functions
/// for warps and blocks take blocks of one dimension with whole warps, and every thread must call them. Sums are taken
/// in an order that depends on nothing but the number of threads.
namespace elcrec::inline ELCREC_TARGET::cuda {

inline constexpr unsigned whole_warp = 0xFFFFFFFFU;

[[nodiscard]] __device__ inline int thread_x() { return static_cast<int>(threadIdx.x); }
[[nodiscard]] __device__ inline int thread_y() { return static_cast<int>(threadIdx.y); }
[[nodiscard]] __device__ inline int threads_x() { return static_cast<int>(blockDim.x); }
[[nodiscard]] __device__ inline int threads_y() { return static_cast<int>(blockDim.y); }
[[nodiscard]] __device__ inline int block_x() { return static_cast<int>(blockIdx.x); }
[[nodiscard]] __device__ inline int block_y() { return static_cast<int>(blockIdx.y); }
[[nodiscard]] __device__ inline int block_z() { return static_cast<int>(blockIdx.z); }
[[nodiscard]] __device__ inline int blocks_x() { return static_cast<int>(gridDim.x); }
[[nodiscard]] __device__ inline int blocks_y() { return static_cast<int>(gridDim.y); }

[[nodiscard]] __device__ inline int lane() { return thread_x() % warp_size; }
[[nodiscard]] __device__ inline int warp() { return thread_x() / warp_size; }
[[nodiscard]] __device__ inline int warps() { return threads_x() / warp_size; }

/// Number of the thread among those of all blocks.
[[nodiscard]] __device__ inline Index global_thread() { return Index{block_x()} * threads_x() + thread_x(); }
/// Number of the warp among those of all blocks.
[[nodiscard]] __device__ inline Index global_warp() { return Index{block_x()} * warps() + warp(); }

/// a b + c, rounded once: written out where two kernels must agree to the bit.
[[nodiscard]] __device__ inline float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
[[nodiscard]] __device__ inline double multiply_add(double a, double b, double c) { return fma(a, b, c); }

template <class T>
[[nodiscard]] __device__ T larger(T a, T b) {
  return a < b ? b : a;
}

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

template <class T>
[[nodiscard]] __device__ T warp_sum(T value) {
  for (int reach = warp_size / 2; reach > 0; reach /= 2) {
    value += __shfl_xor_sync(whole_warp, value, reach);
  }
  return value;
}

template <class T>
[[nodiscard]] __device__ T warp_max(T value) {
  for (int reach = warp_size / 2; reach > 0; reach /= 2) {
    value = larger(value, __shfl_xor_sync(whole_warp, value, reach));
  }
  return value;
}

/// Σ over the block's threads, given to all of them.
template <class T>
[[nodiscard]] __device__ T block_sum(T value) {
  __shared__ T parts[warp_size];
  value = warp_sum(value);
  __syncthreads();  // the last call's parts are read
  if (lane() == 0) {
    parts[warp()] = value;
  }
  __syncthreads();
  return warp_sum(lane() < warps() ? parts[lane()] : T(0));
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
