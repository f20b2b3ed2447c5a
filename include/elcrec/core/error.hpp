#pragma once

#include <cstddef>
#include <locale>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
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

/// Joins its arguments with operator<<.
template <class... Parts>
[[nodiscard]] std::string message(Parts&&... parts) {
  std::ostringstream out;
  out.imbue(std::locale::classic());  // a host's locale must not change numbers in messages
  (out << ... << std::forward<Parts>(parts));
  return std::move(out).str();
}

/// Throws `E` with the joined message unless `holds`. The message is built only on failure.
template <class E = ArgumentError, class First, class... Parts>
void require(bool holds, First&& first, Parts&&... parts) {
  if (!holds) [[unlikely]] {
    throw E(message(std::forward<First>(first), std::forward<Parts>(parts)...));
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
