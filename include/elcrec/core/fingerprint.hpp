#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A 64-bit digest by which a file or data set is known again: not against forgery, but every change within one 8-byte
/// word changes it, and any other change goes unnoticed once in 2^64. Each word is mixed in by a bijection of the state
/// (exclusive or, product with an odd number, shift). The same on every machine of this byte order.
class Fingerprint {
 public:
  /// Values without padding bytes.
  template <class T>
  requires std::has_unique_object_representations_v<T> Fingerprint& add(std::span<const T> values) {
    return add_bytes(std::as_bytes(values));
  }
  Fingerprint& add(std::string_view text) { return add_bytes(std::as_bytes(std::span(text.data(), text.size()))); }
  template <class T>
    requires(std::has_unique_object_representations_v<T> && !std::is_pointer_v<T>)
  Fingerprint& add(T value) { return add_bytes(std::as_bytes(std::span(&value, 1))); }

  /// Any bytes, and their number: what is added in two calls is not what is added in one.
  Fingerprint& add_bytes(std::span<const std::byte> bytes) {
    mix(bytes.size());
    std::uint64_t word = 0;
    if (bytes.size() >= lanes * sizeof(word)) {
      // A product waits for the one before it; four states of their own do not.
      std::array<std::uint64_t, lanes> states{};
      for (; bytes.size() >= sizeof(states); bytes = bytes.subspan(sizeof(states))) {
        for (std::size_t i = 0; i < lanes; ++i) {
          std::memcpy(&word, bytes.data() + i * sizeof(word), sizeof(word));
          states[i] = mixed(states[i], word);
        }
      }
      for (const std::uint64_t state : states) {
        mix(state);
      }
    }
    for (; bytes.size() >= sizeof(word); bytes = bytes.subspan(sizeof(word))) {
      std::memcpy(&word, bytes.data(), sizeof(word));
      mix(word);
    }
    if (!bytes.empty()) {
      word = 0;
      std::memcpy(&word, bytes.data(), bytes.size());
      mix(word);
    }
    return *this;
  }

  [[nodiscard]] std::uint64_t value() const { return state_; }

  /// 16 hexadecimal digits.
  [[nodiscard]] std::string text() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) {
      text += digits[(state_ >> shift) & 15U];
    }
    return text;
  }

 private:
  static constexpr std::size_t lanes = 4;

  static std::uint64_t mixed(std::uint64_t state, std::uint64_t word) {
    state = (state ^ word) * 0x9E3779B97F4A7C15U;
    return state ^ (state >> 32);
  }
  void mix(std::uint64_t word) { state_ = mixed(state_, word); }

  std::uint64_t state_ = 0x243F6A8885A308D3U;  // digits of pi
};

}  // namespace elcrec::inline ELCREC_TARGET
