#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>

#include <elcrec/elcrec.hpp>
#include <nlohmann/json.hpp>

#include "json_lines.hpp"
#include "program/run_options.hpp"

/// The program `elcrec_experiment`: trains what grid files ask for and writes a row for each finished run.
namespace experiments {

/// One training run. Names say what it is for; it is the same run as another if data set and options are the same.
struct Run {
  std::string experiment;
  std::string dataset;
  std::string variant;
  std::filesystem::path file;  ///< of the data set, relative to the folder of data
  elcrec::ELCRecOptions model{};
  program::RunOptions training{};

  /// As it is shown, and as --only finds it.
  [[nodiscard]] std::string name() const {
    return elcrec::detail::printable(experiment + "/" + dataset + "/" + variant + "/" + elcrec::to_text(model.seed));
  }
};

namespace detail {

/// Calls visitor(name, field, description) for every option that a grid may set: all but the number of items.
void visit_run(auto& run, auto&& visitor) {
  const auto but_items = [&](const std::string_view name, auto& value, const char* description) {
    if (name != "items") {
      visitor(name, value, description);
    }
  };
  visit_options(run.model, but_items);
  visit_options(run.training, but_items);
}

}  // namespace detail

/// Every option of a run with its value.
[[nodiscard]] inline ordered_json options_of(const Run& run) {
  ordered_json options;
  detail::visit_run(run, [&](std::string_view name, const auto& value, const char*) {
    if constexpr (std::is_enum_v<std::remove_cvref_t<decltype(value)>>) {
      options[std::string(name)] = elcrec::to_text(value);
    } else {
      options[std::string(name)] = value;
    }
  });
  return options;
}

/// A value as the command line would give it. Not that of a list or an object, which may nest as deep as a file likes.
[[nodiscard]] inline std::string text_of_value(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_primitive() ? value.dump() : value.type_name();
}

/// Sets the options that `options` names. Throws ArgumentError, which names `place`, for one that is not there and for
/// a value that does not fit.
inline void apply_options(const ordered_json& options, const std::string& place, Run& run) {
  elcrec::require(options.is_object(), place, ": found options of type ", options.type_name(), ", expected an object");
  for (const auto& option : options.items()) {
    const std::string& given = option.key();
    const auto& value = option.value();
    bool known = false;
    detail::visit_run(run, [&](std::string_view name, auto& field, const char*) {
      if (name == given) {
        known = true;
        elcrec::from_text(elcrec::message(place, ": ", given), text_of_value(value), field);
        program::require_sensible(elcrec::message(place, ": ", given), name, field);
      }
    });
    elcrec::require(known, place, ": found option '", elcrec::detail::excerpt(given),
                    "', expected one that `elcrec train --help` lists");
  }
}

/// A name for the run's files: equal for equal data set and options, also when the library has more options later.
[[nodiscard]] inline std::string file_stem(const Run& run) {
  const ordered_json defaults = options_of({});
  ordered_json changed = options_of(run);
  for (const auto& option : defaults.items()) {
    if (changed.at(option.key()) == option.value()) {
      changed.erase(option.key());
    }
  }
  std::uint64_t hash = 0xCBF29CE484222325U;  // FNV-1a
  for (const char c : changed.dump()) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  }
  constexpr std::string_view digits = "0123456789abcdef";
  std::string stem = run.dataset + "-";
  for (int shift = 60; shift >= 0; shift -= 4) {
    stem += digits[(hash >> shift) & 0xF];
  }
  return stem;
}

}  // namespace experiments
