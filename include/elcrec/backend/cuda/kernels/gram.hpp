#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/tile_product.hpp"
#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/backend/cuda/product.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/operations.hpp"

/// Similarities of N samples of tokens (T, D) that are sums over common positions, and the gradient with respect to the
/// tokens.
///
/// Of a dense index, gram and gram_backward are products (N, P D) · (P D, N) and (N, N) · (N, P D), left to cuBLAS. Of
/// a ragged one, a block takes a tile of 64 x 64 samples through all positions: the tokens at a position that belong to
/// the tile's samples stand side by side in the index, and threads multiply only these, 4 x 4 pairs each; the sums are
/// added to the tile in shared memory (16.6 KB float, 33 KB double, and 9.5 KB of operands). With m_p samples at
/// position p: 2 D Σ m_p² operations, half of it where samples are compared with themselves, and each token is read N /
/// 64 times from L2. gram_backward: 64 tokens of a position times 64 columns a block, 2 D Σ m_p² operations.
///
/// add_transposed reads 8 and writes 4 bytes (float) an element.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T>
struct RaggedGramKernel {
  using Product = TileProduct<T>;
  static constexpr int max_threads = Product::threads;
  const std::int32_t* begins;
  const std::int32_t* sample;
  const std::int32_t* token;
  int positions;
  MatrixView<const T> z;
  int i0, i1, j0, j1;
  MatrixView<T> s;

  __device__ void operator()() const {
    constexpr int side = Product::side;
    constexpr int own = Product::own;
    constexpr int positions_at_once = max_threads / 4;
    __shared__ typename Product::Shared operands;
    __shared__ T tile[side][side + 1];
    __shared__ int bounds[positions_at_once][4];  // first and last entry of the tile's rows, of its columns

    const bool symmetric = i0 == j0 && i1 == j1;
    if (symmetric && block_y() > block_x()) {
      return;  // written by its mirror image
    }
    const int row0 = i0 + block_x() * side;
    const int row1 = row0 + side < i1 ? row0 + side : i1;
    const int column0 = j0 + block_y() * side;
    const int column1 = column0 + side < j1 ? column0 + side : j1;
    const int d = static_cast<int>(z.cols());
    for (int e = thread_x(); e < side * side; e += max_threads) {
      tile[e / side][e % side] = T(0);
    }
    for (int p0 = 0; p0 < positions; p0 += positions_at_once) {
      __syncthreads();  // the last bounds are used
      if (const int p = p0 + thread_x() / 4; p < positions) {
        const int edges[] = {row0, row1, column0, column1};
        bounds[thread_x() / 4][thread_x() % 4] = lower_bound(sample, begins[p], begins[p + 1], edges[thread_x() % 4]);
      }
      __syncthreads();
      for (int p = 0; p < positions_at_once && p0 + p < positions; ++p) {
        const int a0 = bounds[p][0];
        const int b0 = bounds[p][2];
        const int rows = bounds[p][1] - a0;
        const int columns = bounds[p][3] - b0;
        if (rows == 0 || columns == 0) {
          continue;
        }
        // The threads that have work stand in as few warps as possible.
        const int across = (columns + own - 1) / own;
        Product product(thread_x() / across, thread_x() % across);
        const bool active = own * product.y < rows;
        product.template accumulate<Product::Order::k_first>(
            operands, d, [&](int i, int k) { return i < rows ? z(token[a0 + i], k) : T(0); },
            [&](int k, int j) { return j < columns ? z(token[b0 + j], k) : T(0); }, active);
        for (int i = 0; i < own; ++i) {
          for (int j = 0; j < own; ++j) {
            const int a = own * product.y + i;
            const int b = own * product.x + j;
            if (a < rows && b < columns) {
              tile[sample[a0 + a] - row0][sample[b0 + b] - column0] += product.sums[i][j];
            }
          }
        }
      }
    }
    __syncthreads();
    for (int e = thread_x(); e < side * side; e += max_threads) {
      const int i = e / side;
      const int j = e % side;
      if (row0 + i < row1 && column0 + j < column1) {
        s(row0 + i, column0 + j) = tile[i][j];
      }
      if (row0 != column0 && row0 + j < row1 && column0 + i < column1) {
        s(column0 + i, row0 + j) = tile[j][i];
      }
    }
  }
};

/// s_ji = s_ij for i in [i0, i0 + rows), j in [j0, j0 + columns)
template <class T>
struct MirrorKernel {
  Index i0, j0, rows, columns;
  MatrixView<T> s;

  __device__ void operator()() const {
    for_each_cell(columns, rows, [this](Index j, Index i) { s(j0 + j, i0 + i) = s(i0 + i, j0 + j); });
  }
};

namespace detail {

/// (T, D) by token as (N, P D) by sample, of a dense index.
template <class T>
MatrixView<T> by_sample(const GramIndex& index, MatrixView<T> z) {
  require(z.contiguous() || index.positions == 1,
          "CUDA gram: found tokens with gaps between their rows, expected none");
  return {z.data(), index.samples, index.positions * z.cols(), index.positions * z.stride()};
}

}  // namespace detail

