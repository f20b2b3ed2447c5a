#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <time.h>

#include "json_lines.hpp"
#include "run.hpp"

namespace experiments {

/// What a run leaves behind after every epoch, so that its row can be written after an interruption: losses, validation
/// metrics, times. A file of JSON lines.
class EpochLog {
 public:
  /// Continues after `finished` epochs; later lines come from epochs that no checkpoint holds, and are dropped from the
  /// file, which is replaced as a whole: on failure the old one stays. `clock` measures CPU time.
  EpochLog(const std::filesystem::path& path, Index finished, clockid_t clock) : path_(path), clock_(clock) {
    if (finished > 0) {
      for (auto& line : read_json_lines(path, fault_of_line).lines) {
        if (line.at("epoch") <= finished) {
          lines_.push_back(std::move(line));
        }
      }
    }
    std::string text;
    for (const auto& line : lines_) {
      text.append(line.dump()).append("\n");
    }
    const auto bytes = std::as_bytes(std::span(text));
    elcrec::write_file_atomically(path, std::span(&bytes, 1));
  }

  void operator()(const elcrec::EpochReport& report) {
    ordered_json line{{"epoch", report.epoch}, {"loss", report.losses.total}};
    for (const auto& [name, value] : report.losses.terms) {
      line[name] = value;
    }
    line["HR@5"] = report.valid.hr(5);
    line["NDCG@20"] = report.valid.ndcg(20);
    line["seconds"] = report.train_seconds;
    line["cpu_seconds"] = cpu_seconds_since_last_line();
    line["rss_mb"] = elcrec::resident_megabytes();
    add(std::move(line));
  }

  /// The epoch that was broken off: its CPU time counts too.
  void interrupted(Index finished) {
    add({{"epoch", finished}, {"interrupted", true}, {"cpu_seconds", cpu_seconds_since_last_line()}});
  }

  /// Sum of a number over all lines that have it.
  [[nodiscard]] double sum(const std::string& key) const {
    double total = 0;
    for (const auto& line : lines_) {
      total += line.value(key, 0.0);
    }
    return total;
  }

  [[nodiscard]] double largest(const std::string& key) const {
    double largest = 0;
    for (const auto& line : lines_) {
      largest = std::max(largest, line.value(key, 0.0));
    }
    return largest;
  }

  /// { "epoch": [...], "loss": [...], ... } with five significant digits.
  [[nodiscard]] ordered_json curve() const {
    ordered_json curve;
    for (const auto& line : lines_) {
      for (const auto& [key, value] : line.items()) {
        const bool bookkeeping = key == "seconds" || key == "cpu_seconds" || key == "rss_mb";
        if (!line.contains("interrupted") && !bookkeeping) {
          curve[key].push_back(value.is_number_float() ? rounded(value) : value);
        }
      }
    }
    return curve;
  }

 private:
  [[nodiscard]] static std::string fault_of_line(const ordered_json& line) {
    const bool numbers = std::all_of(line.begin(), line.end(), [](const ordered_json& value) {
      return value.is_number() || value.is_boolean() || value.is_null();
    });
    return numbers && line.contains("epoch") ? "" : "found no numbers with an \"epoch\"; expected those of an epoch";
  }

  static ordered_json rounded(double value) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.5g", value);
    return std::strtod(text.data(), nullptr);
  }

  double cpu_seconds_since_last_line() {
    const double now = cpu_seconds();
    return now - std::exchange(last_, now);
  }

  [[nodiscard]] double cpu_seconds() const {
    timespec time{};
    ::clock_gettime(clock_, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

  void add(ordered_json line) {
    std::ofstream out(path_, std::ios::app);
    out << line.dump() << std::endl;
    elcrec::require<elcrec::FileError>(out.good(), path_.string(),
                                       ": could not be written, expected room for another line");
    lines_.push_back(std::move(line));
  }

  std::filesystem::path path_;
  std::vector<ordered_json> lines_;
  clockid_t clock_;
  double last_ = cpu_seconds();
};

}  // namespace experiments
