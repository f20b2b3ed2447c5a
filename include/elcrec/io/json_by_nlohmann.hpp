#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/io/json.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// nlohmann/json's SAX interface over JsonEvents.
class NlohmannEvents {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  NlohmannEvents(std::string_view name, JsonEvents& events) : name_(name), events_(events) {}

  bool null() { return events_.null(), true; }
  bool boolean(bool) { return events_.boolean(), true; }
  bool number_integer(number_integer_t value) { return events_.other_number(std::to_string(value)), true; }
  bool number_unsigned(number_unsigned_t value) { return events_.number_unsigned(value), true; }
  bool number_float(number_float_t, const string_t& text) { return events_.other_number(text), true; }
  bool string(string_t& text) { return events_.string(std::move(text)), true; }
  bool binary(binary_t&) { return true; }  // of other formats
  bool start_object(std::size_t) { return events_.start_object(), true; }
  bool key(string_t& text) { return events_.key(std::move(text)), true; }
  bool end_object() { return events_.end_object(), true; }
  bool start_array(std::size_t) { return events_.start_array(), true; }
  bool end_array() { return events_.end_array(), true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& e) {
    throw FileError(message(name_, ": ", excerpt(e.what(), 200)));
  }

 private:
  std::string_view name_;
  JsonEvents& events_;
};

ELCREC_JSON_INLINE void read_json(std::string_view text, std::string_view name, JsonEvents& events) {
  NlohmannEvents sax(name, events);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &sax);
}

ELCREC_JSON_INLINE std::string json_text(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception& e) {
    throw ArgumentError(message(excerpt(e.what(), 200)));
  }
}

ELCREC_JSON_INLINE std::string json_text(double value) { return nlohmann::json(value).dump(); }

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET
