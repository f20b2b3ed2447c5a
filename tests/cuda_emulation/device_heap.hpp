#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace cuda_emulation {

/// The memory of the emulated devices: addresses that nobody may touch but kernels and copies. Allocations lie between
/// pages that are never accessible, start as NaNs, and are not reused after they were freed.
class DeviceHeap {
 public:
  DeviceHeap();

  /// Aligned to 256 bytes, as in CUDA. Null when there is no room.
  void* allocate(std::size_t bytes, int device);
  /// False if nothing was allocated at this address.
  bool free(void* memory);

  [[nodiscard]] bool contains(const void* address) const;
  /// Whether [address, address + bytes) lies in one allocation.
  [[nodiscard]] bool holds(const void* address, std::size_t bytes) const;
  [[nodiscard]] std::size_t allocations() const { return allocations_.size(); }

  /// Makes the memory of a device accessible while it lives: around kernels.
  class Access {
   public:
    Access(DeviceHeap& heap, int device) : heap_(heap), device_(device) { heap.protect_all(device, true); }
    ~Access() { heap_.protect_all(device_, false); }
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

   private:
    DeviceHeap& heap_;
    int device_;
  };

  /// Makes what lies at an address accessible while it lives; nothing to do for host memory.
  class AccessAt {
   public:
    AccessAt(DeviceHeap& heap, const void* address);
    ~AccessAt();
    AccessAt(const AccessAt&) = delete;
    AccessAt& operator=(const AccessAt&) = delete;

   private:
    std::uintptr_t begin_ = 0;
    std::size_t bytes_ = 0;
  };

  /// One line about an address that was touched and may not be. Usable in a signal handler.
  void describe(const void* address, char* line, std::size_t capacity) const;

 private:
  struct Allocation {
    std::size_t bytes;
    std::uintptr_t first_page;
    std::size_t page_bytes;
    int device;
  };

  [[nodiscard]] const std::pair<const std::uintptr_t, Allocation>* find(const void* address) const;
  void protect_all(int device, bool accessible);

  std::uintptr_t begin_ = 0;
  std::uintptr_t next_ = 0;
  std::map<std::uintptr_t, Allocation> allocations_;  // by address
};

DeviceHeap& device_heap();

}  // namespace cuda_emulation
