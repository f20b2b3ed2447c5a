#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "elcrec/core/checked.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Fixed-size array in host memory, 64-byte aligned. Elements start as zero unless `uninitialised` is asked for. From
/// 2 MB on it asks the system for huge pages, by which matrices with distant rows need far fewer address translations.
template <class T>
class HostBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  struct Uninitialised {};
  static constexpr std::size_t alignment = 64;
  static constexpr bool in_host_memory = true;

  HostBuffer() = default;
  explicit HostBuffer(Index n) : HostBuffer(n, Uninitialised{}) {
    if (n > 0) {
      std::memset(static_cast<void*>(data()), 0, static_cast<std::size_t>(n) * sizeof(T));
    }
  }
  HostBuffer(Index n, Uninitialised) : data_(allocate(checked_bytes<T>("buffer", n))), size_(n) {}
  HostBuffer(const HostBuffer& other) : HostBuffer(other.size_, Uninitialised{}) {
    std::copy_n(other.data(), size_, data());
  }
  HostBuffer(HostBuffer&& other) noexcept : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  HostBuffer& operator=(HostBuffer other) noexcept {
    data_.swap(other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~HostBuffer() = default;

  [[nodiscard]] T* data() { return data_.get(); }
  [[nodiscard]] const T* data() const { return data_.get(); }
  [[nodiscard]] Index size() const { return size_; }

 private:
  struct Free {
    std::align_val_t alignment;
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };
  using Pointer = std::unique_ptr<T, Free>;

  static void* memory(std::size_t bytes, std::align_val_t alignment_of) {
    try {
      return ::operator new(bytes, alignment_of);
    } catch (const std::bad_alloc&) {
      throw NoRoom(bytes);
    }
  }

  static Pointer allocate(std::size_t bytes) {
    constexpr std::size_t huge_page = std::size_t{1} << 21;
    const bool huge = bytes >= huge_page;
    const std::align_val_t alignment_of{huge ? huge_page : alignment};
    Pointer p(static_cast<T*>(memory(bytes, alignment_of)), Free{alignment_of});
#if defined(__linux__)
    if (huge) {
      ::madvise(p.get(), bytes / huge_page * huge_page, MADV_HUGEPAGE);  // advice: where it is refused nothing changes
    }
#endif
    return p;
  }

  Pointer data_{nullptr, Free{std::align_val_t{alignment}}};
  Index size_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
