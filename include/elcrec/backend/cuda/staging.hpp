#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/token_pack.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// A CUDA event that belongs to a device.
class Event {
 public:
  explicit Event(int device) {
    const DeviceGuard guard(device);
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  ~Event() {
    if (event_ != nullptr) {
      static_cast<void>(cudaEventDestroy(event_));
    }
  }

  void record(const Stream& stream) const {
    const DeviceGuard guard(stream.device);
    check(cudaEventRecord(event_, stream.handle), "cudaEventRecord");
  }
  /// What `stream` gets from now on waits for the last record.
  void hold_up(const Stream& stream) const {
    check(cudaStreamWaitEvent(stream.handle, event_, 0), "cudaStreamWaitEvent");
  }
  /// The calling thread waits for the last record.
  void wait() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Memory of the host that a device copies from by itself, while the host goes on.
template <class T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  /// n elements, not initialised.
  explicit PinnedBuffer(Index n) : size_(n) {
    check(cudaMallocHost(&data_, static_cast<std::size_t>(n) * sizeof(T)), "cudaMallocHost");
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer other) noexcept {
    swap(other);
    return *this;
  }
  ~PinnedBuffer() { static_cast<void>(cudaFreeHost(data_)); }

  [[nodiscard]] std::span<T> span() const { return {data_, static_cast<std::size_t>(size_)}; }

 private:
  void swap(PinnedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data_ = nullptr;
  Index size_ = 0;
};

/// Copies batches to the device from pinned memory on the context's upload stream, beside whatever its main stream
/// computes. See the concept BatchStaging.
class Staging {
 public:
  explicit Staging(std::shared_ptr<const Context> context)
      : context_(std::move(context)), uploaded_(context_->options().device), used_(context_->options().device) {}

  void upload(const TokenView& host) {
    uploaded_.wait();  // the last batch has left the pinned memory
    const Index n = TokenPack::size(host);
    if (n > ssize(pinned_.span())) {
      const Index room = n + n / 2;
      pinned_ = PinnedBuffer<std::byte>(room);
      device_ = DeviceBuffer<std::byte>(context_, context_->main().handle, room);
    }
    TokenPack::pack(host, pinned_.span());
    const Stream& stream = context_->upload();
    const DeviceGuard guard(stream.device);
    used_.hold_up(stream);
    check(cudaMemcpyAsync(device_.data(), pinned_.span().data(), static_cast<std::size_t>(n), cudaMemcpyHostToDevice,
                          stream.handle),
          "cudaMemcpyAsync");
    uploaded_.record(stream);
    view_ = TokenPack::unpack(host, {device_.data(), static_cast<std::size_t>(n)});
  }

  [[nodiscard]] TokenView view() const {
    uploaded_.hold_up(context_->main());
    return view_;
  }

  void finished() { used_.record(context_->main()); }

 private:
  std::shared_ptr<const Context> context_;
  Event uploaded_;
  Event used_;
  PinnedBuffer<std::byte> pinned_;
  DeviceBuffer<std::byte> device_;
  TokenView view_;
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
