#pragma once

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// `size` is what was asked for, if that is known.
[[noreturn]] inline void fail_for_memory(std::string_view what, std::string_view lower, const std::string& size) {
  throw MemoryError(message("memory: found no room for ", what, size, "; ", lower, " takes less"));
}

}  // namespace detail

/// f(), which makes `what`. Throws MemoryError where memory does not suffice: what was being made, how large the piece
/// was that could not be had, and what of the options `lower`s it. What f calls may have said so itself.
template <class F>
decltype(auto) in_memory_for(std::string_view what, std::string_view lower, F&& f) {
  try {
    return f();
  } catch (const NoRoom& error) {
    detail::fail_for_memory(what, lower, message(" (", static_cast<double>(error.bytes()) / 1e6, " MB in one piece)"));
  } catch (const std::bad_alloc&) {
    detail::fail_for_memory(what, lower, "");
  } catch (const std::length_error&) {  // a vector of more elements than there are addresses
    detail::fail_for_memory(what, lower, "");
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
