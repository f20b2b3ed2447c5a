#pragma once

#include <array>
#include <charconv>
#include <concepts>
#include <span>
#include <string>
#include <string_view>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/core/utf8.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A JSON object as text (RFC 8259), member after member.
class JsonObject {
 public:
  /// Throws ArgumentError for text that is not UTF-8, as do the others for their keys.
  JsonObject& add(std::string_view key, std::string_view text) { return add_raw(key, quoted(text)); }
  template <std::integral T>
  JsonObject& add(std::string_view key, T number) {
    return add_raw(key, std::to_string(number));
  }
  /// Reads back to the same bits; null for a number that is not finite.
  JsonObject& add(std::string_view key, double number) {
    if (!is_finite(number)) {
      return add_raw(key, "null");
    }
    std::array<char, 64> digits{};
    std::string text(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr);
    if (text.find_first_of(".e") == std::string::npos) {
      text += ".0";
    }
    return add_raw(key, text);
  }
  JsonObject& add(std::string_view key, const JsonObject& object) { return add_raw(key, object.text()); }
  template <std::integral T>
  JsonObject& add(std::string_view key, std::span<const T> numbers) {
    std::string list;
    for (const T number : numbers) {
      list.append(list.empty() ? "[" : ",").append(std::to_string(number));
    }
    return add_raw(key, list.empty() ? "[]" : list + ']');
  }

  [[nodiscard]] std::string text() const { return members_.empty() ? "{}" : members_ + '}'; }

 private:
  [[nodiscard]] static std::string quoted(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    constexpr std::string_view escaped = "\"\\\b\f\n\r\t";
    constexpr std::string_view letters = "\"\\bfnrt";
    std::string out = "\"";
    for (std::string_view rest = text; !rest.empty();) {
      const std::size_t length = detail::utf8_length(rest);
      require(length > 0, "found ", detail::in_quotes(text), ", expected UTF-8");
      const char c = rest.front();
      if (const auto place = escaped.find(c); place != std::string_view::npos) {
        out.append(1, '\\').append(1, letters[place]);
      } else if (const auto byte = static_cast<unsigned char>(c); byte < 0x20) {
        out.append("\\u00").append(1, digits[byte >> 4]).append(1, digits[byte & 15]);
      } else {
        out.append(rest.substr(0, length));
      }
      rest.remove_prefix(length);
    }
    return out += '"';
  }

  JsonObject& add_raw(std::string_view key, const std::string& value) {
    const std::string name = quoted(key);
    members_.append(members_.empty() ? "{" : ",").append(name).append(":").append(value);
    return *this;
  }

  std::string members_;
};

}  // namespace elcrec::inline ELCREC_TARGET
