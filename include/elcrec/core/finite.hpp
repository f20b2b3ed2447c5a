#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Whether a number is neither infinite nor NaN. By its bits: under a host's -ffast-math std::isfinite is always true.
template <std::floating_point T>
[[nodiscard]] constexpr bool is_finite(T value) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr int fraction_bits = std::numeric_limits<T>::digits - 1;
  constexpr Bits exponent = ((Bits{1} << (8 * sizeof(T) - 1 - fraction_bits)) - 1) << fraction_bits;
  return (std::bit_cast<Bits>(value) & exponent) != exponent;
}

}  // namespace elcrec::inline ELCREC_TARGET
