#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

[[noreturn]] inline void fail_writing(const std::filesystem::path& path, const char* step, int error) {
  throw FileError(message(path.string(), ": cannot be written: ", step, ": ", std::generic_category().message(error)));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

struct RemoveUnlessRenamed {
  const std::filesystem::path& path;
  bool renamed = false;
  ~RemoveUnlessRenamed() {
    if (!renamed) {
      ::unlink(path.c_str());
    }
  }
};

}  // namespace detail

/// Makes `path` hold the joined `pieces`, or leaves what was there: writes `<path>.tmp.<pid>` beside it, syncs,
/// renames, and syncs the folder, so that neither a full disk nor a crash leaves half a file. An existing file keeps
/// its permissions; a symbolic link is replaced by a file. Throws FileError with the path and the system's reason
/// (missing folder, no space, ...); the temporary is then gone. (Only if the last step, syncing the folder, fails does
/// the new content already stand there.) Two threads may not write the same path at once.
inline void write_file_atomically(const std::filesystem::path& path,
                                  std::span<const std::span<const std::byte>> pieces) {
  std::error_code error;
  const std::filesystem::file_status old = std::filesystem::status(path, error);
  const bool replaces = std::filesystem::exists(old);
  require<FileError>(!replaces || std::filesystem::is_regular_file(old), path.string(),
                     ": cannot be written: it exists and is not a regular file");

  const std::filesystem::path folder_path = path.has_parent_path() ? path.parent_path() : ".";
  const detail::FileDescriptor folder(::open(folder_path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) {
    detail::fail_writing(path, "opening its folder", errno);
  }

  std::filesystem::path temporary = path;
  temporary += ".tmp." + std::to_string(::getpid());
  const auto mode = replaces ? static_cast<mode_t>(old.permissions() & std::filesystem::perms::all) : mode_t{0666};
  detail::FileDescriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode));
  if (file.get() < 0) {
    detail::fail_writing(path, "creating a temporary file beside it", errno);
  }
  detail::RemoveUnlessRenamed guard{temporary};

  for (std::span<const std::byte> piece : pieces) {
    while (!piece.empty()) {
      const ssize_t written = ::write(file.get(), piece.data(), piece.size());
      if (written >= 0) {
        piece = piece.subspan(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        detail::fail_writing(path, "writing", errno);
      }
    }
  }
  if (::fsync(file.get()) != 0) {
    detail::fail_writing(path, "syncing", errno);
  }
  if (!file.close()) {
    detail::fail_writing(path, "closing", errno);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    detail::fail_writing(path, "renaming", errno);
  }
  guard.renamed = true;
  // EINVAL: a file system whose folders cannot be synced.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) {
    detail::fail_writing(path, "syncing its folder", errno);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
