#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <locale>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The names of an enumeration's values, in the order of the values.
template <class E>
inline constexpr auto names_of = nullptr;

/// The text of an option's value; numbers read back to the same bits.
template <class T>
[[nodiscard]] std::string to_text(T value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(names_of<T>[static_cast<std::size_t>(value)]);
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (std::is_same_v<T, std::string_view>) {
    return std::string(value);
  } else {
    std::array<char, 64> buffer{};
    return {buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr};
  }
}

/// Reads a value from text. Throws ArgumentError that names the option, what was found and what was expected.
template <class T>
void from_text(std::string_view option, std::string_view text, T& value) {
  if constexpr (std::is_enum_v<T> || std::is_same_v<T, bool>) {
    std::size_t count = 2;
    if constexpr (std::is_enum_v<T>) {
      count = names_of<T>.size();
    }
    std::string expected;
    for (std::size_t i = 0; i < count; ++i) {
      const auto candidate = static_cast<T>(i);
      if (text == to_text(candidate)) {
        value = candidate;
        return;
      }
      expected += (i > 0 ? " or " : "") + to_text(candidate);
    }
    throw ArgumentError(message(option, ": found '", detail::excerpt(text), "', expected ", expected));
  } else {
    bool read = false;
    if constexpr (requires { std::from_chars(text.data(), text.data(), value); }) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      read = error == std::errc{} && end == text.data() + text.size();
    } else {  // libc++ before its version 20 has it for whole numbers alone
      std::istringstream in{std::string(text)};
      in.imbue(std::locale::classic());
      read = text.find_first_not_of("-+.0123456789eE") == text.npos && !text.starts_with('+') && in >> value &&
             in.peek() == std::char_traits<char>::eof();
    }
    require(read, option, ": found '", detail::excerpt(text), "', expected ",
            std::is_floating_point_v<T> ? "a number" : "a whole number");
  }
}

/// Settings that have names: `static void visit_options(auto& self, auto&& visitor)` calls visitor(name, value) for
/// each, and self may be const. A value is a number, a bool, an enumeration with names_of, or settings again. A const
/// value (of a self that is not) is fixed by the type: what is read must be the same. `void check() const`, if there is
/// one, throws ArgumentError, which begins with the setting's name, for values out of range.
template <class T>
concept HasOptions = requires(T& settings) {
  T::visit_options(settings, AnyFunction{});
};

/// What has a name among others: `static constexpr std::string_view name`.
template <class T>
concept Named = requires {
  { T::name } -> std::convertible_to<std::string_view>;
};

/// What can be written down and read again under its name: with options, or with nothing that could be one.
template <class T>
concept Described = Named<T> &&(HasOptions<T> || std::is_empty_v<T>);

/// visitor(name, element) for each element of a tuple. The second of one name is called NAME_2.
void visit_named(auto& tuple, auto&& visitor) {
  std::apply(
      [&](auto&... element) {
        [[maybe_unused]] std::map<std::string_view, int> seen;
        [[maybe_unused]] const auto visit = [&]<class T>(T& e) {
          const int number = ++seen[T::name];
          visitor(number == 1 ? std::string(T::name) : message(T::name, '_', number), e);
        };
        (visit(element), ...);
      },
      tuple);
}

namespace detail {

/// The dotted name of a setting, one part longer for a while.
class OptionScope {
 public:
  OptionScope(std::string& prefix, std::string_view name) : prefix_(prefix), length_(prefix.size()) {
    prefix_.append(name).append(1, '.');
  }
  OptionScope(const OptionScope&) = delete;
  OptionScope& operator=(const OptionScope&) = delete;
  ~OptionScope() { prefix_.resize(length_); }

 private:
  std::string& prefix_;
  std::size_t length_;
};

}  // namespace detail

/// A visitor of options that writes them down: those of `encoder` are called encoder.NAME.
class OptionWriter {
 public:
  template <class T>
  void operator()(std::string_view name, const T& value) {
    if constexpr (HasOptions<const T>) {
      const detail::OptionScope scope(prefix_, name);
      T::visit_options(value, *this);
    } else if constexpr (!std::is_class_v<T> || std::is_same_v<T, std::string_view>) {
      const std::string key = std::string(prefix_).append(name);
      require(text_.emplace(key, to_text(value)).second, "options: found two called '", key, "', expected one");
    } else {
      static_assert(std::is_empty_v<T>, "settings that are saved need `visit_options`: see core/options.hpp");
    }
  }

  [[nodiscard]] const std::map<std::string, std::string>& text() const { return text_; }

 private:
  std::map<std::string, std::string> text_;
  std::string prefix_;
};

/// A visitor of options that sets them to what an OptionWriter wrote. Throws ArgumentError, which names the option, for
/// one that is missing, is no value of its type, differs from what the type fixes, or does not pass its check.
class OptionReader {
 public:
  explicit OptionReader(const std::map<std::string, std::string>& text) : text_(text) {}

  template <class T>
  void operator()(std::string_view name, T& value) {
    using Value = std::remove_const_t<T>;
    if constexpr (HasOptions<T>) {
      const detail::OptionScope scope(prefix_, name);
      T::visit_options(value, *this);
      if constexpr (requires { value.check(); }) {
        in_scope([&] { value.check(); });
      }
    } else if constexpr (!std::is_class_v<Value> || std::is_same_v<Value, std::string_view>) {
      const std::string key = std::string(prefix_).append(name);
      const auto found = text_.find(key);
      require(found != text_.end(), key, ": found none, expected this option");
      names_.insert(key);
      if constexpr (std::is_const_v<T>) {
        const std::string fixed = to_text(value);
        require(found->second == fixed, key, ": found '", detail::excerpt(found->second), "', expected '", fixed,
                "', which the type fixes");
      } else {
        from_text(key, found->second, value);
      }
    } else {
      static_assert(std::is_empty_v<T>, "settings that are saved need `visit_options`: see core/options.hpp");
    }
  }

  /// The names of those that were read.
  [[nodiscard]] const std::set<std::string>& names() const { return names_; }

 private:
  /// f(), with the scope before what an ArgumentError says.
  template <class F>
  void in_scope(F f) const {
    try {
      f();
    } catch (const ArgumentError& error) {
      throw ArgumentError(message(prefix_, error.what()));
    }
  }

  const std::map<std::string, std::string>& text_;
  std::set<std::string> names_;
  std::string prefix_;
};

/// Throws ArgumentError for a weight of a loss that is negative, or so large that it can only be a mistake.
inline void check_weight(std::string_view name, double weight) {
  require(weight >= 0 && weight < 1e9, name, ": found ", weight, ", expected 0 or more");
}

/// Throws ArgumentError for a share outside [0, 1].
inline void check_share(std::string_view name, double share) {
  require(share >= 0 && share <= 1, name, ": found ", share, ", expected a share in [0, 1]");
}

/// Throws ArgumentError for a temperature that is not positive.
inline void check_temperature(double temperature) {
  require(temperature > 0, "temperature: found ", temperature, ", expected a positive number");
}

}  // namespace elcrec::inline ELCREC_TARGET
