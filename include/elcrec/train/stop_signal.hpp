#pragma once

#include <atomic>
#include <csignal>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Turns SIGINT and SIGTERM into a flag while it lives, so that a training run can stop at a step and save itself. A
/// second signal has its usual effect. One object at a time.
class StopSignal {
 public:
  StopSignal() {
    flag().store(false);
    old_interrupt_ = std::signal(SIGINT, &StopSignal::raise);
    old_terminate_ = std::signal(SIGTERM, &StopSignal::raise);
  }
  ~StopSignal() {
    std::signal(SIGINT, old_interrupt_);
    std::signal(SIGTERM, old_terminate_);
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  [[nodiscard]] const std::atomic<bool>& requested() const { return flag(); }

 private:
  static std::atomic<bool>& flag() {
    static std::atomic<bool> value{false};
    return value;
  }
  static void raise(int signal) {
    flag().store(true);
    std::signal(signal, SIG_DFL);
  }
  static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

  using Handler = void (*)(int);
  Handler old_interrupt_;
  Handler old_terminate_;
};

}  // namespace elcrec::inline ELCREC_TARGET
