#pragma once

#include <cstddef>
#include <initializer_list>
#include <locale>
#include <memory>
#include <new>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "elcrec/core/target.hpp"

// The same types for every source of a program, whatever its flags: see ELCREC_TARGET.
namespace elcrec {

/// Base of everything the library throws on purpose. `what()` names the place (file, line, tensor or option),
/// what was found and what was expected.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A data set, checkpoint or other file is missing, malformed or cannot be written.
class FileError : public Error {
 public:
  using Error::Error;
};

/// An option, shape or identifier given by the caller is out of its range.
class ArgumentError : public Error {
 public:
  using Error::Error;
};

/// Memory does not suffice.
class MemoryError : public Error {
 public:
  using Error::Error;
};

/// Training produced a value that is not finite.
class DivergenceError : public Error {
 public:
  using Error::Error;
};

/// A buffer of so many bytes could not be had. Says so without allocating; `in_memory_for` makes it a MemoryError.
class NoRoom : public std::bad_alloc {
 public:
  explicit NoRoom(std::size_t bytes) noexcept : bytes_(bytes) {}
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] const char* what() const noexcept override { return "elcrec: no memory for a buffer"; }

 private:
  std::size_t bytes_;
};

}  // namespace elcrec

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// What operator<< writes of one value, whose type is forgotten: a message is joined by one function for all.
struct MessagePart {
  const void* value;
  void (*write)(std::ostream& out, const void* value);
};

template <class T>
[[nodiscard]] MessagePart message_part(const T& value) {
  if constexpr (std::is_function_v<T>) {  // a manipulator such as std::fixed
    return {reinterpret_cast<const void*>(&value),
            [](std::ostream& out, const void* v) { out << *reinterpret_cast<T*>(const_cast<void*>(v)); }};
  } else {
    return {std::addressof(value), [](std::ostream& out, const void* v) { out << *static_cast<const T*>(v); }};
  }
}
[[nodiscard]] inline MessagePart message_part(const char* text) {
  return {text, [](std::ostream& out, const void* v) { out << static_cast<const char*>(v); }};
}

[[nodiscard]] inline std::string join(std::initializer_list<MessagePart> parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());  // a host's locale must not change numbers in messages
  for (const MessagePart& part : parts) {
    part.write(out, part.value);
  }
  return std::move(out).str();
}

}  // namespace detail

/// Joins its arguments with operator<<.
template <class... Parts>
[[nodiscard]] std::string message(const Parts&... parts) {
  return detail::join({detail::message_part(parts)...});
}

namespace detail {

template <class E>
[[noreturn]] void fail(std::initializer_list<MessagePart> parts) {
  throw E(join(parts));
}

}  // namespace detail

/// Throws `E` with the joined message unless `holds`. The message is built only on failure.
template <class E = ArgumentError, class First, class... Parts>
void require(bool holds, const First& first, const Parts&... parts) {
  if (!holds) [[unlikely]] {
    detail::fail<E>({detail::message_part(first), detail::message_part(parts)...});
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
