#pragma once

#include <chrono>
#include <iostream>
#include <ostream>

#include "elcrec/cluster/k_means.hpp"
#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A callback for KMeansOptions::progress: prints a line at the start, and then one a second.
[[nodiscard]] inline auto console_k_means_progress(std::ostream& out = std::cout) {
  return [&out, last = std::chrono::steady_clock::time_point()](const KMeansReport& report) mutable {
    const auto now = std::chrono::steady_clock::now();
    if (report.pass == 0) {
      out << message("k-means: ", report.points, " users around ", report.centers, " centers, ", report.passes,
                     " passes")
          << std::endl;
      last = now;
    } else if (now - last >= std::chrono::seconds(1)) {
      out << message("k-means: pass ", report.pass, '/', report.passes) << std::endl;
      last = now;
    }
  };
}

}  // namespace elcrec::inline ELCREC_TARGET
