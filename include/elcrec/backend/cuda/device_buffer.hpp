#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/core/checked.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/core/workspace.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Fixed-size array in the memory of a CUDA device; copies are deep. Host code may not read or write through data().
/// Work that reads it must be enqueued before it is destroyed, on the stream that it was made for.
template <class T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  static constexpr bool in_host_memory = false;

  DeviceBuffer() = default;
  /// n elements, not initialised, used on `stream` of the context.
  DeviceBuffer(std::shared_ptr<const cuda::Context> context, cudaStream_t stream, Index n)
      : context_(std::move(context)),
        stream_(stream),
        data_(static_cast<T*>(context_->allocate(checked_bytes<T>("buffer", n)))),
        size_(n) {}
  DeviceBuffer(const DeviceBuffer& other) {
    if (other.context_ != nullptr) {
      DeviceBuffer copy(other.context_, other.stream_, other.size_);
      const cuda::DeviceGuard guard(other.context_->options().device);
      cuda::check(cudaMemcpyAsync(copy.data_, other.data_, static_cast<std::size_t>(other.size_) * sizeof(T),
                                  cudaMemcpyDeviceToDevice, other.stream_),
                  "cudaMemcpyAsync");
      swap(copy);
    }
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer() {
    if (context_ != nullptr) {
      context_->release(data_, stream_);
    }
  }

  /// Sets every byte to 0, in the order of the stream.
  void clear() {
    if (size_ > 0) {
      const cuda::DeviceGuard guard(context_->options().device);
      cuda::check(cudaMemsetAsync(data_, 0, static_cast<std::size_t>(size_) * sizeof(T), stream_), "cudaMemsetAsync");
    }
  }

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] Index size() const { return size_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(context_, other.context_);
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::shared_ptr<const cuda::Context> context_;
  cudaStream_t stream_ = nullptr;
  T* data_ = nullptr;
  Index size_ = 0;
};

/// Scratch memory of kernels, and beside it what the host remembers meanwhile (host_array).
class CudaWorkspace : public Workspace<DeviceBuffer<std::byte>> {
  using Device = Workspace<DeviceBuffer<std::byte>>;
  using HostBytes = HostBuffer<std::byte>;

 public:
  /// Memory of the context that is used on `stream`.
  CudaWorkspace(std::shared_ptr<const cuda::Context> context, cudaStream_t stream)
      : Device([context = std::move(context), stream](std::size_t bytes) {
          return DeviceBuffer<std::byte>(context, stream, static_cast<Index>(bytes));
        }),
        host_([](std::size_t bytes) { return HostBytes(static_cast<Index>(bytes), HostBytes::Uninitialised{}); }) {}

  template <class T>
  [[nodiscard]] std::span<T> host_array(Index n) {
    return host_.template array<T>(n);
  }

  class Frame {
   public:
    explicit Frame(CudaWorkspace& workspace) : device_(workspace), host_(workspace.host_) {}

   private:
    Device::Frame device_;
    Workspace<HostBytes>::Frame host_;
  };
  [[nodiscard]] Frame frame() { return Frame(*this); }

  void clear() {
    Device::clear();
    host_.clear();
  }

 private:
  Workspace<HostBytes> host_;
};

}  // namespace elcrec::inline ELCREC_TARGET
