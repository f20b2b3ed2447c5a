// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/fuzz_read_sequences.cpp
// Any bytes must parse or give an Error, and what was parsed must be the same again after writing and reading.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <sstream>
#include <string>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/negative_sampler.hpp"
#include "elcrec/data/read_sequences.hpp"
#include "elcrec/data/write_sequences.hpp"

namespace {

std::string written(const elcrec::SequenceDataset& data) {
  std::ostringstream out;
  elcrec::write_sequences(data, out);
  return out.str();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    std::istringstream in(std::string(data, data + size));
    const elcrec::SequenceDataset first = elcrec::read_sequences(in, "fuzz");
    const std::string text = written(first);
    std::istringstream again(text);
    const elcrec::SequenceDataset second = elcrec::read_sequences(again, "fuzz");
    if (written(second) != text || second.item_map() != first.item_map()) {
      std::abort();
    }
    elcrec::RandomEngine random(elcrec::RandomStream{});
    const elcrec::LeaveOneOut split = elcrec::leave_one_out(first, elcrec::ShortHistories::drop);
    const elcrec::UniformNegativeSampler sampler(split.dataset());
    for (elcrec::Index user = 0; user < split.user_count(); ++user) {
      for (const elcrec::ItemId item : split.items(user)) {
        if (sampler(user, random) == item) {
          std::abort();
        }
      }
    }
  } catch (const elcrec::Error&) {
  }
  return 0;
}
