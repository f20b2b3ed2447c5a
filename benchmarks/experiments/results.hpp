#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <istream>
#include <string>
#include <utility>
#include <vector>

#include "json_lines.hpp"
#include "run.hpp"

namespace experiments {

/// What of a row the program reads is wrong, or "".
[[nodiscard]] inline std::string fault_of_row(const ordered_json& row) {
  for (const char* name : {"experiment", "dataset", "variant"}) {
    if (!row.contains(name) || !row.at(name).is_string()) {
      return elcrec::message("found no text as \"", name, "\"; expected the row of a run");
    }
  }
  if (!row.contains("seed") || !row.at("seed").is_number_unsigned()) {
    return "found no whole number as \"seed\"; expected the row of a run";
  }
  if (!row.contains("options") || !row.at("options").is_object()) {
    return "found no object as \"options\"; expected the row of a run";
  }
  if (row.contains("test")) {
    const auto& test = row.at("test");
    const bool metrics = test.is_object() && test.contains("paper") && test.at("paper").is_object() &&
                         std::all_of(test.at("paper").begin(), test.at("paper").end(),
                                     [](const ordered_json& value) { return value.is_number(); });
    if (!metrics) {
      return "found no numbers as \"test\" \"paper\"; expected the metrics of a run";
    }
  }
  return "";
}

/// The file of finished runs, one JSON object a line. Lines are only ever appended; a last one that was cut is dropped.
class Results {
 public:
  explicit Results(const std::filesystem::path& path) : path_(path), file_(read_json_lines(path, fault_of_row)) {}

  /// Of a text that errors call `name`: to be read only.
  Results(std::istream& in, const std::string& name) : file_(read_json_lines(in, name, fault_of_row)) {}

  [[nodiscard]] const std::vector<ordered_json>& rows() const { return file_.lines; }
  /// Of the rows; a cut line is left out.
  [[nodiscard]] std::size_t bytes() const { return file_.bytes; }

  /// The row of a run with the same data set and options, whatever it was for; null if there is none.
  [[nodiscard]] const ordered_json* find(const Run& run) const {
    const auto found =
        std::find_if(file_.lines.begin(), file_.lines.end(), [&](const auto& row) { return same(row, run); });
    return found == file_.lines.end() ? nullptr : &*found;
  }

  /// Whether there is a row for this run under its own names.
  [[nodiscard]] bool holds(const Run& run) const {
    return std::any_of(file_.lines.begin(), file_.lines.end(), [&](const auto& row) {
      return row.at("experiment") == run.experiment && row.at("variant") == run.variant && same(row, run);
    });
  }

  void append(ordered_json row) {
    if (std::exchange(file_.cut_line, 0) > 0) {
      std::filesystem::resize_file(path_, file_.bytes);
    }
    std::ofstream out(path_, std::ios::app);
    out << (std::exchange(file_.ends_in_line, false) ? "\n" : "") << row.dump() << std::endl;
    elcrec::require<elcrec::FileError>(out.good(), path_.string(),
                                       ": could not be written, expected room for another line");
    file_.lines.push_back(std::move(row));
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
  JsonLines file_;
};

}  // namespace experiments
