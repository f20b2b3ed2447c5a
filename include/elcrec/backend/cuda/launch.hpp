#pragma once

#include <cstddef>

#include <cuda_runtime.h>

#if !defined(__CUDACC__) && !defined(ELCREC_CUDA_EMULATION)
#error "the CUDA backend must be compiled by nvcc (or against tests/cuda_emulation)"
#endif

#include "elcrec/backend/cuda/error.hpp"
#include "elcrec/backend/cuda/stream.hpp"
#include "elcrec/core/types.hpp"

/// The only way to a kernel. A kernel is a functor: its members are the arguments, `__device__ void operator()() const`
/// is what every thread runs. A kernel that is never launched with blocks of more than n threads may say so by
/// `static constexpr int max_threads = n`, which leaves more registers to each, and by `static constexpr int
/// min_blocks` how many blocks an SM should hold at once: without it the compiler may spill registers for more than
/// that.
namespace elcrec::inline ELCREC_TARGET::cuda {

struct Grid {
  Index x = 1;
  Index y = 1;
  Index z = 1;
};

struct Block {
  Index x = 1;
  Index y = 1;
};

inline constexpr int warp_size = 32;
inline constexpr int most_threads = 1024;
/// Shared memory that a block gets without asking, in bytes.
inline constexpr std::size_t usual_shared_bytes = std::size_t{48} * 1024;

template <class Kernel>
consteval int thread_limit() {
  if constexpr (requires { Kernel::max_threads; }) {
    return Kernel::max_threads;
  } else {
    return most_threads;
  }
}

template <class Kernel>
consteval int least_blocks() {
  if constexpr (requires { Kernel::min_blocks; }) {
    return Kernel::min_blocks;
  } else {
    return 0;  // the compiler's choice
  }
}

/// Blocks of `size` that cover `count`.
[[nodiscard]] constexpr Index blocks_for(Index count, Index size) { return (count + size - 1) / size; }

#ifdef __CUDACC__

template <class Kernel>
__global__ void __launch_bounds__(thread_limit<Kernel>(), least_blocks<Kernel>()) run(const Kernel kernel) {
  kernel();
}

/// The launch's `shared_bytes`, as elements of T.
template <class T>
[[nodiscard]] __device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char elcrec_dynamic_shared[];
  return reinterpret_cast<T*>(elcrec_dynamic_shared);
}

#else

template <class T>
[[nodiscard]] T* dynamic_shared() {
  return static_cast<T*>(cuda_emulation::dynamic_shared());
}

#endif

/// Enqueues the kernel; a grid without blocks is no launch. `shared_bytes` of dynamic shared memory go to each block.
/// Throws CudaError if the device refuses; what goes wrong while it runs is reported by a later call.
template <class Kernel>
void launch(const Stream& stream, Grid grid, Block block, std::size_t shared_bytes, const Kernel& kernel) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
    return;
  }
  require(block.x * block.y >= 1 && block.x * block.y <= thread_limit<Kernel>(), "CUDA launch: found ",
          block.x * block.y, " threads a block, expected 1 to ", thread_limit<Kernel>());
  const DeviceGuard guard(stream.device);
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z));
  const dim3 threads(static_cast<unsigned>(block.x), static_cast<unsigned>(block.y));
#ifdef __CUDACC__
  if (shared_bytes > usual_shared_bytes) {
    check(
        cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "cudaFuncSetAttribute");
  }
  run<Kernel><<<blocks, threads, shared_bytes, stream.handle>>>(kernel);
  check(cudaGetLastError(), "kernel launch");
#else
  check(cuda_emulation::launch(blocks, threads, shared_bytes, stream.handle, kernel), "kernel launch");
#endif
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
