#pragma once

#include <exception>
#include <filesystem>
#include <string>

#include <unistd.h>

#include "elcrec/core/error.hpp"

/// What the tests of model files share.
namespace elcrec::test {

/// A path of a test's own, gone at the end.
struct TemporaryFile {
  std::filesystem::path path = std::filesystem::temp_directory_path() / message("elcrec_test_file.", ::getpid());
  TemporaryFile() = default;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { std::filesystem::remove(path); }
};

/// The message, without the path, of the FileError that load(path) throws, or what else came of it: "loaded".
template <class Load>
[[nodiscard]] std::string load_error(const std::filesystem::path& path, Load load) {
  try {
    load(path);
  } catch (const FileError& error) {
    const std::string text = error.what();
    return text.starts_with(path.string() + ": ") ? text.substr(path.string().size() + 2) : "no path: " + text;
  } catch (const std::exception& error) {
    return message("not a FileError: ", error.what());
  }
  return "loaded";
}

}  // namespace elcrec::test
