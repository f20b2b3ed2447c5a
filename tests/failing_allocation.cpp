// Preloaded into a program: its allocation number ELCREC_FAILS, from 0, throws std::bad_alloc.
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> left{[] {
  const char* text = std::getenv("ELCREC_FAILS");
  return text == nullptr ? -1 : std::atol(text);
}()};

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (left.load() >= 0 && left-- == 0) {
    throw std::bad_alloc();
  }
  void* p = alignment == 0 ? std::malloc(bytes == 0 ? 1 : bytes)
                           : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  return p != nullptr ? p : throw std::bad_alloc();
}

}  // namespace

// Those without exceptions and of arrays come here too, by the standard library's own.
void* operator new(std::size_t n) { return allocate(n, 0); }
void* operator new(std::size_t n, std::align_val_t alignment) {
  return allocate(n, static_cast<std::size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
