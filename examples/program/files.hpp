#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <elcrec/core/error.hpp>
#include <elcrec/core/excerpt.hpp>
#include <fcntl.h>
#include <unistd.h>

namespace program {

/// A file and the flag that names it.
struct NamedFile {
  std::string_view flag;
  std::filesystem::path path;
};

[[nodiscard]] inline std::string shown(const std::filesystem::path& path) {
  return elcrec::detail::printable(path.string());
}

namespace detail {

/// The absolute path that opening `path` leads to, also where nothing is there yet.
[[nodiscard]] inline std::filesystem::path resolved(std::filesystem::path path) {
  constexpr int most_links = 40;  // of a chain, as in Linux
  std::error_code error;
  for (int i = 0; i < most_links && std::filesystem::is_symlink(path, error); ++i) {
    path = path.parent_path() / std::filesystem::read_symlink(path, error);
  }
  const auto canonical = std::filesystem::weakly_canonical(std::filesystem::absolute(path, error), error);
  return error ? path : canonical;
}

/// Whether both are one file: through links of either kind, or by the name of one that is not there yet.
[[nodiscard]] inline bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::error_code error;
  return std::filesystem::equivalent(a, b, error) || resolved(a) == resolved(b);
}

[[noreturn]] inline void fail_writing(const NamedFile& file, const char* step, int error) {
  throw elcrec::FileError(elcrec::message(file.flag, ' ', file.path.string(), ": cannot be written: ", step, ": ",
                                          std::generic_category().message(error), "; expected a writable place"));
}

}  // namespace detail

/// Throws FileError if `output` is one of the other files: writing it would destroy that. Files without a path are not
/// there.
inline void require_other_file(const NamedFile& output, const std::vector<NamedFile>& others) {
  for (const auto& other : others) {
    elcrec::require<elcrec::FileError>(
        output.path.empty() || other.path.empty() || !detail::same_file(output.path, other.path), output.flag, ' ',
        output.path.string(), ": is the file of ", other.flag, ' ', other.path.string(), "; expected another one");
  }
}

/// Throws FileError unless a file of that name can be written now: a byte goes into a temporary beside it, since
/// permissions tell nothing of read-only file systems, of quotas, and to root.
inline void require_writable(const NamedFile& file) {
  const auto folder = file.path.has_parent_path() ? file.path.parent_path() : std::filesystem::path(".");
  std::error_code ignored;
  elcrec::require<elcrec::FileError>(std::filesystem::is_directory(folder, ignored), file.flag, ' ', file.path.string(),
                                     ": the folder ", folder.string(), " was not found; expected an existing folder");
  std::string temporary = file.path.string() + ".tmp.XXXXXX";
  const int descriptor = ::mkstemp(temporary.data());
  if (descriptor < 0) {
    detail::fail_writing(file, "creating a file beside it", errno);
  }
  const bool written = ::write(descriptor, "", 1) == 1;
  const int error = errno;
  ::close(descriptor);
  ::unlink(temporary.c_str());
  if (!written) {
    detail::fail_writing(file, "writing a file beside it", error);
  }
}

/// The same for a file that lines are appended to, which may be there already.
inline void require_appendable(const NamedFile& file) {
  std::error_code ignored;
  if (!std::filesystem::exists(file.path, ignored)) {
    return require_writable({file.flag, detail::resolved(file.path)});
  }
  elcrec::require<elcrec::FileError>(!std::filesystem::is_directory(file.path, ignored), file.flag, ' ',
                                     file.path.string(), ": is a folder; expected a file or a new name");
  if (std::filesystem::is_regular_file(file.path, ignored)) {
    const int descriptor = ::open(file.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (descriptor < 0) {
      detail::fail_writing(file, "opening it", errno);
    }
    ::close(descriptor);
  }
}

}  // namespace program
