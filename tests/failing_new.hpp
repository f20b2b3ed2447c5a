#pragma once

#include <cstdlib>
#include <new>

/// Every form of new and delete of a program, for one of its sources: new throws where that source's allocation_fails
/// says.
namespace elcrec::test {

bool allocation_fails(std::size_t bytes);

inline void* allocate(std::size_t bytes, std::size_t alignment) {
  void* p = nullptr;
  if (!allocation_fails(bytes)) {
    p = alignment == 0 ? std::malloc(bytes == 0 ? 1 : bytes)
                       : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  }
  return p != nullptr ? p : throw std::bad_alloc();
}

}  // namespace elcrec::test

// GCC takes the pairing of malloc and free for a mismatch when it sees only one of the two.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t n) { return elcrec::test::allocate(n, 0); }
void* operator new(std::size_t n, std::align_val_t alignment) {
  return elcrec::test::allocate(n, static_cast<std::size_t>(alignment));
}
// The standard library's would come to those above; a sanitizer's do not.
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return elcrec::test::allocation_fails(n) ? nullptr : std::malloc(n == 0 ? 1 : n);
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
