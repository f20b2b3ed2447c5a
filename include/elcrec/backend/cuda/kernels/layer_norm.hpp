#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/reduce.hpp"

/// Layer norm of the rows of (T, D), and its backward pass. A warp a row.
///
///   forward   y = x̂ ∘ gamma + beta, x̂ = (x - mean) rstd: reads x, writes x̂, y and rstd; 12 D + 4 bytes (float)
///   backward  dx = rstd (g - mean(g) - x̂ mean(g ∘ x̂)), g = dy ∘ gamma: reads x̂, dy and rstd, writes dx; 12 D + 4
///             bytes; dgamma += Σ dy ∘ x̂, dbeta += Σ dy: at D = 64 from the same registers, otherwise by column sums
///             that read dy and x̂ again (12 D bytes more)
///
/// About 8 D and 12 D operations a row, so bound by memory: at D = 64 a token moves 772 bytes each way. At D = 64 a
/// lane keeps its two elements of the row in registers; the backward pass gives every warp its rows in order and sums
/// the warps' parts of dgamma and dbeta through 4 KB of shared memory. Other D reread the row, which is then in L1.
namespace elcrec::cuda {

inline constexpr int layer_norm_warps = 8;

/// f(i, column) for the lane's i-th column; D is Fixed, or d where that is 0.
template <int Fixed, class F>
__device__ void each_column(int d, F f) {
  if constexpr (Fixed > 0) {
    for (int i = 0; i < Fixed / warp_size; ++i) {
      f(i, lane() + i * warp_size);
    }
  } else {
    for (int c = lane(); c < d; c += warp_size) {
      f(0, c);
    }
  }
}

/// The lane's elements of a row: in registers where D is fixed, in memory otherwise.
template <class T, int Fixed>
struct RowElements {
  T values[Fixed / warp_size];

  __device__ explicit RowElements(const T* row) {
    each_column<Fixed>(Fixed, [&](int i, int c) { values[i] = row[c]; });
  }
  [[nodiscard]] __device__ T operator()(int i, int) const { return values[i]; }
};

template <class T>
struct RowElements<T, 0> {
  const T* row;

  __device__ explicit RowElements(const T* r) : row(r) {}
  [[nodiscard]] __device__ T operator()(int, int c) const { return row[c]; }
};

template <class T, int Fixed>
struct LayerNormKernel {
  static constexpr int max_threads = layer_norm_warps * warp_size;
  MatrixView<const T> x;
  const T* gamma;
  const T* beta;
  T eps;
  MatrixView<T> normalised;
  T* rstd;
  MatrixView<T> y;

  __device__ void operator()() const {
    const Index t = global_warp();
    if (t >= x.rows()) {
      return;
    }
    const int d = static_cast<int>(x.cols());
    const RowElements<T, Fixed> in(x.row(t));
    T sum = 0;
    each_column<Fixed>(d, [&](int i, int c) { sum += in(i, c); });
    const T mean = warp_sum(sum) / static_cast<T>(d);
    T squares = 0;
    each_column<Fixed>(d, [&](int i, int c) { squares += (in(i, c) - mean) * (in(i, c) - mean); });
    const T r = T(1) / std::sqrt(warp_sum(squares) / static_cast<T>(d) + eps);
    if (lane() == 0) {
      rstd[t] = r;
    }
    each_column<Fixed>(d, [&](int i, int c) {
      const T hat = (in(i, c) - mean) * r;
      normalised(t, c) = hat;
      y(t, c) = hat * gamma[c] + beta[c];
    });
  }
};

template <class T>
void layer_norm(const Stream& stream, MatrixView<const T> x, MatrixView<const T> gamma, MatrixView<const T> beta, T eps,
                MatrixView<T> normalised, MatrixView<T> rstd, MatrixView<T> y) {
  const auto run = [&]<int Fixed>(std::integral_constant<int, Fixed>) {
    launch(stream, {.x = blocks_for(x.rows(), layer_norm_warps)}, {.x = layer_norm_warps * warp_size}, 0,
           LayerNormKernel<T, Fixed>{x, gamma.data(), beta.data(), eps, normalised, rstd.data(), y});
  };
  if (x.cols() == 64) {
    run(std::integral_constant<int, 64>());
  } else {
    run(std::integral_constant<int, 0>());
  }
}

/// Rows of the backward pass; dx may be dy.
template <class T, int Fixed>
struct LayerNormGradient {
  MatrixView<const T> normalised;
  const T* rstd;
  const T* gamma;
  MatrixView<const T> dy;
  MatrixView<T> dx;

