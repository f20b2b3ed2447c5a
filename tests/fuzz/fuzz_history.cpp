// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude -Iexamples
// tests/fuzz/fuzz_history.cpp
// Any text as `recommend --history` must parse or give an ArgumentError of one short line of printable text, and what
// was parsed must be the same rows again when their names are written out.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/data/item_map.hpp"
#include "program/history.hpp"

namespace {

void check(std::string_view text, const elcrec::ItemMap& map) {
  try {
    const auto rows = program::parse_history(text, map, "fuzz");
    std::string names;
    for (const auto row : rows) {
      names += std::to_string(map.name(row)) + "\t ";
    }
    if (rows.empty() || program::parse_history(names, map, "fuzz") != rows) {
      std::abort();
    }
  } catch (const elcrec::ArgumentError& error) {
    const std::string_view what = error.what();
    if (what.size() > 300 || !std::all_of(what.begin(), what.end(), [](char c) { return c >= 0x20 && c < 0x7F; })) {
      std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const elcrec::ItemMap dense = elcrec::ItemMap::identity(40);
  static const elcrec::ItemMap sparse(std::vector<std::int64_t>{std::numeric_limits<std::int64_t>::min(), -7, 0, 1, 12,
                                                                301, 1'000'000'007'000,
                                                                std::numeric_limits<std::int64_t>::max()});
  static const elcrec::ItemMap none;
  const std::string text(data, data + size);
  for (const auto* map : {&dense, &sparse, &none}) {
    check(text, *map);
  }
  return 0;
}
