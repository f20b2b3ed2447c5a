#pragma once

#include <concepts>
#include <span>
#include <string>
#include <string_view>

#include "elcrec/core/finite.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/json.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A JSON object as text, member after member. nlohmann/json escapes the strings; its own objects are not built, since
/// their destructors allocate and end the process where there is no memory left.
class JsonObject {
 public:
  /// Throws ArgumentError for text that is not UTF-8, as do the others for their keys.
  JsonObject& add(std::string_view key, std::string_view text) { return add_raw(key, detail::json_text(text)); }
  template <std::integral T>
  JsonObject& add(std::string_view key, T number) {
    return add_raw(key, std::to_string(number));
  }
  /// null for a number that is not finite.
  JsonObject& add(std::string_view key, double number) {
    return add_raw(key, is_finite(number) ? detail::json_text(number) : "null");
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
  JsonObject& add_raw(std::string_view key, const std::string& value) {
    const std::string name = detail::json_text(key);
    members_.append(members_.empty() ? "{" : ",").append(name).append(":").append(value);
    return *this;
  }

  std::string members_;
};

}  // namespace elcrec::inline ELCREC_TARGET
