#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "elcrec/backend/cpu/thread_pool.hpp"
#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/backend/host_staging.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct CpuOptions {
  /// 0: as many as there are processors for, by affinity mask and control groups' quotas. Started by the first region
  /// that has work for several.
  Index threads = 0;
  /// Parts of a batch with gradient accumulators of their own. Sums are taken part by part in a fixed order, so
  /// results depend on this number (in the last bits) but not on `threads`; more than this many threads gain nothing.
  Index slices = 16;
};

namespace detail {

/// Host memory and a pool of threads: a backend but for the operations of its lanes. A handle: copies share the pool.
/// From several threads, parallel regions of one pool take turns; one inside a task runs on the task's own thread. A
/// task must not wait for another thread's region. A fork's child starts threads of its own. Operations on lanes of
/// one's own (make_lane) are free of the pool and of each other.
template <class L>
class PooledBackend {
 public:
  using Scalar = typename L::Scalar;
  using Lane = L;
  using Workspace = typename Lane::Workspace;
  template <class U>
  using Buffer = HostBuffer<U>;
  using Staging = HostStaging;

  explicit PooledBackend(CpuOptions options) : state_(std::make_shared<State>(options)) {}

  /// A lane of one's own, for a thread of one's own.
  [[nodiscard]] static Lane make_lane() { return Lane(); }

  template <class U>
  [[nodiscard]] Buffer<U> allocate(Index n) const {
    return Buffer<U>(n);
  }
  [[nodiscard]] static Workspace make_workspace() { return Lane::make_workspace(); }

  template <class U>
  void copy(std::span<const std::type_identity_t<U>> from, std::span<U> to) const {
    std::copy(from.begin(), from.end(), to.begin());
  }

  /// Into how many parts a batch is cut for gradient accumulation, whatever the number of threads.
  [[nodiscard]] Index slices() const { return state_->slices; }
  [[nodiscard]] Index threads() const { return state_->pool.threads(); }
  /// Sequences that are encoded in one go outside of training.
  [[nodiscard]] static constexpr Index encoded_sequences() { return 64; }
  /// Whether an operation spreads over the whole machine by itself, so that many small tasks only hold it up.
  static constexpr bool spreads_operations = false;

  /// Calls f, which runs the operations of a training step.
  template <class F>
  void run_step(F&& f) const {
    f();
  }

  /// f(lane, i) for i in [0, count), in any order. Throws the first exception of f, or Error when threads cannot be
  /// started.
  template <class F>
  void parallel_for(Index count, F&& f) const {
    using Function = std::remove_reference_t<F>;
    run_tasks(
        count, [](const void* g, Lane& lane, Index i) { (*static_cast<Function*>(const_cast<void*>(g)))(lane, i); },
        std::addressof(f));
  }

  /// f(lane, begin, end) for blocks of `grain` that cover [0, count), in any order. The blocks do not depend on
  /// `threads`.
  template <class F>
  void parallel_blocks(Index count, Index grain, F&& f) const {
    parallel_for((count + grain - 1) / grain,
                 [&](Lane& lane, Index b) { f(lane, b * grain, (std::min)(count, (b + 1) * grain)); });
  }

 private:
  /// One task of a region whose function is forgotten: a region takes some microseconds at least, a call through a
  /// pointer a few nanoseconds, and the code of regions is compiled once.
  using Task = void (*)(const void* function, Lane& lane, Index i);

  void run_tasks(Index count, Task task, const void* function) const {
    if (const auto turn = state_->pool.turn()) {
      struct Region {
        Task task;
        const void* function;
        Lane* lanes;
      } region{task, function, state_->lanes.data()};
      state_->pool.run(
          turn, count,
          [](void* r, Index worker, Index i) {
            const auto& [run, f, lanes] = *static_cast<const Region*>(r);
            run(f, lanes[worker], i);
          },
          &region);
    } else {  // the pool's lanes are in use
      Lane lane;
      for (Index i = 0; i < count; ++i) {
        task(function, lane, i);
      }
    }
  }

  struct State {
    explicit State(CpuOptions options)
        : pool(options.threads), lanes(static_cast<std::size_t>(pool.threads())), slices(options.slices) {
      require(options.slices >= 1, "slices: found ", options.slices, ", expected at least 1");
    }
    ThreadPool pool;
    std::vector<Lane> lanes;
    Index slices;
  };

  std::shared_ptr<State> state_;
};

}  // namespace detail
}  // namespace elcrec::inline ELCREC_TARGET
