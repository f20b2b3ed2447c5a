#include <algorithm>

#include <Eigen/Core>
#include <cublas_v2.h>

#include "device_heap.hpp"
#include "runtime.hpp"

struct CudaEmulationBlas {
  cudaStream_t stream = nullptr;
};

namespace {

template <class T>
cublasStatus_t gemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                    const T* alpha, const T* a, int lda, const T* b, int ldb, const T* beta, T* c, int ldc) {
  const bool fits = m >= 0 && n >= 0 && k >= 0 && lda >= std::max(1, op_a == CUBLAS_OP_N ? m : k) &&
                    ldb >= std::max(1, op_b == CUBLAS_OP_N ? k : n) && ldc >= std::max(1, m);
  if (!fits) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (m == 0 || n == 0) {
    return CUBLAS_STATUS_SUCCESS;
  }
  using Stride = Eigen::OuterStride<>;
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;  // column-major
  using In = Eigen::Map<const Matrix, 0, Stride>;
  // The factors are read when the call is made, as with the pointer mode of the host.
  const auto run = [=, factor = *alpha, keep = *beta] {
    const In left(a, op_a == CUBLAS_OP_N ? m : k, op_a == CUBLAS_OP_N ? k : m, Stride(lda));
    const In right(b, op_b == CUBLAS_OP_N ? k : n, op_b == CUBLAS_OP_N ? n : k, Stride(ldb));
    Eigen::Map<Matrix, 0, Stride> out(c, m, n, Stride(ldc));
    const Matrix l = op_a == CUBLAS_OP_N ? Matrix(left) : Matrix(left.transpose());
    const Matrix r = op_b == CUBLAS_OP_N ? Matrix(right) : Matrix(right.transpose());
    const Matrix product = k == 0 ? Matrix::Zero(m, n) : Matrix(factor * (l * r));
    if (keep == T(0)) {
      out = product;
    } else {
      out = keep * out + product;
    }
  };
  const cudaError_t status = cuda_emulation::enqueue_device_work(handle->stream, run);
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

}  // namespace

const char* cublasGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
  }
  return "unknown";
}
const char* cublasGetStatusString(cublasStatus_t) { return "reported by the emulation"; }

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new CudaEmulationBlas;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void* workspace, std::size_t bytes) {
  return cuda_emulation::device_heap().holds(workspace, bytes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                           const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                           float* c, int ldc) {
  return gemm(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                           const double* alpha, const double* a, int lda, const double* b, int ldb, const double* beta,
                           double* c, int ldc) {
  return gemm(handle, op_a, op_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
