#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <ios>
#include <iostream>
#include <ostream>
#include <string>
#include <system_error>

#include <unistd.h>

#include "elcrec/core/error.hpp"
#include "elcrec/io/json_object.hpp"
#include "elcrec/train/report.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Resident memory of this process in MB; 0 where /proc is not there.
[[nodiscard]] inline double resident_megabytes() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  double resident = 0;
  statm >> pages >> resident;
  return statm ? resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6 : 0;
}

/// A callback for Trainer::fit that writes one JSON line an epoch: epoch, loss, each term, train_seconds,
/// users_per_second, valid (its metrics), best_epoch, rss_mb. Appends, so that a resumed run continues its log; a last
/// line that was cut gets its end first.
class RunLog {
 public:
  explicit RunLog(const std::filesystem::path& path) : path_(path) {
    const bool cut = lacks_line_end(path);
    out_.open(path, std::ios::app);
    require<FileError>(out_.is_open(), path.string(),
                       ": cannot be opened for appending, expected a writable file in an existing folder");
    if (cut) {
      out_ << '\n';
    }
  }

  void operator()(const EpochReport& report) {
    JsonObject line;
    line.add("epoch", report.epoch).add("loss", report.losses.total);
    for (const auto& [name, value] : report.losses.terms) {
      line.add(name, value);
    }
    line.add("train_seconds", report.train_seconds).add("users_per_second", report.users_per_second);
    JsonObject valid;
    for (const auto& [name, value] : report.valid.values()) {
      valid.add(name, value);
    }
    line.add("valid", valid).add("best_epoch", report.best_epoch).add("rss_mb", resident_megabytes());
    out_ << line.text() << std::endl;
    require<FileError>(out_.good(), path_.string(), ": could not be written, expected room for another line");
  }

 private:
  [[nodiscard]] static bool lacks_line_end(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) {
      return false;
    }
    std::ifstream in(path, std::ios::binary);
    in.seekg(-1, std::ios::end);  // fails in an empty file
    return in.good() && in.get() != '\n';
  }

  std::filesystem::path path_;
  std::ofstream out_;
};

/// A callback that prints a readable line an epoch.
[[nodiscard]] inline auto console_progress(std::ostream& out = std::cout) {
  return [&out](const EpochReport& report) {
    const auto fixed = [](double value, int digits) { return message(std::fixed, std::setprecision(digits), value); };
    std::string line =
        message("epoch ", std::setw(3), report.epoch, '/', report.epochs, "  loss ", fixed(report.losses.total, 4));
    for (const auto& [name, value] : report.losses.terms) {
      line += message("  ", name, ' ', fixed(value, 4));
    }
    line += message("  ", fixed(report.users_per_second, 0), " users/s  ", fixed(report.seconds_left, 1),
                    " s left  valid HR@20 ", fixed(report.valid.hr(20), 4), " NDCG@20 ",
                    fixed(report.valid.ndcg(20), 4), report.best ? "  *" : "");
    out << line << std::endl;
  };
}

}  // namespace elcrec::inline ELCREC_TARGET
