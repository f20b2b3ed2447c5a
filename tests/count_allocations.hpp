#pragma once

// Counts what a program allocates: for one source of a test.
#include <atomic>
#include <cstddef>

#include "failing_new.hpp"

namespace elcrec::test {

/// How often any form of new was called.
inline std::atomic<long> allocations{0};

bool allocation_fails(std::size_t) {
  ++allocations;
  return false;
}

}  // namespace elcrec::test
