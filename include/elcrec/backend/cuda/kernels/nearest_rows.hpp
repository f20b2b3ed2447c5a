#pragma once

#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/tile_product.hpp"
#include "elcrec/core/matrix_view.hpp"

/// ids_r = argmin_k |c_k|² - 2 x_r·c_k for rows (R, D) and centers (K, D), the lowest k among equals.
///
/// A block takes 64 rows and goes through the centers in tiles of 64; a thread keeps the best of its own columns, and
/// 16 threads settle a row at the end, so no distance is written. The centers' squares are computed first (K numbers of
/// scratch). A row (float) reads 4 D bytes and K D / 16 bytes of centers from L2, and takes 2 K D operations: at K =
/// 256, D = 64 33 kFLOP, bound by arithmetic. 8.5 KB of shared memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// squares_k = |c_k|², a warp a center
template <class T>
struct SquaredRowsKernel {
  static constexpr int max_threads = 128;
  MatrixView<const T> centers;
  T* squares;

  __device__ void operator()() const {
    const Index k = global_warp();
    if (k < centers.rows()) {
      T sum = 0;
      for (Index c = lane(); c < centers.cols(); c += warp_size) {
        sum += centers(k, c) * centers(k, c);
      }
      sum = warp_sum(sum);
      if (lane() == 0) {
        squares[k] = sum;
      }
    }
  }
};

template <class T>
struct NearestKernel {
  using Product = TileProduct<T>;
  static constexpr int max_threads = Product::threads;
  MatrixView<const T> x;
  MatrixView<const T> centers;
  const T* squares;
  std::int32_t* ids;

  __device__ void operator()() const {
    constexpr int own = Product::own;
    __shared__ typename Product::Shared shared;
    const Index r0 = Index{block_x()} * Product::side;
    const int d = static_cast<int>(x.cols());
    const auto row = [&](int i, int k) { return r0 + i < x.rows() ? x(r0 + i, k) : T(0); };
    T best[own];
    int best_id[own];
    for (int i = 0; i < own; ++i) {
      best[i] = infinity<T>;
      best_id[i] = (std::numeric_limits<int>::max)();
    }
    for (Index k0 = 0; k0 < centers.rows(); k0 += Product::side) {
      const auto center = [&](int k, int j) { return k0 + j < centers.rows() ? centers(k0 + j, k) : T(0); };
      Product product;
      product.template accumulate<Product::Order::k_first>(shared, d, row, center);
      for (int j = 0; j < own; ++j) {
        const Index id = k0 + own * product.x + j;
        if (id < centers.rows()) {
          for (int i = 0; i < own; ++i) {
            const T distance = squares[id] - 2 * product.sums[i][j];
            if (distance < best[i]) {
              best[i] = distance;
              best_id[i] = static_cast<int>(id);
            }
          }
        }
      }
    }
    for (int reach = Product::threads_of_side / 2; reach > 0; reach /= 2) {
      for (int i = 0; i < own; ++i) {
        const T distance = __shfl_xor_sync(whole_warp, best[i], reach);
        const int id = __shfl_xor_sync(whole_warp, best_id[i], reach);
        if (distance < best[i] || (distance == best[i] && id < best_id[i])) {
          best[i] = distance;
          best_id[i] = id;
        }
      }
    }
    const int lane_x = thread_x() % Product::threads_of_side;
    const Index r = r0 + thread_x() / Product::threads_of_side * own;
    for (int i = 0; i < own; ++i) {
      if (lane_x == 0 && r + i < x.rows()) {
        ids[r + i] = best_id[i] < centers.rows() ? best_id[i] : 0;  // a row of NaN has no best
      }
    }
  }
};

template <class T>
void nearest_rows(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> x, MatrixView<const T> centers,
                  std::span<std::int32_t> ids) {
  using Squares = SquaredRowsKernel<T>;
  using Kernel = NearestKernel<T>;
  const auto frame = memory.frame();
  T* const squares = memory.template array<T>(centers.rows()).data();
  launch(stream, {.x = blocks_for(centers.rows(), Squares::max_threads / warp_size)}, {.x = Squares::max_threads}, 0,
         Squares{centers, squares});
  launch(stream, {.x = blocks_for(x.rows(), Kernel::Product::side)}, {.x = Kernel::max_threads}, 0,
         Kernel{x, centers, squares, ids.data()});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
