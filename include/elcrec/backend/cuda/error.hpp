#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A call into CUDA or cuBLAS failed, or there is no device to run on.
class CudaError : public Error {
 public:
  using Error::Error;
};

namespace cuda {

/// Throws CudaError that names the call unless it succeeded.
inline void check(cudaError_t status, const char* call) {
  require<CudaError>(status == cudaSuccess, call, ": found ", cudaGetErrorName(status), " (",
                     cudaGetErrorString(status), "), expected cudaSuccess");
}

inline void check(cublasStatus_t status, const char* call) {
  require<CudaError>(status == CUBLAS_STATUS_SUCCESS, call, ": found ", cublasGetStatusName(status), " (",
                     cublasGetStatusString(status), "), expected CUBLAS_STATUS_SUCCESS");
}

}  // namespace cuda
}  // namespace elcrec::inline ELCREC_TARGET
