#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <ostream>
#include <string>

#include <nlohmann/json.hpp>
#include <unistd.h>

#include "elcrec/core/error.hpp"
#include "elcrec/train/trainer.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Resident memory of this process in MB; 0 where /proc is not there.
[[nodiscard]] inline double resident_megabytes() {
  std::ifstream statm("/proc/self/statm");
  double pages = 0;
  double resident = 0;
  statm >> pages >> resident;
  return statm ? resident * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6 : 0;
}

[[nodiscard]] inline nlohmann::ordered_json to_json(const RankingMetrics& metrics) {
  nlohmann::ordered_json json;
  for (const auto& [name, value] : metrics.values()) {
    json[name] = value;
  }
  return json;
}

/// A callback for Trainer::fit that writes one JSON line an epoch: epoch, loss, each term, train_seconds,
/// users_per_second, valid (its metrics), best_epoch, rss_mb. Appends, so that a resumed run continues its log.
class RunLog {
 public:
  explicit RunLog(const std::filesystem::path& path) : path_(path), out_(path, std::ios::app) {
    require<FileError>(out_.is_open(), path.string(),
                       ": cannot be opened for appending, expected a writable file in an existing folder");
  }

  void operator()(const EpochReport& report) {
    nlohmann::ordered_json line;
    line["epoch"] = report.epoch;
    line["loss"] = report.losses.total;
    for (const auto& [name, value] : report.losses.terms) {
      line[name] = value;
    }
    line["train_seconds"] = report.train_seconds;
    line["users_per_second"] = report.users_per_second;
    line["valid"] = to_json(report.valid);
    line["best_epoch"] = report.best_epoch;
    line["rss_mb"] = resident_megabytes();
    out_ << line.dump() << std::endl;
    require<FileError>(out_.good(), path_.string(), ": could not be written, expected room for another line");
  }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

/// A callback that prints a readable line an epoch.
[[nodiscard]] inline auto console_progress(std::ostream& out = std::cout) {
  return [&out](const EpochReport& report) {
    char buffer[160];
    std::snprintf(buffer, sizeof buffer, "epoch %3td/%td  loss %.4f", report.epoch, report.epochs, report.losses.total);
    out << buffer;
    for (const auto& [name, value] : report.losses.terms) {
      std::snprintf(buffer, sizeof buffer, "  %s %.4f", name.c_str(), value);
      out << buffer;
    }
    std::snprintf(buffer, sizeof buffer, "  %.0f users/s  %.1f s left  valid HR@20 %.4f NDCG@20 %.4f%s",
                  report.users_per_second, report.seconds_left, report.valid.hr(20), report.valid.ndcg(20),
                  report.best ? "  *" : "");
    out << buffer << std::endl;
  };
}

}  // namespace elcrec::inline ELCREC_TARGET
