// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/fuzz_safetensors.cpp
// Any bytes must parse or give a FileError, and so must every read of every tensor.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/safetensors_reader.hpp"

namespace {

template <class T>
void read_as(const elcrec::SafetensorsFile& file, const std::string& name) {
  try {
    if (static_cast<elcrec::Index>(file.read<T>(name).size()) != file.info(name).elements()) {
      std::abort();
    }
  } catch (const elcrec::FileError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = elcrec::SafetensorsFile::parse(bytes, "fuzz");
    for (const std::string& name : file.names()) {
      read_as<float>(file, name);
      read_as<double>(file, name);
      read_as<std::int8_t>(file, name);
      read_as<std::uint64_t>(file, name);
    }
  } catch (const elcrec::FileError&) {
  }
  return 0;
}
