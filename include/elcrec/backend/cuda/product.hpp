#pragma once

#include <algorithm>
#include <concepts>
#include <limits>

#include "elcrec/backend/cuda/error.hpp"
#include "elcrec/backend/cuda/stream.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

/// Products through cuBLAS, whose matrices are column-major: a row-major matrix is its own transpose there, so the
/// operands change places and y (M, N) = a b becomes yᵀ (N, M) = bᵀ aᵀ. 2 M N K operations; bytes: both operands and
/// the result at least once.
namespace elcrec::inline ELCREC_TARGET::cuda {

namespace detail {

[[nodiscard]] inline int blas_extent(Index n) {
  require(n <= (std::numeric_limits<int>::max)(), "CUDA product: found an extent of ", n, ", expected at most ",
          (std::numeric_limits<int>::max)());
  return static_cast<int>(n);
}

/// yᵀ (N, M) = or += op_w(w) op_x(x), with op as cuBLAS sees the operands.
template <std::floating_point T>
void multiply(const Stream& stream, cublasOperation_t op_w, MatrixView<const T> w, cublasOperation_t op_x,
              MatrixView<const T> x, Index depth, MatrixView<T> y, Write write) {
  if (y.rows() == 0 || y.cols() == 0) {
    return;
  }
  const DeviceGuard guard(stream.device);
  const auto leading = [](auto m) { return blas_extent(std::max<Index>(1, m.stride())); };
  const T one = 1;
  const T before = write == Write::add ? T(1) : T(0);
  const auto call = [&](auto gemm, const char* name) {
    check(gemm(stream.blas, op_w, op_x, blas_extent(y.cols()), blas_extent(y.rows()), blas_extent(depth), &one,
               w.data(), leading(w), x.data(), leading(x), &before, y.data(), leading(y)),
          name);
  };
  if constexpr (std::same_as<T, float>) {
    call(cublasSgemm, "cublasSgemm");
  } else {
    call(cublasDgemm, "cublasDgemm");
  }
}

}  // namespace detail

/// y (M, N) = or += x (M, K) · w (N, K)ᵀ
template <class T>
void multiply_nt(const Stream& stream, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  detail::multiply(stream, CUBLAS_OP_T, w, CUBLAS_OP_N, x, x.cols(), y, write);
}

/// y (M, N) = or += x (M, K) · w (K, N)
template <class T>
void multiply_nn(const Stream& stream, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  detail::multiply(stream, CUBLAS_OP_N, w, CUBLAS_OP_N, x, x.cols(), y, write);
}

/// y (M, N) = or += x (K, M)ᵀ · w (K, N)
template <class T>
void multiply_tn(const Stream& stream, MatrixView<const T> x, MatrixView<const T> w, MatrixView<T> y, Write write) {
  detail::multiply(stream, CUBLAS_OP_N, w, CUBLAS_OP_T, x, x.rows(), y, write);
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