  /// dx of row t by a warp, and f(i, dy, x̂) for the lane's elements.
  template <class F>
  __device__ void row(Index t, F f) const {
    const int d = static_cast<int>(dy.cols());
    const RowElements<T, Fixed> gradient(dy.row(t));
    const RowElements<T, Fixed> hat(normalised.row(t));
    T sum_g = 0;
    T sum_gx = 0;
    each_column<Fixed>(d, [&](int i, int c) {
      const T g = gradient(i, c) * gamma[c];
      sum_g += g;
      sum_gx += g * hat(i, c);
    });
    const T mean_g = warp_sum(sum_g) / static_cast<T>(d);
    const T mean_gx = warp_sum(sum_gx) / static_cast<T>(d);
    const T r = rstd[t];
    each_column<Fixed>(d, [&](int i, int c) {
      const T v = gradient(i, c);
      const T h = hat(i, c);
      f(i, v, h);
      dx(t, c) = r * (v * gamma[c] - mean_g - h * mean_gx);
    });
  }
};

/// dx alone
template <class T>
struct LayerNormBackwardKernel {
  static constexpr int max_threads = layer_norm_warps * warp_size;
  LayerNormGradient<T, 0> gradient;

  __device__ void operator()() const {
    if (const Index t = global_warp(); t < gradient.dy.rows()) {
      gradient.row(t, [](int, T, T) {});
    }
  }
};

/// dx, and the sums of dy ∘ x̂ and of dy over the block's rows in partial (2 blocks, D).
template <class T, int Fixed>
struct FusedLayerNormBackwardKernel {
  static constexpr int max_threads = layer_norm_warps * warp_size;
  LayerNormGradient<T, Fixed> gradient;
  Index block_rows;
  MatrixView<T> partial;

  __device__ void operator()() const {
    constexpr int count = Fixed / warp_size;
    __shared__ T parts[2][layer_norm_warps][Fixed];
    T dgamma[count] = {};
    T dbeta[count] = {};
    const Index rows = gradient.dy.rows();
    const Index first = block_x() * block_rows;
    const Index last = first + block_rows < rows ? first + block_rows : rows;
    for (Index t = first + warp(); t < last; t += layer_norm_warps) {
      gradient.row(t, [&](int i, T v, T h) {
        dgamma[i] += v * h;
        dbeta[i] += v;
      });
    }
    for (int i = 0; i < count; ++i) {
      parts[0][warp()][lane() + i * warp_size] = dgamma[i];
      parts[1][warp()][lane() + i * warp_size] = dbeta[i];
    }
    __syncthreads();
    for (int e = thread_x(); e < 2 * Fixed; e += threads_x()) {
      T sum = 0;
      for (int w = 0; w < layer_norm_warps; ++w) {
        sum += parts[e / Fixed][w][e % Fixed];
      }
      partial(2 * block_x() + e / Fixed, e % Fixed) = sum;
    }
  }
};

namespace detail {

template <class T>
struct RowProduct {
  MatrixView<const T> x;
  MatrixView<const T> y;
  __device__ T operator()(Index r, Index c) const { return x(r, c) * y(r, c); }
};

}  // namespace detail

template <class T>
void layer_norm_backward(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> normalised,
                         MatrixView<const T> rstd, MatrixView<const T> gamma, MatrixView<const T> dy, MatrixView<T> dx,
                         MatrixView<T> dgamma, MatrixView<T> dbeta) {
  constexpr int fixed = 64;
  constexpr Index least_rows = 4 * layer_norm_warps;
  constexpr Index most_blocks = 512;
  constexpr Block block{.x = layer_norm_warps * warp_size};
  const Index rows = dy.rows();
  if (dy.cols() == fixed) {
    const Index block_rows = std::max(least_rows, blocks_for(rows, most_blocks));
    const Index blocks = blocks_for(rows, block_rows);
    const auto frame = memory.frame();
    const auto partial = memory.template matrix<T>(2 * blocks, fixed);
    launch(
        stream, {.x = blocks}, block, 0,
        FusedLayerNormBackwardKernel<T, fixed>{{normalised, rstd.data(), gamma.data(), dy, dx}, block_rows, partial});
    // Rows of dgamma and of dbeta take turns.
    const MatrixView<const T> parts(partial.data(), blocks, fixed, 2 * fixed);
    add_column_sum(stream, memory, parts, dgamma);
    add_column_sum(stream, memory, MatrixView<const T>(partial.data() + fixed, blocks, fixed, 2 * fixed), dbeta);
  } else {
    // The sums first: dx may be dy.
    sum_columns(stream, memory, rows, detail::RowProduct<T>{dy, normalised}, T(1), T(1), dgamma);
    add_column_sum(stream, memory, dy, dbeta);
    launch(stream, {.x = blocks_for(rows, layer_norm_warps)}, block, 0,
           LayerNormBackwardKernel<T>{{normalised, rstd.data(), gamma.data(), dy, dx}});
  }
}

}  // namespace elcrec::cuda
