#pragma once

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/// What the tests of programs share: a built program, run in a folder of its own.
namespace elcrec::test {

namespace fs = std::filesystem;
using Args = std::vector<std::string>;

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const fs::path& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << content;
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// What the program left behind.
struct Finished {
  int code = -1;  // 128 + n where signal n ended it
  std::string out;
  std::string err;
};

/// The built program, run in a folder that is empty at first and gone at the end.
class Program {
 public:
  explicit Program(std::string executable)
      : executable_(std::move(executable)),
        folder_(fs::temp_directory_path() / ("elcrec_test_program." + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    fs::create_directory(folder_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { fs::remove_all(folder_); }

  [[nodiscard]] fs::path operator/(const std::string& name) const { return folder_ / name; }

  /// Starts it; files of more than `largest_file` bytes cannot be written, as if the disk were full.
  pid_t start(const Args& args, rlim_t largest_file = RLIM_INFINITY) const {
    std::vector<char*> argv = {const_cast<char*>(executable_.c_str())};
    for (const auto& arg : args) {
      argv.push_back(const_cast<char*>(arg.c_str()));
    }
    argv.push_back(nullptr);
    const std::string out = folder_ / "stdout";
    const std::string err = folder_ / "stderr";
    const std::string folder = folder_;
    const pid_t child = ::fork();
    if (child == 0) {
      const auto redirect = [](const std::string& path, int to) {
        return ::dup2(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), to) == to;
      };
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{largest_file, largest_file};
      if (::chdir(folder.c_str()) == 0 && redirect(out, STDOUT_FILENO) && redirect(err, STDERR_FILENO) &&
          ::setrlimit(RLIMIT_FSIZE, &limit) == 0) {
        ::execv(argv[0], argv.data());
      }
      ::_exit(127);
    }
    REQUIRE(child > 0);
    return child;
  }

  [[nodiscard]] Finished wait(pid_t child) const {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(folder_ / "stdout"),
            read_file(folder_ / "stderr")};
  }

  [[nodiscard]] Finished run(const Args& args, rlim_t largest_file = RLIM_INFINITY) const {
    return wait(start(args, largest_file));
  }

  /// The object that a run with exit code 0 printed.
  [[nodiscard]] nlohmann::json run_json(Args args) const {
    args.emplace_back("--json");
    const Finished finished = run(args);
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
    REQUIRE(std::count(finished.out.begin(), finished.out.end(), '\n') == 1);
    return nlohmann::json::parse(finished.out);
  }

 private:
  std::string executable_;
  fs::path folder_;
};

}  // namespace elcrec::test
