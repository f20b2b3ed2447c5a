#pragma once

#include <cstddef>
#include <string_view>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// Bytes of the UTF-8 character that `text` begins with; 0 where it begins with none (Unicode 15, table 3-7: no
/// surrogates, nothing above U+10FFFF, nothing in more bytes than it needs).
[[nodiscard]] constexpr std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(0);
  if (text.empty() || first < 0x80) {
    return text.empty() ? 0 : 1;
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  const unsigned lowest = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned highest = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (first < 0xC2 || first > 0xF4 || byte(1) < lowest || byte(1) > highest) {
    return 0;
  }
  for (std::size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) {
      return 0;
    }
  }
  return length;
}

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET
