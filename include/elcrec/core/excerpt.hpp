#pragma once

#include <cstddef>
#include <ostream>
#include <string>
#include <string_view>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// `byte` as \xHH.
inline void append_escaped(std::string& text, char byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  const auto value = static_cast<unsigned char>(byte);
  text.append("\\x").append(1, digits[value >> 4]).append(1, digits[value & 15]);
}

/// Bytes of the UTF-8 character that `text` begins with; 0 where it begins with none, or with a control character.
[[nodiscard]] inline std::size_t printable_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return first >= 0x20 && first != 0x7F ? 1 : 0;
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || (first == 0xC2 && byte(1) < 0xA0)) {  // C2 80 to C2 9F control terminals too
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) {
      return 0;
    }
  }
  return length;
}

/// What of a line may go to a terminal: its first `longest` bytes or so, with "..." for the rest, and with control
/// characters and what is not UTF-8 as \xHH.
[[nodiscard]] inline std::string printable(std::string_view line, std::size_t longest = 1000) {
  std::string text;
  while (!line.empty() && text.size() < longest) {
    const std::size_t length = printable_length(line);
    if (length > 0) {
      text += line.substr(0, length);
    } else {
      append_escaped(text, line.front());
    }
    line.remove_prefix(length > 0 ? length : 1);
  }
  return text += line.empty() ? "" : "...";
}

/// Text from a file or a command line as a message shows it, when it is printed: at most `longest` bytes, with
/// everything but printable ASCII as \xHH.
struct Excerpt {
  std::string_view text;
  std::size_t longest;
  std::string_view quote;

  friend std::ostream& operator<<(std::ostream& out, const Excerpt& e) {
    std::string shown;
    for (const char c : e.text.substr(0, e.longest)) {
      if (c >= 0x20 && c < 0x7F) {
        shown += c;
      } else {
        append_escaped(shown, c);
      }
    }
    return out << e.quote << shown << (e.text.size() > e.longest ? "..." : "") << e.quote;
  }
};

[[nodiscard]] inline Excerpt excerpt(std::string_view text, std::size_t longest = 40) { return {text, longest, ""}; }
[[nodiscard]] inline Excerpt in_quotes(std::string_view text) { return {text, 40, "\""}; }

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET
