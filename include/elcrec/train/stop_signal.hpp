#pragma once

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>

#include <signal.h>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Turns SIGINT and SIGTERM into a flag while it lives, so that a training run can stop at a step and save itself. A
/// second signal has its usual effect. One that is ignored stays so: nohup and shells start jobs that way. One object
/// at a time.
class StopSignal {
 public:
  StopSignal() {
    flag().store(false);
    struct sigaction ours = {};
    ours.sa_handler = &StopSignal::raise;
    ours.sa_flags = static_cast<int>(SA_RESTART | SA_RESETHAND);
    ::sigemptyset(&ours.sa_mask);
    for (std::size_t i = 0; i < signals.size(); ++i) {
      ::sigaction(signals[i], nullptr, &old_[i]);
      if (!ignored(old_[i])) {
        ::sigaction(signals[i], &ours, nullptr);
      }
    }
  }
  ~StopSignal() {
    for (std::size_t i = 0; i < signals.size(); ++i) {
      if (!ignored(old_[i])) {
        ::sigaction(signals[i], &old_[i], nullptr);
      }
    }
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  [[nodiscard]] const std::atomic<bool>& requested() const { return flag(); }

 private:
  static constexpr std::array<int, 2> signals = {SIGINT, SIGTERM};

  static bool ignored(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN;
  }
  static std::atomic<bool>& flag() {
    static std::atomic<bool> value{false};
    return value;
  }
  static void raise(int) { flag().store(true); }
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

  std::array<struct sigaction, signals.size()> old_{};
};

}  // namespace elcrec::inline ELCREC_TARGET
