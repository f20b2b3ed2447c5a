#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

#include "elcrec/backend/cpu/flush_denormals.hpp"
#include "elcrec/backend/cpu/processors.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

/// `threads` workers, the caller among them. Tasks are handed out one by one, so the order in which they run differs
/// from run to run: what they compute must not depend on it. Tasks run with denormal numbers taken for zero.
///
/// The first run that has work for several starts the threads; a fork's child, which has none of its parent's, starts
/// its own. Fork while no other thread is in a run: the child would wait for it forever.
///
/// A training step is some forty parallel loops of a millisecond or less, and to wake a sleeping thread takes a tenth
/// of that or, on a virtual machine, a third: who waits looks for work for up to a millisecond before it sleeps. Not so
/// where there are more threads than processors. Where another program takes a processor from one of the threads, the
/// others would keep the rest busy with looking, and the system would not move that thread to one of them: who looked
/// in vain looks an eighth as long from then on, and longer again as its looking succeeds.
class ThreadPool {
  /// A run, known to the threads that work for it: a task that asks for a run of its own finds here what it is part of.
  struct Run {
    const ThreadPool* pool;
    const Run* outer;  // of which the run was asked for by a task
  };

 public:
  /// Leave to run, one thread's at a time.
  class Turn {
   public:
    explicit operator bool() const { return static_cast<bool>(lock_); }

   private:
    friend ThreadPool;
    explicit Turn(std::unique_lock<std::mutex> lock) : lock_(std::move(lock)) {}
    std::unique_lock<std::mutex> lock_;
  };

  static constexpr Index most_threads = 4096;

  /// 0 threads: as many as there are processors for.
  explicit ThreadPool(Index threads) : ThreadPool(threads, usable_processors()) {}
  ~ThreadPool() { stop(); }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] Index threads() const { return threads_; }

  /// Waits for other threads' runs to end. False, at once, where waiting could be for oneself: in a task of this pool,
  /// or in another pool's task while this one is busy. The caller then does the work alone.
  [[nodiscard]] Turn turn() {
    if (current_ == nullptr) {
      return Turn(std::unique_lock(one_run_));
    }
    for (const Run* run = current_; run != nullptr; run = run->outer) {
      if (run->pool == this) {
        return Turn(std::unique_lock<std::mutex>());
      }
    }
    return Turn(std::unique_lock(one_run_, std::try_to_lock));
  }

  using Task = void (*)(void* context, Index worker, Index i);

  /// task(context, worker, i) for i in [0, count), worker in [0, threads()). Rethrows the first exception of a task,
  /// after all workers have stopped. Throws Error when threads cannot be started.
  void run(const Turn&, Index count, Task task, void* context) {
    std::atomic<Index> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const Run run{this, current_};
    auto work = [&](Index worker) {
      const FlushDenormals flush;
      const Run* const outer = std::exchange(current_, &run);
      try {
        for (Index i = next++; i < count; i = next++) {
          task(context, worker, i);
        }
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        failure = failure ? failure : std::current_exception();
        next = count;
      }
      current_ = outer;
    };
    if (count <= 1 || threads_ == 1) {
      work(0);
    } else {
      if (workers_.empty() || process_ != process()) {
        start();
      }
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

  ThreadPool(Index threads, Index processors)
      : threads_(threads == 0 ? (std::min)(processors, most_threads) : threads), spins_(threads_ <= processors) {
    require(threads >= 0 && threads <= most_threads, "threads: found ", threads, ", expected 0 (all) to ",
            most_threads);
  }

  static long process() {
#if __has_include(<unistd.h>)
    return ::getpid();
#else
    return 0;
#endif
  }

  void start() {
    stop();
    process_ = process();
    round_.store(0, std::memory_order_relaxed);
    std::string reason;
    try {
      workers_.reserve(static_cast<std::size_t>(threads_ - 1));
      for (Index worker = 1; worker < threads_; ++worker) {
        workers_.emplace_back([this, worker] { serve(worker); });
      }
      return;
    } catch (const std::system_error& error) {
      reason = error.code().message();
    } catch (const std::bad_alloc&) {
      reason = "out of memory";
    }
    const std::size_t started = workers_.size() + 1;
    stop();
    throw Error(message("threads: found room for ", started, " (", reason, "), expected it for ", threads_,
                        "; a smaller `threads` takes less"));
  }

  /// Ends the threads, or forgets a parent's.
  void stop() {
    if (!workers_.empty() && process_ == process()) {
      announce(nullptr, nullptr);
      for (auto& worker : workers_) {
        worker.join();
      }
    } else {
      for (auto& worker : workers_) {
        worker.detach();
      }
    }
    workers_.clear();
  }

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
            patience = (std::min)(most_patience, patience * 5 / 4);
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

  static constinit inline thread_local const Run* current_ = nullptr;

  Index threads_;
  bool spins_;
  std::mutex one_run_;
  Job function_ = nullptr;  // of the round under way
  void* job_ = nullptr;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<Index> busy_{0};                // workers that have not finished the round
  Clock::duration patience_ = most_patience;  // of the caller
  std::vector<std::thread> workers_;
  long process_ = 0;  // whose the workers are
};

}  // namespace elcrec::inline ELCREC_TARGET::detail
