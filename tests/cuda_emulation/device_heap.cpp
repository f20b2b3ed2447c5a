#include "device_heap.hpp"

#include <cstdio>
#include <cstring>
#include <stdexcept>

#include <sys/mman.h>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>  // its macros do nothing without AddressSanitizer
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

#include "elcrec/core/error.hpp"

namespace cuda_emulation {

namespace {

constexpr std::size_t heap_bytes = std::size_t{1} << 38;  // addresses, not memory
constexpr std::size_t page = 4096;
constexpr std::size_t alignment = 256;
constexpr unsigned char canary = 0xC7;

std::size_t rounded(std::size_t bytes, std::size_t unit) { return (bytes + unit - 1) / unit * unit; }

void protect(std::uintptr_t address, std::size_t bytes, bool accessible) {
  if (mprotect(reinterpret_cast<void*>(address), bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
    throw std::runtime_error("CUDA emulation: mprotect failed");
  }
}

}  // namespace

DeviceHeap::DeviceHeap() {
  void* memory = mmap(nullptr, heap_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw std::runtime_error("CUDA emulation: no addresses for device memory");
  }
  begin_ = reinterpret_cast<std::uintptr_t>(memory);
  next_ = begin_ + page;
}

void* DeviceHeap::allocate(std::size_t bytes, int device) {
  const std::size_t padded = rounded(bytes, alignment);
  const std::size_t pages = rounded(padded, page);
  if (next_ + pages + page > begin_ + heap_bytes) {
    return nullptr;
  }
  // It ends where an inaccessible page begins, but for what alignment takes; that rest is watched in other ways.
  const std::uintptr_t address = next_ + pages - padded;
  protect(next_, pages, true);
  std::memset(reinterpret_cast<void*>(address), 0xFF, bytes);
  std::memset(reinterpret_cast<void*>(address + bytes), canary, padded - bytes);
  ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(next_), address - next_);
  ASAN_POISON_MEMORY_REGION(reinterpret_cast<void*>(address + bytes), padded - bytes);
  protect(next_, pages, false);
  allocations_.emplace(address, Allocation{bytes, next_, pages, device});
  next_ += pages + page;
  return reinterpret_cast<void*>(address);
}

bool DeviceHeap::free(void* memory) {
  const auto found = allocations_.find(reinterpret_cast<std::uintptr_t>(memory));
  if (found == allocations_.end()) {
    return false;
  }
  const auto& [address, a] = *found;
  protect(a.first_page, a.page_bytes, true);
  const std::size_t rest = a.first_page + a.page_bytes - address - a.bytes;
  const auto* end = reinterpret_cast<const unsigned char*>(address + a.bytes);
  ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void*>(a.first_page), a.page_bytes);
  for (std::size_t i = 0; i < rest; ++i) {
    if (end[i] != canary) {
      throw std::logic_error(elcrec::message("CUDA emulation: a kernel wrote ", i, " bytes past the end of ", a.bytes,
                                             " bytes of device memory"));
    }
  }
  // Back to what it was before: addresses without memory.
  if (mmap(reinterpret_cast<void*>(a.first_page), a.page_bytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
    throw std::runtime_error("CUDA emulation: mmap failed");
  }
  allocations_.erase(found);
  return true;
}

bool DeviceHeap::contains(const void* address) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  return at >= begin_ && at < begin_ + heap_bytes;
}

const std::pair<const std::uintptr_t, DeviceHeap::Allocation>* DeviceHeap::find(const void* address) const {
  const auto after = allocations_.upper_bound(reinterpret_cast<std::uintptr_t>(address));
  return after == allocations_.begin() ? nullptr : &*std::prev(after);
}

bool DeviceHeap::holds(const void* address, std::size_t bytes) const {
  const auto* found = find(address);
  return found != nullptr && reinterpret_cast<std::uintptr_t>(address) + bytes <= found->first + found->second.bytes;
}

void DeviceHeap::protect_all(int device, bool accessible) {
  for (const auto& [address, a] : allocations_) {
    if (a.device == device) {
      protect(a.first_page, a.page_bytes, accessible);
    }
  }
}

DeviceHeap::AccessAt::AccessAt(DeviceHeap& heap, const void* address) {
  if (heap.contains(address)) {
    const auto& allocation = heap.find(address)->second;
    begin_ = allocation.first_page;
    bytes_ = allocation.page_bytes;
    protect(begin_, bytes_, true);
  }
}

DeviceHeap::AccessAt::~AccessAt() {
  if (bytes_ > 0) {
    protect(begin_, bytes_, false);
  }
}

void DeviceHeap::describe(const void* address, char* line, std::size_t capacity) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const auto* found = find(address);
  if (found != nullptr && at < found->first + found->second.bytes) {
    std::snprintf(line, capacity, "device address %p, byte %zu of an allocation of %zu bytes of device %d", address,
                  at - found->first, found->second.bytes, found->second.device);
  } else if (found != nullptr && at < found->second.first_page + found->second.page_bytes + page) {
    std::snprintf(line, capacity, "device address %p, %zu bytes past the end of an allocation of %zu bytes", address,
                  at - found->first - found->second.bytes, found->second.bytes);
  } else {
    std::snprintf(line, capacity, "device address %p, where nothing is allocated", address);
  }
}

DeviceHeap& device_heap() {
  static auto* heap = new DeviceHeap;  // lives as long as any static object that owns device memory
  return *heap;
}

}  // namespace cuda_emulation
