#pragma once

// Replaces the program's operator new: for one source of a test.
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace elcrec::test {
/// How often any form of new was called.
inline std::atomic<long> allocations{0};
}  // namespace elcrec::test

// Every form of new ends here. GCC takes the pairing of malloc and free for a mismatch when it sees only one of the
// two.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void* operator new(std::size_t n) {
  ++elcrec::test::allocations;
  if (void* p = std::malloc(n == 0 ? 1 : n)) {
    return p;
  }
  throw std::bad_alloc();
}
void* operator new(std::size_t n, std::align_val_t alignment) {
  ++elcrec::test::allocations;
  const auto a = static_cast<std::size_t>(alignment);
  if (void* p = std::aligned_alloc(a, (n + a - 1) / a * a)) {
    return p;
  }
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
