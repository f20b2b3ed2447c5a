#pragma once

#include <filesystem>
#include <fstream>
#include <string>
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
  explicit Grid(const std::filesystem::path& path) : place_(path.string()), json_(read(path)) {
    if (json_.contains("include")) {
      const auto common = read(path.parent_path() / json_.at("include").get<std::string>());
      for (const char* part : {"options", "datasets", "variants"}) {
        ordered_json merged = common.value(part, ordered_json::object());
        merged.update(json_.value(part, ordered_json::object()));
        json_[part] = merged;
      }
    }
  }

  /// In the order of the file: experiment, sweep value, data set, seed, variant.
  [[nodiscard]] std::vector<Run> runs() const {
    std::vector<Run> runs;
    for (const auto& experiment : child(json_, "experiments", place_)) {
      const std::string name = child(experiment, "name", place_ + ": experiments");
      const std::string place = place_ + ": experiment '" + name + "'";
      for (const auto& [label, sweep_options] : sweep(experiment, place)) {
        for (const auto& dataset : child(experiment, "datasets", place)) {
          for (const auto& seed : child(experiment, "seeds", place)) {
            for (const auto& variant : child(experiment, "variants", place)) {
              Run run = make_run(dataset, variant, place);
              run.experiment = name;
              run.variant += label;
              apply_options(experiment.value("options", ordered_json::object()), place, run);
              apply_options(sweep_options, place, run);
              run.model.seed = seed;
              runs.push_back(run);
            }
          }
        }
      }
    }
    return runs;
  }

 private:
  static ordered_json read(const std::filesystem::path& path) {
    std::ifstream in(path);
    elcrec::require<elcrec::FileError>(in.good(), path.string(), ": cannot be read, expected a grid file");
    try {
      return ordered_json::parse(in);
    } catch (const nlohmann::json::exception& error) {
      throw elcrec::FileError(path.string() + ": " + error.what() + "; expected JSON");
    }
  }

  static const ordered_json& child(const ordered_json& parent, const std::string& key, const std::string& place) {
    elcrec::require<elcrec::FileError>(parent.is_object() && parent.contains(key), place, ": found no \"", key,
                                       "\", expected it");
    return parent.at(key);
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
    elcrec::require<elcrec::FileError>(swept.is_object() && swept.size() == 1, place,
                                       ": \"sweep\" is not { option: [values] }, expected one option");
    for (const auto& value : swept.front()) {
      const std::string option = swept.begin().key();
      values.emplace_back(" " + option + "=" + (value.is_string() ? value.get<std::string>() : value.dump()),
                          ordered_json{{option, value}});
    }
    return values;
  }

  [[nodiscard]] Run make_run(const std::string& dataset, const std::string& variant, const std::string& place) const {
    const auto& data = child(child(json_, "datasets", place_), dataset, place_ + ": datasets");
    Run run;
    run.dataset = dataset;
    run.variant = variant;
    run.file = child(data, "file", place + ": " + dataset).get<std::string>();
    if (data.contains("preset")) {
      run.model = elcrec::preset(data.at("preset").get<std::string>());
    }
    apply_options(json_.value("options", ordered_json::object()), place, run);
    apply_options(data.value("options", ordered_json::object()), place, run);
    apply_options(child(child(json_, "variants", place_), variant, place_ + ": variants"), place, run);
    return run;
  }

  std::string place_;
  ordered_json json_;
};

}  // namespace experiments
