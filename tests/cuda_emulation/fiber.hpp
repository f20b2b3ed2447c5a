#pragma once

#include <cstddef>
#include <functional>

namespace cuda_emulation {

/// A stack of its own that runs one function at a time and can be left and entered again: a thread of a block.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// The function to run at the next resume(). Only for a fiber that is new or has finished.
  void start(const std::function<void()>& function) {
    function_ = &function;
    finished_ = false;
  }
  [[nodiscard]] bool finished() const { return finished_; }

  /// Runs it until it pauses or finishes. From outside of every fiber.
  void resume();

  /// Leaves the running fiber; returns at its next resume().
  static void pause();

 private:
  static void entry();

  const std::function<void()>* function_ = nullptr;
  bool finished_ = true;
  std::byte* stack_;
  void* state_;                // where the fiber stands when it does not run
  void* sanitizer_ = nullptr;  // AddressSanitizer's idea of its stack
};

}  // namespace cuda_emulation
