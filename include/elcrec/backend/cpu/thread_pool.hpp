#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>

#include <unsupported/Eigen/CXX11/ThreadPool>

#include "elcrec/backend/cpu/flush_denormals.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::detail {

/// `threads` workers, the caller among them (Eigen's pool holds the others). Tasks are handed out one by one, so the
/// order in which they run differs from run to run: what they compute must not depend on it. Tasks run with denormal
/// numbers taken for zero.
class ThreadPool {
 public:
  explicit ThreadPool(Index threads)
      : threads_(threads),
        pool_(threads > 1 ? std::make_unique<Eigen::ThreadPool>(static_cast<int>(threads - 1)) : nullptr) {}

  [[nodiscard]] Index threads() const { return threads_; }

  /// f(worker, i) for i in [0, count), worker in [0, threads()). Rethrows the first exception of a task, after all
  /// workers have stopped.
  template <class F>
  void run(Index count, F&& f) {
    std::atomic<Index> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto work = [&](Index worker) {
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
    const Index helpers = std::min(threads_, count) - 1;
    if (helpers > 0) {
      Eigen::Barrier done(static_cast<unsigned>(helpers));
      for (Index h = 1; h <= helpers; ++h) {
        pool_->Schedule([&work, &done, h] {
          work(h);
          done.Notify();
        });
      }
      work(0);
      done.Wait();
    } else {
      work(0);
    }
    if (failure) {
      std::rethrow_exception(failure);
    }
  }

 private:
  Index threads_;
  std::unique_ptr<Eigen::ThreadPool> pool_;
};

}  // namespace elcrec::detail
