// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude -Iexamples -Ibenchmarks/experiments
// tests/fuzz/fuzz_results.cpp
// Any bytes as a file of results must be read or give a FileError; what was read can be searched and compared, and is
// read again from what was not cut.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "comparison.hpp"
#include "elcrec/core/error.hpp"
#include "results.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(data, data + size);
  try {
    std::istringstream in(text);
    const experiments::Results results(in, "fuzz");
    std::istringstream whole(text.substr(0, results.bytes()));
    const experiments::Results again(whole, "fuzz");
    if (again.rows() != results.rows() || again.bytes() != results.bytes()) {
      std::abort();
    }
    for (const auto& row : results.rows()) {
      experiments::Run run;
      run.experiment = row.at("experiment").get<std::string>();
      run.dataset = row.at("dataset").get<std::string>();
      run.variant = row.at("variant").get<std::string>();
      const auto* found = results.find(run);
      if (results.holds(run) && found == nullptr) {
        std::abort();
      }
      if (row.contains("test")) {
        experiments::Comparison comparison;
        comparison.add({row, {}}, {row, {}});
        (void)comparison.json().dump();
      }
    }
  } catch (const elcrec::FileError&) {
  }
  return 0;
}
