#pragma once

#include "elcrec/backend/cuda/kernels/packs.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// A block's product of a tile of a (64 rows) with a tile of b (64 columns), for kernels that do more with it than to
/// write it down. Thread (y, x) of 16 x 16 owns the sums of rows 4 y + i and columns 4 x + j; operands pass through
/// shared memory in slabs of `depth`: two packs loaded from there serve 16 multiplications. Every sum is taken in the
/// order of k, whatever the place in the tile.
template <class T>
struct TileProduct {
  static constexpr int side = 64;
  static constexpr int own = 4;
  static constexpr int threads_of_side = side / own;
  static constexpr int threads = threads_of_side * threads_of_side;
  static constexpr int depth = static_cast<int>(64 / sizeof(T));

  /// Operands: slab k, then row or column. 8.5 KB.
  struct Shared {
    T a[depth][side + own];
    T b[depth][side + own];
  };

  /// How the threads that load b walk: along k (rows of a matrix to be transposed) or along columns.
  enum class Order { k_first, columns_first };

  int y;  ///< this thread's rows begin at own * y
  int x;  ///< and its columns at own * x
  T sums[own][own] = {};

  __device__ TileProduct() : TileProduct(thread_x() / threads_of_side, thread_x() % threads_of_side) {}
  __device__ TileProduct(int own_y, int own_x) : y(own_y), x(own_x) {}

  /// sums += Σ_k a(row, k) b(k, column) over k in [0, count). Every thread of the block must call it; a thread that is
  /// not `active` only loads.
  template <Order order, class A, class B>
  __device__ void accumulate(Shared& shared, int count, A a, B b, bool active = true) {
    for (int k0 = 0; k0 < count; k0 += depth) {
      for (int e = thread_x(); e < side * depth; e += threads) {
        const int k = e % depth;
        const int row = e / depth;
        shared.a[k][row] = k0 + k < count ? a(row, k0 + k) : T(0);
      }
      for (int e = thread_x(); e < side * depth; e += threads) {
        const int k = order == Order::k_first ? e % depth : e / side;
        const int column = order == Order::k_first ? e / depth : e % side;
        shared.b[k][column] = k0 + k < count ? b(k0 + k, column) : T(0);
      }
      __syncthreads();
      if (active) {
        ELCREC_UNROLL()
        for (int k = 0; k < depth; ++k) {
          const auto left = load_pack<own>(static_cast<const T*>(&shared.a[k][own * y]));
          const auto right = load_pack<own>(static_cast<const T*>(&shared.b[k][own * x]));
          ELCREC_UNROLL()
          for (int i = 0; i < own; ++i) {
            ELCREC_UNROLL()
            for (int j = 0; j < own; ++j) {
              sums[i][j] = multiply_add(left[i], right[j], sums[i][j]);
            }
          }
        }
      }
      __syncthreads();
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
