#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "elcrec/core/error.hpp"
#include "elcrec/core/fingerprint.hpp"

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
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
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

/// The file beside its target that a save writes before it is renamed: `<target>.tmp.<16 random hexadecimal digits>`,
/// created by this process alone and locked while it lives, so that what a killed process left can be told from what
/// another one is writing. Gone at the end unless renamed.
class TemporaryFile {
 public:
  TemporaryFile(const std::filesystem::path& target, mode_t mode) : target_(target) {
    // A name is taken only by a stranger's file, or by a cleaner that saw the file before its lock.
    constexpr int attempts = 100;
    for (int i = 0; i < attempts && !create(mode); ++i) {
    }
    if (!file_) {
      fail_writing(target, "creating a temporary file beside it", EEXIST);
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (file_) {
      ::unlink(path_.c_str());
    }
  }

  [[nodiscard]] int get() const { return file_->get(); }

  /// Closes the file and puts it in the target's place.
  void rename() {
    const FileDescriptor keeps_the_lock(::fcntl(file_->get(), F_DUPFD_CLOEXEC, 0));
    if (!file_->close()) {
      fail_writing(target_, "closing", errno);
    }
    if (::rename(path_.c_str(), target_.c_str()) != 0) {
      fail_writing(target_, "renaming", errno);
    }
    file_.reset();
  }

  /// Removes the temporaries of `target` that no live process holds. What cannot be removed stays.
  static void remove_stale(const std::filesystem::path& target, const std::filesystem::path& folder) {
    const std::string prefix = target.filename().string() + std::string(infix);
    // Not std::filesystem's iterator: libstdc++'s ends the process where it finds no memory.
    const auto close = [](DIR* list) { ::closedir(list); };
    const std::unique_ptr<DIR, decltype(close)> list(::opendir(folder.c_str()), close);
    while (const dirent* entry = list == nullptr ? nullptr : ::readdir(list.get())) {
      const std::string_view name = entry->d_name;
      if (!name.starts_with(prefix) || !is_suffix(name.substr(prefix.size()))) {
        continue;
      }
      const int at = ::dirfd(list.get());
      const FileDescriptor file(::openat(at, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
      if (is_ours(file.get()) && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
        ::unlinkat(at, entry->d_name, 0);
      }
    }
  }

 private:
  static constexpr std::string_view infix = ".tmp.";

  [[nodiscard]] static bool is_suffix(std::string_view text) {
    return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  }

  /// A regular file with one name: nobody else's content.
  [[nodiscard]] static bool is_ours(int fd) {
    struct stat info {};
    return fd >= 0 && ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1;
  }

  [[nodiscard]] bool create(mode_t mode) {
    std::random_device random;
    path_ = target_;
    path_ += std::string(infix) + Fingerprint().add(std::uint32_t{random()}).add(std::uint32_t{random()}).text();
    FileDescriptor file(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
    if (file.get() < 0) {
      if (errno != EEXIST) {
        fail_writing(target_, "creating a temporary file beside it", errno);
      }
      return false;
    }
    // Where the file system has no locks there is no cleaner either.
    const bool taken = ::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (taken || !is_ours(file.get())) {
      return false;
    }
    file_.emplace(std::move(file));
    return true;
  }

  const std::filesystem::path& target_;
  std::filesystem::path path_;
  std::optional<FileDescriptor> file_;
};

}  // namespace detail

/// Makes `path` hold the joined `pieces`, or leaves what was there: writes `<path>.tmp.<16 hexadecimal digits>` beside
/// it, syncs, renames, and syncs the folder, so that neither a full disk nor a crash leaves half a file. An existing
/// file keeps its permissions; a symbolic link is replaced by a file. Throws FileError with the path and the system's
/// reason (missing folder, no space, ...); the temporary is then gone. (Only if the last step, syncing the folder,
/// fails does the new content already stand there.) What a killed process left beside the path is removed at the next
/// call. Of several writers of one path, each a whole file, the last one wins.
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
  detail::TemporaryFile::remove_stale(path, folder_path);

  const auto mode = replaces ? static_cast<mode_t>(old.permissions() & std::filesystem::perms::all) : mode_t{0666};
  detail::TemporaryFile file(path, mode);
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
  file.rename();
  // EINVAL: a file system whose folders cannot be synced.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) {
    detail::fail_writing(path, "syncing its folder", errno);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
