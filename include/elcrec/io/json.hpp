#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "elcrec/core/target.hpp"

// nlohmann/json reads and writes all JSON. Its header and what it instantiates cost a source two seconds of compile
// time: with elcrec::precompiled that library alone includes it.
#if defined(ELCREC_PRECOMPILED)
#define ELCREC_JSON_INLINE
#else
#define ELCREC_JSON_INLINE inline
#endif

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// What is told of the pieces of a JSON text as they are read.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void null() = 0;
  virtual void boolean() = 0;
  virtual void number_unsigned(std::uint64_t value) = 0;
  virtual void other_number(std::string_view text) = 0;  ///< negative, or not whole
  virtual void string(std::string&& text) = 0;
  virtual void start_object() = 0;
  virtual void key(std::string&& text) = 0;
  virtual void end_object() = 0;
  virtual void start_array() = 0;
  virtual void end_array() = 0;
};

/// Reads one JSON value and builds nothing of it. Throws FileError with nlohmann's words, after `name`, where the text
/// is no JSON.
ELCREC_JSON_INLINE void read_json(std::string_view text, std::string_view name, JsonEvents& events);

/// A JSON string. Throws ArgumentError for text that is not UTF-8.
[[nodiscard]] ELCREC_JSON_INLINE std::string json_text(std::string_view text);
/// A JSON number that reads back to the same bits. `value` is finite.
[[nodiscard]] ELCREC_JSON_INLINE std::string json_text(double value);

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET

#if !defined(ELCREC_PRECOMPILED)
#include "elcrec/io/json_by_nlohmann.hpp"
#endif
