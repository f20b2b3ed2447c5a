#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "elcrec/backend/cpu/flush_denormals.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

/// `threads` workers, the caller among them. Tasks are handed out one by one, so the order in which they run differs
/// from run to run: what they compute must not depend on it. Tasks run with denormal numbers taken for zero.
///
/// A training step is some forty parallel loops of a millisecond or less, and to wake a sleeping thread takes a tenth
/// of that or, on a virtual machine, a third: who waits looks for work for up to a millisecond before it sleeps. Not so
/// where there are more threads than processors. Where another program takes a processor from one of the threads, the
/// others would keep the rest busy with looking, and the system would not move that thread to one of them: who looked
/// in vain looks an eighth as long from then on, and longer again as its looking succeeds.
class ThreadPool {
 public:
  explicit ThreadPool(Index threads)
      : threads_(threads), spins_(threads <= static_cast<Index>(std::thread::hardware_concurrency())) {
    for (Index worker = 1; worker < threads; ++worker) {
      workers_.emplace_back([this, worker] { serve(worker); });
    }
  }
  ~ThreadPool() {
    announce(nullptr, nullptr);
    for (auto& worker : workers_) {
      worker.join();
    }
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] Index threads() const { return threads_; }

  /// f(worker, i) for i in [0, count), worker in [0, threads()). Rethrows the first exception of a task, after all
  /// workers have stopped.
  template <class F>
  void run(Index count, F&& f) {
    std::atomic<Index> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    auto work = [&](Index worker) {
      const FlushDenormals flush;
      try {
        for (Index i = next++; i < count; i = next++) {
          f(worker, i);
        }
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        failure = failure ? failure : std::current_exception();
        next = count;
      }
    };
    if (count <= 1 || threads_ == 1) {
      work(0);
    } else {
      busy_.store(threads_ - 1, std::memory_order_relaxed);
      announce([](void* job, Index worker) { (*static_cast<decltype(work)*>(job))(worker); }, &work);
      work(0);
      wait_while([this] { return busy_.load(std::memory_order_acquire); }, [](Index busy) { return busy != 0; }, busy_,
                 patience_);
    }
    if (failure) {
      std::rethrow_exception(failure);
    }
  }

 private:
  using Job = void (*)(void* job, Index worker);

  /// Gives every worker the job; none to end.
  void announce(Job function, void* job) {
    function_ = function;
    job_ = job;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  void serve(Index worker) {
    auto patience = most_patience;
    for (std::uint32_t seen = 0;; ++seen) {
      wait_while([this] { return round_.load(std::memory_order_acquire); },
                 [seen](std::uint32_t round) { return round == seen; }, round_, patience);
      if (function_ == nullptr) {
        return;
      }
      function_(job_, worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        busy_.notify_one();
      }
    }
  }

  using Clock = std::chrono::steady_clock;
  static constexpr Clock::duration most_patience = std::chrono::milliseconds(1);

  /// Returns when `read` gives what `unwanted` does not hold for: looking for as long as `patience`, the waiting
  /// thread's own, then asleep.
  template <class Read, class Unwanted, class T>
  void wait_while(Read read, Unwanted unwanted, const std::atomic<T>& changing, Clock::duration& patience) const {
    if (spins_) {
      for (const auto began = Clock::now(); Clock::now() - began < patience;) {
        for (int i = 0; i < 32; ++i) {
          if (!unwanted(read())) {
            patience = std::min(most_patience, patience * 5 / 4);
            return;
          }
          pause();
        }
      }
      patience = most_patience / 8;
    }
    for (T value = read(); unwanted(value); value = read()) {
      changing.wait(value, std::memory_order_acquire);
    }
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  Index threads_;
  bool spins_;
  Job function_ = nullptr;  // of the round under way
  void* job_ = nullptr;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<Index> busy_{0};                // workers that have not finished the round
  Clock::duration patience_ = most_patience;  // of the caller
  std::vector<std::thread> workers_;
};

}  // namespace elcrec::inline ELCREC_TARGET::detail
