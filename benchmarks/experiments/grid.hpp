#pragma once

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <istream>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "run.hpp"

namespace experiments {

/// A grid file:
///
///   { "options": {...},                                    of every run
///     "datasets": { "Beauty": { "file": "Beauty.txt", "preset": "beauty", "options": {...} } },
///     "variants": { "B": { "sequence_weight": 0, ... }, ... },
///     "experiments": [ { "name": "ablation", "datasets": ["Beauty"], "variants": ["B"], "seeds": [0, 1, 2],
///                        "options": {...}, "sweep": { "trade_off": [0.1, 1] } } ] }
///
/// A run's options are those of the preset (a data set without one: the library's defaults), then "options", the data
/// set's, the variant's, the experiment's and the sweep's, later ones replacing earlier ones. Data sets and variants
/// may stand in another file, which "include" names, relative to this one. Throws FileError or ArgumentError that name
/// the file, the place and what was expected.
class Grid {
 public:
  explicit Grid(const std::filesystem::path& path) : place_(path.string()), files_{path}, json_(read(path)) {
    if (json_.contains("include")) {
      files_.push_back(path.parent_path() / text(json_.at("include"), place_ + ": include"));
      const auto common = read(files_.back());
      for (const char* part : {"options", "datasets", "variants"}) {
        ordered_json merged = object(common, part, files_.back().string());
        merged.update(object(json_, part, place_));
        json_[part] = merged;
      }
    }
  }

  /// From a text that errors call `name`; without "include".
  Grid(std::istream& in, const std::string& name) : place_(name), json_(parse(in, name)) {
    elcrec::require<elcrec::FileError>(!json_.contains("include"), name, ": found \"include\", expected none here");
  }

  /// The file and what it includes.
  [[nodiscard]] const std::vector<std::filesystem::path>& files() const { return files_; }

  /// In the order of the file: experiment, sweep value, data set, seed, variant.
  [[nodiscard]] std::vector<Run> runs() const {
    std::vector<Run> runs;
    for (const auto& experiment : list(json_, "experiments", place_)) {
      const std::string name = text(child(experiment, "name", place_ + ": experiments"), place_ + ": name");
      const std::string place = elcrec::message(place_, ": experiment '", elcrec::detail::excerpt(name), "'");
      for (const auto& [label, sweep_options] : sweep(experiment, place)) {
        for (const auto& dataset : list(experiment, "datasets", place)) {
          for (const auto& seed : list(experiment, "seeds", place)) {
            for (const auto& variant : list(experiment, "variants", place)) {
              elcrec::require<elcrec::FileError>(runs.size() < most_runs, place, ": found more than ", most_runs,
                                                 " runs, expected fewer");
              Run run = make_run(text(dataset, place + ": datasets"), text(variant, place + ": variants"), place);
              run.experiment = name;
              run.variant += label;
              apply_options(object(experiment, "options", place), place, run);
              apply_options(sweep_options, place, run);
              apply_options({{"seed", seed}}, place, run);
              runs.push_back(run);
            }
          }
        }
      }
    }
    return runs;
  }

 private:
  static constexpr std::size_t most_runs = 100'000;  // a few lists of a small file multiply to any number

  static ordered_json read(const std::filesystem::path& path) {
    std::error_code ignored;
    std::ifstream in(path);
    elcrec::require<elcrec::FileError>(in.good() && !std::filesystem::is_directory(path, ignored), path.string(),
                                       ": cannot be read, expected a grid file");
    return parse(in, path.string());
  }

  static ordered_json parse(std::istream& in, const std::string& name) {
    const std::string all(std::istreambuf_iterator<char>(in), {});
    ordered_json json;
    try {
      json = parse_json(all);
    } catch (const std::exception& error) {
      throw elcrec::FileError(
          elcrec::message(name, ": ", elcrec::detail::excerpt(error.what(), 200), "; expected JSON"));
    }
    elcrec::require<elcrec::FileError>(json.is_object(), name, ": found ", json.type_name(), ", expected an object");
    return json;
  }

  static const ordered_json& child(const ordered_json& parent, const std::string& key, const std::string& place) {
    elcrec::require<elcrec::FileError>(parent.is_object() && parent.contains(key), place, ": found no \"",
                                       elcrec::detail::excerpt(key), "\", expected it");
    return parent.at(key);
  }

  static const ordered_json& list(const ordered_json& parent, const std::string& key, const std::string& place) {
    const auto& found = child(parent, key, place);
    elcrec::require<elcrec::FileError>(found.is_array(), place, ": \"", key, "\" is of type ", found.type_name(),
                                       ", expected a list");
    return found;
  }

  /// An object that may be left out.
  static ordered_json object(const ordered_json& parent, const std::string& key, const std::string& place) {
    if (!parent.contains(key)) {
      return ordered_json::object();
    }
    const auto& found = parent.at(key);
    elcrec::require<elcrec::FileError>(found.is_object(), place, ": \"", key, "\" is of type ", found.type_name(),
                                       ", expected an object");
    return found;
  }

  static const std::string& text(const ordered_json& value, const std::string& place) {
    elcrec::require<elcrec::FileError>(value.is_string(), place, ": found ", value.type_name(), ", expected a text");
    return value.get_ref<const std::string&>();
  }

  /// Label and options of each value of the sweep; one without either if there is none.
  static std::vector<std::pair<std::string, ordered_json>> sweep(const ordered_json& experiment,
                                                                 const std::string& place) {
    std::vector<std::pair<std::string, ordered_json>> values;
    if (!experiment.contains("sweep")) {
      values.emplace_back("", ordered_json::object());
      return values;
    }
    const auto& swept = experiment.at("sweep");
    elcrec::require<elcrec::FileError>(swept.is_object() && swept.size() == 1 && swept.front().is_array(), place,
                                       ": \"sweep\" is not { option: [values] }, expected one option");
    for (const auto& value : swept.front()) {
      const std::string option = swept.begin().key();
      values.emplace_back(" " + option + "=" + text_of_value(value), ordered_json{{option, value}});
    }
    return values;
  }

  [[nodiscard]] Run make_run(const std::string& dataset, const std::string& variant, const std::string& place) const {
    const auto& data = child(child(json_, "datasets", place_), dataset, place_ + ": datasets");
    elcrec::require<elcrec::FileError>(
        std::none_of(dataset.begin(), dataset.end(), [](char c) { return c == '/' || c == '\0'; }), place,
        ": found data set ", elcrec::detail::in_quotes(dataset), ", expected a name that a file's can begin with");
    Run run;
    run.dataset = dataset;
    run.variant = variant;
    const std::string data_place = elcrec::message(place, ": ", elcrec::detail::excerpt(dataset));
    run.file = text(child(data, "file", data_place), data_place);
    if (data.contains("preset")) {
      run.model = elcrec::preset(text(data.at("preset"), data_place));
    }
    apply_options(object(json_, "options", place_), place, run);
    apply_options(object(data, "options", data_place), place, run);
    apply_options(child(child(json_, "variants", place_), variant, place_ + ": variants"), place, run);
    return run;
  }

  std::string place_;
  std::vector<std::filesystem::path> files_;
  ordered_json json_;
};

}  // namespace experiments
