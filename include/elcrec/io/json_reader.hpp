#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/core/utf8.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// Reads one JSON value (RFC 8259, in UTF-8) and tells a handler of its pieces as they come; keeps nothing but the
/// string at hand. The handler has null(), boolean(), number(std::string_view), string(std::string&&), start_object(),
/// key(std::string&&), end_object(), start_array() and end_array(). Recurses as deep as the text nests: the handler's
/// start_... throws where that is too deep. A number is as it stands in the text, of any size.
class JsonReader {
 public:
  /// `name` begins the messages.
  JsonReader(std::string_view text, std::string_view name) : text_(text), name_(name) {}

  /// Throws FileError that names the byte, what was found and what was expected.
  template <class Handler>
  void read(Handler& handler) {
    value(handler);
    expect(at_ == text_.size(), "the end");
  }

 private:
  template <class Handler>
  void value(Handler& handler) {
    skip_blanks();
    const char first = peek();
    if (first == '{') {
      members(handler);
    } else if (first == '[') {
      elements(handler);
    } else if (first == '"') {
      handler.string(string());
    } else if (first == '-' || is_digit(first)) {
      handler.number(number());
    } else if (take_word("null")) {
      handler.null();
    } else {
      expect(take_word("true") || take_word("false"), "a value");
      handler.boolean();
    }
    skip_blanks();
  }

  template <class Handler>
  void members(Handler& handler) {
    handler.start_object();
    ++at_;
    skip_blanks();
    if (!take('}')) {
      do {
        skip_blanks();
        expect(peek() == '"', "a key in quotes");
        handler.key(string());
        skip_blanks();
        expect(take(':'), "':'");
        value(handler);
      } while (take(','));
      expect(take('}'), "',' or '}'");
    }
    handler.end_object();
  }

  template <class Handler>
  void elements(Handler& handler) {
    handler.start_array();
    ++at_;
    skip_blanks();
    if (!take(']')) {
      do {
        value(handler);
      } while (take(','));
      expect(take(']'), "',' or ']'");
    }
    handler.end_array();
  }

  [[nodiscard]] std::string_view number() {
    const std::size_t begin = at_;
    take('-');
    if (!take('0')) {
      digits();
    }
    if (take('.')) {
      digits();
    }
    if (take('e') || take('E')) {
      if (!take('+')) {
        take('-');
      }
      digits();
    }
    return text_.substr(begin, at_ - begin);
  }

  void digits() {
    expect(is_digit(peek()), "a digit");
    while (is_digit(peek())) {
      ++at_;
    }
  }

  [[nodiscard]] std::string string() {
    std::string out;
    ++at_;
    while (!take('"')) {
      if (take('\\')) {
        escape(out);
        continue;
      }
      const std::size_t length = utf8_length(text_.substr(at_));
      expect(length > 0 && static_cast<unsigned char>(peek()) >= 0x20, "a character in UTF-8 or '\"'");
      out.append(text_.substr(at_, length));
      at_ += length;
    }
    return out;
  }

  /// What stands after a backslash.
  void escape(std::string& out) {
    constexpr std::string_view letters = "\"\\/bfnrt";
    constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    if (const auto place = letters.find(peek()); at_ < text_.size() && place != std::string_view::npos) {
      ++at_;
      out += meanings[place];
      return;
    }
    expect(take('u'), "one of the escapes");
    std::uint32_t code = hexadecimal();
    if (code >= 0xD800 && code < 0xDC00) {  // U+10000 and above are pairs of surrogates
      expect(take('\\') && take('u'), "the second surrogate of a pair");
      const std::uint32_t low = hexadecimal();
      expect(low >= 0xDC00 && low < 0xE000, "the second surrogate of a pair before this");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    expect(code < 0xDC00 || code > 0xDFFF, "the first surrogate of a pair before this");
    append_utf8(out, code);
  }

  [[nodiscard]] std::uint32_t hexadecimal() {
    constexpr std::string_view digits = "0123456789abcdefABCDEF";
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const std::size_t digit = at_ < text_.size() ? digits.find(text_[at_]) : std::string_view::npos;
      expect(digit != std::string_view::npos, "a hexadecimal digit");
      code = code << 4 | static_cast<std::uint32_t>(digit < 16 ? digit : digit - 6);
      ++at_;
    }
    return code;
  }

  static void append_utf8(std::string& out, std::uint32_t code) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      tail(6);
      tail(0);
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }

  /// The next byte; 0 at the end.
  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char c) {
    const bool there = at_ < text_.size() && text_[at_] == c;
    at_ += there ? 1 : 0;
    return there;
  }

  bool take_word(std::string_view word) {
    const bool there = text_.substr(at_).starts_with(word);
    at_ += there ? word.size() : 0;
    return there;
  }

  void skip_blanks() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  void expect(bool holds, const char* expected) const {
    if (!holds) {
      const std::string_view rest = text_.substr(at_);
      throw FileError(rest.empty()
                          ? message(name_, ": found its end after ", at_, " bytes; expected ", expected)
                          : message(name_, ": found ", in_quotes(rest), " at byte ", at_, "; expected ", expected));
    }
  }

  std::string_view text_;
  std::string_view name_;
  std::size_t at_ = 0;
};

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET
