// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude -Iexamples -Ibenchmarks/experiments
// tests/fuzz/fuzz_grid.cpp
// Any bytes as a grid must give runs or an Error; each run has a name to show, options that are read again, and a stem
// for its files that stays in their folder.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "elcrec/core/error.hpp"
#include "grid.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::istringstream in(std::string(data, data + size));
    const auto runs = experiments::Grid(in, "fuzz").runs();
    constexpr std::size_t checked = 100;
    for (std::size_t i = 0; i < std::min(checked, runs.size()); ++i) {
      const auto& run = runs[i];
      experiments::Run again;
      again.dataset = run.dataset;
      experiments::apply_options(experiments::options_of(run), "fuzz", again);
      const std::string name = run.name();
      const std::string stem = experiments::file_stem(run);
      if (experiments::file_stem(again) != stem || stem.find('/') != std::string::npos ||
          std::any_of(name.begin(), name.end(), [](char c) { return c == '\n' || c == '\x1B'; })) {
        std::abort();
      }
    }
  } catch (const elcrec::Error&) {
  }
  return 0;
}
