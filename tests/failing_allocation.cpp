// Preloaded into a program: its allocation number ELCREC_FAILS, from 0, throws std::bad_alloc.
#include <atomic>
#include <cstdlib>

#include "failing_new.hpp"

namespace {

std::atomic<long> left{[] {
  const char* text = std::getenv("ELCREC_FAILS");
  return text == nullptr ? -1 : std::atol(text);
}()};

}  // namespace

bool elcrec::test::allocation_fails(std::size_t) { return left.load() >= 0 && left-- == 0; }
