#pragma once

#include <cstddef>
#include <cstdint>

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "elcrec/backend/cuda/error.hpp"
#include "elcrec/backend/cuda/stream.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct CudaOptions {
  int device = 0;     ///< number of the device, as CUDA counts them
  bool tf32 = false;  ///< float products may round their operands to TF32 (10 bits): faster, errors of 1e-3
  /// A training step is captured and launched as one CUDA graph. Capturing every step anew, since batches differ in
  /// shape, took longer than it saved on an H200 (docs/cuda.md). While it lasts no other thread may make or destroy a
  /// backend or a lane on the device, nor call anything else that waits for all of it (cudaFree, say): CUDA 13 then
  /// gives the capture up, whatever its mode.
  bool graph = false;
};

namespace cuda {

/// A stream of one's own; with `blas` also a cuBLAS handle that works on it.
class OwnStream {
 public:
  enum class Blas { none, usual, tf32 };
  [[nodiscard]] static Blas blas_of(const CudaOptions& o) { return o.tf32 ? Blas::tf32 : Blas::usual; }

  OwnStream(int device, Blas blas) {
    const DeviceGuard guard(device);
    stream_.device = device;
    check(cudaStreamCreateWithFlags(&stream_.handle, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    try {
      if (blas != Blas::none) {
        start_blas(blas);
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~OwnStream() { release(); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  [[nodiscard]] const Stream& get() const { return stream_; }

 private:
  void start_blas(Blas blas) {
    constexpr std::size_t bytes = std::size_t{4} << 20;
    check(cublasCreate(&stream_.blas), "cublasCreate");
    check(cublasSetStream(stream_.blas, stream_.handle), "cublasSetStream");
    check(cudaMalloc(&workspace_, bytes), "cudaMalloc");
    // Memory of one's own for cuBLAS: the same sums in every run, and none is allocated while a graph is captured.
    check(cublasSetWorkspace(stream_.blas, workspace_, bytes), "cublasSetWorkspace");
    check(cublasSetMathMode(stream_.blas, blas == Blas::tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_PEDANTIC_MATH),
          "cublasSetMathMode");
  }

  // Failures have no one to be reported to here; a device that is lost says so at its next call.
  void release() {
    static_cast<void>(cudaStreamSynchronize(stream_.handle));
    if (stream_.blas != nullptr) {
      static_cast<void>(cublasDestroy(stream_.blas));
    }
    static_cast<void>(cudaFree(workspace_));
    static_cast<void>(cudaStreamDestroy(stream_.handle));
  }

  Stream stream_;
  void* workspace_ = nullptr;
};

/// A device as one backend uses it: its memory pool, and the stream that everything of the backend but its users' own
/// lanes goes through, in order.
class Context {
 public:
  explicit Context(const CudaOptions& options)
      : options_(checked(options)),
        main_(options.device, OwnStream::blas_of(options)),
        upload_(options.device, OwnStream::Blas::none) {
    const DeviceGuard guard(options.device);
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = options.device;
    check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
    std::uint64_t keep_all = UINT64_MAX;
    check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all), "cudaMemPoolSetAttribute");
  }
  ~Context() {
    static_cast<void>(cudaStreamSynchronize(main().handle));
    static_cast<void>(cudaMemPoolDestroy(pool_));
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  [[nodiscard]] const CudaOptions& options() const { return options_; }
  [[nodiscard]] const Stream& main() const { return main_.get(); }
  /// Copies to the device that run beside `main`.
  [[nodiscard]] const Stream& upload() const { return upload_.get(); }

  /// Memory that any stream may use from now on; not initialised.
  [[nodiscard]] void* allocate(std::size_t bytes) const {
    if (bytes == 0) {
      return nullptr;
    }
    const DeviceGuard guard(options_.device);
    void* memory = nullptr;
    check(cudaMallocFromPoolAsync(&memory, bytes, pool_, upload().handle), "cudaMallocFromPoolAsync");
    check(cudaStreamSynchronize(upload().handle), "cudaStreamSynchronize");
    return memory;
  }

  /// Gives memory back once `stream` has done what was enqueued before.
  void release(void* memory, cudaStream_t stream) const {
    if (memory != nullptr) {
      static_cast<void>(cudaFreeAsync(memory, stream));
    }
  }

 private:
  static const CudaOptions& checked(const CudaOptions& options) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    require<CudaError>(status != cudaErrorInsufficientDriver,
                       "CUDA: found no driver, or one older than this program's CUDA runtime; expected a newer driver");
    require<CudaError>(status != cudaErrorNoDevice && !(status == cudaSuccess && count == 0),
                       "CUDA: found no device, expected at least one");
    check(status, "cudaGetDeviceCount");
    require(options.device >= 0 && options.device < count, "CUDA device: found ", options.device, ", expected 0 to ",
            count - 1);
    return options;
  }

  CudaOptions options_;
  OwnStream main_;
  OwnStream upload_;
  cudaMemPool_t pool_ = nullptr;
};

}  // namespace cuda
}  // namespace elcrec::inline ELCREC_TARGET
