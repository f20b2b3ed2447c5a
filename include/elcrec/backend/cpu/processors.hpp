#pragma once

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <limits>
#include <locale>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

/// Processors of the calling thread's affinity mask; 0 where the system has none to ask for.
[[nodiscard]] inline Index affine_processors() {
#if defined(__linux__)
  constexpr std::size_t bits = std::numeric_limits<unsigned long>::digits;
  for (std::size_t processors = 1024; processors <= std::size_t{1} << 20; processors *= 2) {  // EINVAL: it is longer
    std::vector<unsigned long> mask(processors / bits);
    if (sched_getaffinity(0, mask.size() * sizeof(mask[0]), reinterpret_cast<cpu_set_t*>(mask.data())) == 0) {
      Index sum = 0;
      for (const unsigned long word : mask) {
        sum += std::popcount(word);
      }
      return sum;
    }
  }
#endif
  return 0;
}

/// Processors' worth of time that the control groups of this process grant it, rounded up: the least of its own group
/// and those above. No limit: the largest Index. `root` is where the system's folders are.
[[nodiscard]] inline Index granted_processors(const std::filesystem::path& root = "/") {
  constexpr Index unlimited = (std::numeric_limits<Index>::max)();
  const auto open = [](const std::filesystem::path& path) {
    std::ifstream file(path);
    file.imbue(std::locale::classic());
    return file;
  };
  const auto processors = [](Index quota, Index period) {
    return quota > 0 && period > 0 ? quota / period + (quota % period != 0) : unlimited;
  };
  const auto granted_in = [&](const std::filesystem::path& group) {
    Index quota = 0;
    Index period = 0;
    if (open(group / "cpu.max") >> quota >> period) {  // version 2; "max" is no number
      return processors(quota, period);
    }
    if (open(group / "cpu.cfs_quota_us") >> quota && open(group / "cpu.cfs_period_us") >> period) {  // version 1
      return processors(quota, period);
    }
    return unlimited;
  };

  Index least = unlimited;
  auto groups = open(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "0::/a/b", or of version 1 "4:cpu,cpuacct:/a/b"
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) {
      continue;
    }
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) {
      continue;
    }
    // In a container the path may be the host's, of which only the last folder or nothing is mounted: what is not there
    // grants everything.
    const auto path = std::filesystem::path(message('/', line.substr(second + 1))).lexically_normal().relative_path();
    for (const char* mount : {controllers.c_str(), controllers.empty() ? "" : "cpu"}) {
      auto group = root / "sys/fs/cgroup" / mount;
      least = (std::min)(least, granted_in(group));
      for (const auto& name : path) {
        group /= name;
        least = (std::min)(least, granted_in(group));
      }
    }
  }
  return least;
}

/// How many threads of this process can run at once: by affinity mask and control groups, at least 1.
[[nodiscard]] inline Index usable_processors() {
  const Index affine = affine_processors();
  const Index present = affine > 0 ? affine : static_cast<Index>(std::thread::hardware_concurrency());
  return std::max<Index>(1, (std::min)(present, granted_processors()));
}

}  // namespace elcrec::inline ELCREC_TARGET::detail
