#pragma once

#include <algorithm>
#include <cstdint>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/packs.hpp"
#include "elcrec/backend/cuda/kernels/reduce.hpp"
#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/matrix_view.hpp"

/// Item and position rows of tokens (T, D), and the gradient of the positions.
///
/// Bytes a token (float): embed 12 D + 8 (item row, position row from cache, output), position_gradient 4 D and L rows
/// of partial sums for each 32 sequences. One operation an element at most. One pack of 16 bytes a thread, no shared
/// memory but 128 bytes in position_gradient.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T, int N>
struct EmbedKernel {
  const ItemId* items;
  const std::int32_t* positions;
  MatrixView<const T> table;
  MatrixView<const T> position_table;
  MatrixView<T> y;

  __device__ void operator()() const {
    for_each_cell(y.rows(), y.cols() / N, [this](Index t, Index c) {
      auto sum = load_pack<N>(table.row(items[t]) + c * N);
      const auto add = load_pack<N>(position_table.row(positions[t]) + c * N);
      for (int i = 0; i < N; ++i) {
        sum[i] += add[i];
      }
      store_pack<N>(y.row(t) + c * N, sum);
    });
  }
};

template <class T>
void embed(const Stream& stream, const TokenView& tokens, MatrixView<const T> table, MatrixView<const T> positions,
           MatrixView<T> y) {
  const DeviceTokens device(tokens);
  with_pack_width<T>(has_packs(table) && has_packs(positions) && has_packs(y), [&](auto n) {
    const auto [grid, block] = cell_shape(y.rows(), y.cols() / n);
    launch(stream, grid, block, 0, EmbedKernel<T, n>{device.items, device.positions, table, positions, y});
  });
}

// ---- gradient of the position table -------------------------------------------------------------------------------

/// partial (chunks, L, D): chunk k, position p sums the rows at p of 32 sequences, one a lane to find, then in order.
template <class T>
struct PartialPositionGradientKernel {
  static constexpr int max_threads = 64;
  DeviceTokens tokens;
  int sequences;
  MatrixView<const T> dy;
  T* partial;

  __device__ void operator()() const {
    __shared__ int token[warp_size];  // at this position, or -1
    const int p = block_x();
    if (warp() == 0) {
      const int s = block_y() * warp_size + lane();
      token[lane()] = -1;
      if (s < sequences) {
        const int t = lower_bound(tokens.positions, tokens.begin(s), tokens.end(s), p);
        if (t < tokens.end(s) && tokens.positions[t] == p) {
          token[lane()] = t;
        }
      }
    }
    __syncthreads();
    T* const to = partial + (block_y() * tokens.max_length + p) * dy.cols();
    for (Index c = thread_x(); c < dy.cols(); c += threads_x()) {
      T sum = 0;
      for (const int t : token) {
        if (t >= 0) {
          sum += dy(t, c);
        }
      }
      to[c] = sum;
    }
  }
};

/// y += Σ_k partial_k over k in order
template <class T>
struct AddPartialMatricesKernel {
  const T* partial;
  Index count;
  MatrixView<T> y;

  __device__ void operator()() const {
    for_each_cell(y.rows(), y.cols(), [this](Index r, Index c) {
      T sum = y(r, c);
      for (Index k = 0; k < count; ++k) {
        sum += partial[k * y.size() + r * y.cols() + c];
      }
      y(r, c) = sum;
    });
  }
};

template <class T>
void position_gradient(const Stream& stream, CudaWorkspace& memory, const TokenView& tokens, MatrixView<const T> dy,
                       MatrixView<T> dpositions) {
  using Partial = PartialPositionGradientKernel<T>;
  const Index chunks = blocks_for(tokens.sequences(), warp_size);
  const auto frame = memory.frame();
  T* const partial = memory.template array<T>(chunks * dpositions.size()).data();
  launch(stream, {.x = dpositions.rows(), .y = chunks}, {.x = Partial::max_threads}, 0,
         Partial{DeviceTokens(tokens), static_cast<int>(tokens.sequences()), dy, partial});
  const auto [grid, block] = cell_shape(dpositions.rows(), dpositions.cols());
  launch(stream, grid, block, 0, AddPartialMatricesKernel<T>{partial, chunks, dpositions});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
