#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/matrix_view.hpp"

/// Between the tokens (T, D) of a ragged batch and its S sequences: a block of threads takes one sequence, threads
/// along the columns.
///
/// Bytes a token (float): mean_pool and concat_pool 4 D (and 4 D or 4 L D a sequence), their backward passes 12 D. A
/// few operations an element: bound by memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T>
struct MeanPoolKernel {
  DeviceTokens tokens;
  MatrixView<const T> x;
  MatrixView<T> y;

  __device__ void operator()() const {
    const int s = block_x();
    const int begin = tokens.begin(s);
    const int end = tokens.end(s);
    const T weight = T(1) / static_cast<T>(begin < end ? end - begin : 1);
    for (Index c = thread_x(); c < x.cols(); c += threads_x()) {
      T sum = 0;
      for (int t = begin; t < end; ++t) {
        sum += x(t, c);
      }
      y(s, c) = weight * sum;
    }
  }
};

template <class T>
struct MeanPoolBackwardKernel {
  DeviceTokens tokens;
  MatrixView<const T> dy;
  MatrixView<T> dx;

  __device__ void operator()() const {
    const int s = block_x();
    const int begin = tokens.begin(s);
    const int end = tokens.end(s);
    const T weight = T(1) / static_cast<T>(begin < end ? end - begin : 1);
    for (Index c = thread_x(); c < dy.cols(); c += threads_x()) {
      const T value = weight * dy(s, c);
      for (int t = begin; t < end; ++t) {
        dx(t, c) += value;
      }
    }
  }
};

template <class T>
struct LastPoolKernel {
  DeviceTokens tokens;
  MatrixView<const T> x;
  MatrixView<T> y;

  __device__ void operator()() const {
    const int s = block_x();
    const int end = tokens.end(s);
    const bool any = tokens.begin(s) < end;
    for (Index c = thread_x(); c < y.cols(); c += threads_x()) {
      y(s, c) = any ? x(end - 1, c) : T(0);
    }
  }
};

template <class T>
struct LastPoolBackwardKernel {
  DeviceTokens tokens;
  MatrixView<const T> dy;
  MatrixView<T> dx;

  __device__ void operator()() const {
    const int s = block_x();
    const int end = tokens.end(s);
    for (Index c = thread_x(); c < dy.cols() && tokens.begin(s) < end; c += threads_x()) {
      dx(end - 1, c) += dy(s, c);
    }
  }
};

template <class T>
struct ConcatPoolKernel {
  DeviceTokens tokens;
  MatrixView<const T> x;
  MatrixView<T> y;

  __device__ void operator()() const {
    const int s = block_x();
    for (Index c = thread_x(); c < y.cols(); c += threads_x()) {
      y(s, c) = T(0);
    }
    __syncthreads();
    for (int t = tokens.begin(s); t < tokens.end(s); ++t) {
      T* const to = y.row(s) + tokens.positions[t] * x.cols();
      for (Index c = thread_x(); c < x.cols(); c += threads_x()) {
        to[c] = x(t, c);
      }
    }
  }
};

template <class T>
struct ConcatPoolBackwardKernel {
  DeviceTokens tokens;
  MatrixView<const T> dy;
  MatrixView<T> dx;

  __device__ void operator()() const {
    const int s = block_x();
    for (int t = tokens.begin(s); t < tokens.end(s); ++t) {
      const T* const from = dy.row(s) + tokens.positions[t] * dx.cols();
      for (Index c = thread_x(); c < dx.cols(); c += threads_x()) {
        dx(t, c) += from[c];
      }
    }
  }
};

template <class T>
void mean_pool(const Stream& stream, const TokenView& tokens, MatrixView<const T> x, MatrixView<T> y) {
  launch_sequences(stream, tokens, x.cols(), MeanPoolKernel<T>{DeviceTokens(tokens), x, y});
}

template <class T>
void mean_pool_backward(const Stream& stream, const TokenView& tokens, MatrixView<const T> dy, MatrixView<T> dx) {
  launch_sequences(stream, tokens, dy.cols(), MeanPoolBackwardKernel<T>{DeviceTokens(tokens), dy, dx});
}

template <class T>
void last_pool(const Stream& stream, const TokenView& tokens, MatrixView<const T> x, MatrixView<T> y) {
  launch_sequences(stream, tokens, x.cols(), LastPoolKernel<T>{DeviceTokens(tokens), x, y});
}

template <class T>
void last_pool_backward(const Stream& stream, const TokenView& tokens, MatrixView<const T> dy, MatrixView<T> dx) {
  launch_sequences(stream, tokens, dy.cols(), LastPoolBackwardKernel<T>{DeviceTokens(tokens), dy, dx});
}

template <class T>
void concat_pool(const Stream& stream, const TokenView& tokens, MatrixView<const T> x, MatrixView<T> y) {
  launch_sequences(stream, tokens, x.cols(), ConcatPoolKernel<T>{DeviceTokens(tokens), x, y});
}

template <class T>
void concat_pool_backward(const Stream& stream, const TokenView& tokens, MatrixView<const T> dy, MatrixView<T> dx) {
  launch_sequences(stream, tokens, dx.cols(), ConcatPoolBackwardKernel<T>{DeviceTokens(tokens), dy, dx});
}

/// out_t = sample_ids_s L + position_t
struct ExpandIdsKernel {
  DeviceTokens tokens;
  const std::int32_t* sample_ids;
  Index rows_each;
  std::int32_t* out;

  __device__ void operator()() const {
    const int s = block_x();
    const auto first = static_cast<std::int32_t>(sample_ids[s] * rows_each);
    for (int t = tokens.begin(s) + thread_x(); t < tokens.end(s); t += threads_x()) {
      out[t] = first + (rows_each == 1 ? 0 : tokens.positions[t]);
    }
  }
};

inline void expand_ids(const Stream& stream, const TokenView& tokens, std::span<const std::int32_t> sample_ids,
                       Index rows_each, std::span<std::int32_t> out) {
  launch_sequences(stream, tokens, tokens.longest,
                   ExpandIdsKernel{DeviceTokens(tokens), sample_ids.data(), rows_each, out.data()});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
