#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"

namespace experiments {

/// The file of finished runs, one JSON object a line. Lines are only ever appended.
class Results {
 public:
  explicit Results(const std::filesystem::path& path) : path_(path) {
    std::ifstream in(path);
    Index number = 0;
    for (std::string line; std::getline(in, line);) {
      ++number;
      try {
        rows_.push_back(ordered_json::parse(line));
      } catch (const nlohmann::json::exception& error) {
        throw elcrec::FileError(
            elcrec::message(path.string(), ", line ", number, ": ", error.what(), "; expected one JSON object"));
      }
    }
  }

  /// The row of a run with the same data set and options, whatever it was for; null if there is none.
  [[nodiscard]] const ordered_json* find(const Run& run) const {
    const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const auto& row) { return same(row, run); });
    return found == rows_.end() ? nullptr : &*found;
  }

  /// Whether there is a row for this run under its own names.
  [[nodiscard]] bool holds(const Run& run) const {
    return std::any_of(rows_.begin(), rows_.end(), [&](const auto& row) {
      return row.at("experiment") == run.experiment && row.at("variant") == run.variant && same(row, run);
    });
  }

  void append(ordered_json row) {
    std::ofstream out(path_, std::ios::app);
    out << row.dump() << std::endl;
    elcrec::require<elcrec::FileError>(out.good(), path_.string(),
                                       ": could not be written, expected room for another line");
    rows_.push_back(std::move(row));
  }

 private:
  /// An option that the row does not know had its default; a row with an option that is gone is no run of today.
  static bool same(const ordered_json& row, const Run& run) {
    if (row.at("dataset") != run.dataset) {
      return false;
    }
    Run other;
    try {
      apply_options(row.at("options"), "row", other);
    } catch (const elcrec::ArgumentError&) {
      return false;
    }
    return options_of(other) == options_of(run);
  }

  std::filesystem::path path_;
  std::vector<ordered_json> rows_;
};

}  // namespace experiments
