#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// The arrays of a TokenView as one, so that one copy brings a batch to a device. Each starts at a multiple of 64
/// bytes.
class TokenPack {
 public:
  /// Elements that the arrays of a batch take.
  [[nodiscard]] static Index size(const TokenView& tokens) {
    Index total = 0;
    TokenView copy = tokens;
    for (const auto* array : arrays(copy)) {
      total += padded(ssize(*array));
    }
    return total;
  }

  /// Writes them to `to` (size).
  static void pack(const TokenView& tokens, std::span<std::int32_t> to) {
    TokenView copy = tokens;
    Index at = 0;
    for (const auto* array : arrays(copy)) {
      std::copy(array->begin(), array->end(), to.begin() + at);
      at += padded(ssize(*array));
    }
  }

  /// The batch with the arrays that pack() wrote, wherever they are now. `host_offsets` stay the caller's.
  [[nodiscard]] static TokenView unpack(const TokenView& tokens, std::span<const std::int32_t> from) {
    TokenView moved = tokens;
    Index at = 0;
    for (auto* array : arrays(moved)) {
      const Index n = ssize(*array);
      *array = slice(from, at, at + n);
      at += padded(n);
    }
    return moved;
  }

 private:
  using Array = std::span<const std::int32_t>;

  static std::array<Array*, 10> arrays(TokenView& v) {
    return {&v.offsets,
            &v.items,
            &v.positions,
            &v.targets,
            &v.negatives,
            &v.target_tokens,
            &v.labels,
            &v.by_position.begins,
            &v.by_position.sample,
            &v.by_position.token};
  }
  static Index padded(Index n) {
    constexpr Index unit = 16;
    return (n + unit - 1) / unit * unit;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
