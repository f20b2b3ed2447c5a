#pragma once

#include <cstddef>
#include <string_view>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// a · b, two sizes of `what`. Throws ArgumentError if one is negative or if the product is no Index.
[[nodiscard]] inline Index checked_product(std::string_view what, Index a, Index b) {
  Index product = 0;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) [[unlikely]] {
    throw ArgumentError(message(what, ": found ", a, " times ", b, ", expected no negative size and less than 2^63"));
  }
  return product;
}

/// a + b, likewise.
[[nodiscard]] inline Index checked_sum(std::string_view what, Index a, Index b) {
  Index sum = 0;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) [[unlikely]] {
    throw ArgumentError(message(what, ": found ", a, " plus ", b, ", expected no negative size and less than 2^63"));
  }
  return sum;
}

/// Bytes of n values of type T.
template <class T>
[[nodiscard]] std::size_t checked_bytes(std::string_view what, Index n) {
  return static_cast<std::size_t>(checked_product(what, n, static_cast<Index>(sizeof(T))));
}

}  // namespace elcrec::inline ELCREC_TARGET