/// The ranges [i0, i1) and [j0, j1) must be equal or disjoint.
template <class T>
void gram(const Stream& stream, const GramIndex& index, MatrixView<const T> z, Index i0, Index i1, Index j0, Index j1,
          MatrixView<T> s) {
  if (index.dense) {
    const auto samples = detail::by_sample(index, z);
    multiply_nt(stream, samples.slice_rows(i0, i1), samples.slice_rows(j0, j1),
                MatrixView<T>(s.row(i0) + j0, i1 - i0, j1 - j0, s.stride()), Write::replace);
    if (i0 != j0) {
      const auto [grid, block] = cell_shape(j1 - j0, i1 - i0);
      launch(stream, grid, block, 0, MirrorKernel<T>{i0, j0, i1 - i0, j1 - j0, s});
    }
    return;
  }
  using Kernel = RaggedGramKernel<T>;
  constexpr Index side = Kernel::Product::side;
  launch(stream, {.x = blocks_for(i1 - i0, side), .y = blocks_for(j1 - j0, side)}, {.x = Kernel::max_threads}, 0,
         Kernel{index.begins.data(), index.sample.data(), index.token.data(), static_cast<int>(index.positions), z,
                static_cast<int>(i0), static_cast<int>(i1), static_cast<int>(j0), static_cast<int>(j1), s});
}

/// 64 tokens of one position times 64 columns; the grid is (tokens, positions, columns).
template <class T, bool Add>
struct RaggedGramBackwardKernel {
  using Product = TileProduct<T>;
  static constexpr int max_threads = Product::threads;
  const std::int32_t* begins;
  const std::int32_t* sample;
  const std::int32_t* token;
  MatrixView<const T> g;
  MatrixView<const T> z;
  int i0, i1, p0;
  MatrixView<T> dz;

  __device__ void operator()() const {
    constexpr int own = Product::own;
    __shared__ typename Product::Shared operands;
    const int begin = begins[p0 + block_y()];
    const int end = begins[p0 + block_y() + 1];
    const int first = lower_bound(sample, begin, end, i0) + block_x() * Product::side;
    const int last = lower_bound(sample, begin, end, i1);
    if (first >= last) {
      return;
    }
    const int column0 = block_z() * Product::side;
    const int d = static_cast<int>(z.cols());
    Product product;
    product.template accumulate<Product::Order::columns_first>(
        operands, end - begin,
        [&](int i, int k) { return first + i < last ? g(sample[first + i], sample[begin + k]) : T(0); },
        [&](int k, int c) { return column0 + c < d ? z(token[begin + k], column0 + c) : T(0); });
    for (int i = 0; i < own; ++i) {
      const int entry = first + own * product.y + i;
      for (int j = 0; j < own && entry < last; ++j) {
        if (const int c = column0 + own * product.x + j; c < d) {
          T& to = dz(token[entry], c);
          to = Add ? to + product.sums[i][j] : product.sums[i][j];
        }
      }
    }
  }
};

template <class T>
void gram_backward(const Stream& stream, const GramIndex& index, MatrixView<const T> g, MatrixView<const T> z, Index i0,
                   Index i1, Index p0, Index p1, Write write, MatrixView<T> dz) {
  if (index.dense) {
    const auto columns = [&](auto m) { return detail::by_sample(index, m).slice_cols(p0 * z.cols(), p1 * z.cols()); };
    multiply_nn(stream, g.slice_rows(i0, i1), columns(z), columns(dz).slice_rows(i0, i1), write);
    return;
  }
  const auto run = [&]<bool Add>(std::bool_constant<Add>) {
    using Kernel = RaggedGramBackwardKernel<T, Add>;
    constexpr Index side = Kernel::Product::side;
    launch(stream, {.x = blocks_for(i1 - i0, side), .y = p1 - p0, .z = blocks_for(z.cols(), side)},
           {.x = Kernel::max_threads}, 0,
           Kernel{index.begins.data(), index.sample.data(), index.token.data(), g, z, static_cast<int>(i0),
                  static_cast<int>(i1), static_cast<int>(p0), dz});
  };
  if (write == Write::add) {
    run(std::true_type());
  } else {
    run(std::false_type());
  }
}

/// A tile of 32 x 32 through shared memory, so that both s and its transpose are read along rows.
template <class T>
struct AddTransposedKernel {
  static constexpr int side = 32;
  static constexpr int max_threads = 256;
  MatrixView<const T> s;
  Index i0;
  MatrixView<T> g;

  __device__ void operator()() const {
    __shared__ T tile[side][side + 1];
    const Index row0 = Index{block_y()} * side;
    const Index column0 = Index{block_x()} * side;
    for (int r = warp(); r < side; r += warps()) {
      if (column0 + r < s.cols() && row0 + lane() < g.rows()) {
        tile[r][lane()] = s(column0 + r, i0 + row0 + lane());
      }
    }
    __syncthreads();
    for (int r = warp(); r < side; r += warps()) {
      if (row0 + r < g.rows() && column0 + lane() < s.cols()) {
        g(row0 + r, column0 + lane()) = s(i0 + row0 + r, column0 + lane()) + tile[lane()][r];
      }
    }
  }
};

template <class T>
void add_transposed(const Stream& stream, MatrixView<const T> s, Index i0, Index i1, MatrixView<T> g) {
  using Kernel = AddTransposedKernel<T>;
  launch(stream, {.x = blocks_for(s.cols(), Kernel::side), .y = blocks_for(i1 - i0, Kernel::side)},
         {.x = Kernel::max_threads}, 0, Kernel{s, i0, g});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
