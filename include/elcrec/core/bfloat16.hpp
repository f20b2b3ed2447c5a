#pragma once

#include <bit>
#include <cstdint>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The upper half of a float: its range, and 8 significant bits. For item tables that are only read to score.
class BFloat16 {
 public:
  BFloat16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  constexpr explicit BFloat16(float value) {
    const auto all = std::bit_cast<std::uint32_t>(value);
    const bool is_nan = (all & 0x7FFF'FFFFU) > 0x7F80'0000U;
    bits_ = static_cast<std::uint16_t>(is_nan ? (all >> 16) | 0x40U : (all + 0x7FFFU + ((all >> 16) & 1U)) >> 16);
  }
  constexpr operator float() const {  // NOLINT(google-explicit-constructor): loses nothing
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits_) << 16);
  }

 private:
  std::uint16_t bits_;
};

}  // namespace elcrec::inline ELCREC_TARGET
