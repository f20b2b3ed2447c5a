#pragma once

#include <algorithm>

#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/matrix_view.hpp"

/// Sequences of tokens (T, D) projected on a basis (L, R): a block of threads takes one sequence, threads along the
/// columns. 8 D bytes (float) a token for every eight columns of the basis, a few operations an element: bound by
/// memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// The basis is taken by eight columns, whose amplitudes a thread keeps for its column of x.
template <class T>
struct ProjectSequencesKernel {
  static constexpr int chunk = 8;
  DeviceTokens tokens;
  MatrixView<const T> basis;
  MatrixView<const T> x;
  MatrixView<T> y;

  __device__ void operator()() const {
    const int s = block_x();
    const int begin = tokens.begin(s);
    const int end = tokens.end(s);
    for (Index c = thread_x(); c < x.cols(); c += threads_x()) {
      for (Index first = 0; first < basis.cols(); first += chunk) {
        T amplitudes[chunk] = {};
        for (int t = begin; t < end; ++t) {
          const T value = x(t, c);
          ELCREC_UNROLL()
          for (int r = 0; r < chunk; ++r) {
            amplitudes[r] += factor(t, first + r) * value;
          }
        }
        for (int t = begin; t < end; ++t) {
          T sum = first == 0 ? T(0) : y(t, c);
          ELCREC_UNROLL()
          for (int r = 0; r < chunk; ++r) {
            sum += factor(t, first + r) * amplitudes[r];
          }
          y(t, c) = sum;
        }
      }
    }
  }

 private:
  [[nodiscard]] __device__ T factor(int t, Index column) const {
    return column < basis.cols() ? basis(tokens.positions[t], column) : T(0);
  }
};

template <class T>
void project_sequences(const Stream& stream, const TokenView& tokens, MatrixView<const T> basis, MatrixView<const T> x,
                       MatrixView<T> y) {
  launch_sequences(stream, tokens, x.cols(), ProjectSequencesKernel<T>{DeviceTokens(tokens), basis, x, y});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
