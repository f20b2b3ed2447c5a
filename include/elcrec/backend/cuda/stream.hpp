#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "elcrec/backend/cuda/error.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// Where an operation is enqueued: a stream of a device, and the cuBLAS handle bound to it. Does not own them. One
/// thread at a time.
struct Stream {
  cudaStream_t handle = nullptr;
  cublasHandle_t blas = nullptr;
  int device = 0;
};

/// Makes a device the thread's current one, and the one before it again on destruction.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) {
      check(cudaSetDevice(device), "cudaSetDevice");
      changed_ = true;
    }
  }
  ~DeviceGuard() {
    if (changed_) {
      static_cast<void>(cudaSetDevice(before_));  // it was current before, so this cannot be refused
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
