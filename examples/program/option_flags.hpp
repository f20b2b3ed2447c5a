#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>

#include "program/run_options.hpp"

namespace program {

/// A flag for each option of a struct that has a visit_options: max_length becomes --max-length. What the command line
/// gave is kept as text, so that it can be applied over a preset or a checkpoint's configuration.
class OptionFlags {
 public:
  template <class Options>
  void add_to(CLI::App& command, const std::string& group, Options defaults = {}) {
    visit_options(defaults, [&](const std::string name, const auto& value, const char* description) {
      if (name != "items") {  // the data's
        add_flag(command, name, value, description)->group(group);
      }
    });
  }

  /// Sets the options that were given.
  template <class Options>
  void apply(Options& options) const {
    visit_options(options, [&](const char* name, auto& value, const char*) {
      if (const auto found = given_.find(name); found != given_.end()) {
        elcrec::from_text(flag_of(name), found->second, value);
        require_sensible(flag_of(name), name, value);
      }
    });
  }

  [[nodiscard]] bool given(const std::string& name) const { return given_.contains(name); }

  [[nodiscard]] static std::string flag_of(std::string name) {
    std::replace(name.begin(), name.end(), '_', '-');
    return "--" + name;
  }

 private:
  template <class T>
  CLI::Option* add_flag(CLI::App& command, const std::string& name, const T& value, const char* description) {
    const std::string flag = flag_of(name);
    if constexpr (std::is_same_v<T, bool>) {
      return command.add_flag_function(
          flag + ",!--no" + flag.substr(1),
          [this, name](std::int64_t count) { given_[name] = elcrec::to_text(count > 0); }, description);
    } else {
      const auto readable = [flag](const std::string& text) -> std::string {
        try {
          T ignored{};
          elcrec::from_text(flag, text, ignored);
          return "";
        } catch (const elcrec::ArgumentError& error) {
          return error.what();
        }
      };
      return command
          .add_option_function<std::string>(
              flag, [this, name](const std::string& text) { given_[name] = text; }, description)
          ->check(CLI::Validator(readable, "", ""))
          ->type_name(type_name<T>())
          ->default_str(elcrec::to_text(value));
    }
  }

  template <class T>
  [[nodiscard]] static std::string type_name() {
    if constexpr (std::is_enum_v<T>) {
      std::string names;
      for (const auto name : elcrec::names_of<T>) {
        names.append(names.empty() ? "" : "|").append(name);
      }
      return names;
    } else {
      return std::is_floating_point_v<T> ? "NUMBER" : "INT";
    }
  }

  std::map<std::string, std::string> given_;
};

}  // namespace program
