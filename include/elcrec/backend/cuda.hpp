#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/lane.hpp"
#include "elcrec/backend/cuda/operations.hpp"
#include "elcrec/backend/cuda/row_scatter.hpp"
#include "elcrec/backend/cuda/staging.hpp"
#include "elcrec/backend/cuda/step_graph.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A CUDA device. Operations are enqueued on one stream in the order in which they are asked for; the host waits only
/// where it is given a value. A handle: copies share the device's memory pool and the stream, and only one thread may
/// use them at a time. A thread that wants to recommend beside others takes a lane of its own (make_lane). Several
/// backends, on one device or on several, live side by side.
///
/// Throws CudaError when there is no device, or its driver is too old, and whenever a call into CUDA fails.
template <class T>
class BasicCuda {
 public:
  using Scalar = T;
  using Lane = CudaLane<T>;
  using Workspace = CudaWorkspace;
  template <class U>
  using Buffer = DeviceBuffer<U>;
  using RowScatter = cuda::RowScatter<T>;

  class Staging : public cuda::Staging {
   public:
    explicit Staging(const BasicCuda& backend) : cuda::Staging(backend.context()) {}
  };

  explicit BasicCuda(const CudaOptions& options = {}) : state_(std::make_shared<State>(options)) {}

  [[nodiscard]] const std::shared_ptr<const cuda::Context>& context() const { return state_->context; }

  /// A lane with a stream of its own, for a thread of its own. It sees what the backend was asked for before; what
  /// comes later is not ordered against it.
  [[nodiscard]] Lane make_lane() const {
    cuda::check(cudaStreamSynchronize(context()->main().handle), "cudaStreamSynchronize");
    const auto& options = context()->options();
    return Lane(context(), std::make_unique<cuda::OwnStream>(options.device, cuda::OwnStream::blas_of(options)));
  }

  /// n elements, 0 at first.
  template <class U>
  [[nodiscard]] Buffer<U> allocate(Index n) const {
    Buffer<U> buffer(context(), context()->main().handle, n);
    buffer.clear();
    return buffer;
  }
  [[nodiscard]] Workspace make_workspace() const { return Workspace(context(), context()->main().handle); }

  /// Between host and device, either way, or within one. Waits if `to` is host memory.
  template <class U>
  void copy(std::span<const std::type_identity_t<U>> from, std::span<U> to) const {
    if (from.empty()) {
      return;
    }
    const cuda::Stream& stream = context()->main();
    const cuda::DeviceGuard guard(stream.device);
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), from.size_bytes(), cudaMemcpyDefault, stream.handle),
                "cudaMemcpyAsync");
    cudaPointerAttributes target{};
    cuda::check(cudaPointerGetAttributes(&target, to.data()), "cudaPointerGetAttributes");
    if (target.type != cudaMemoryTypeDevice) {
      cuda::check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
    }
  }

  /// A batch stays whole: an operation fills the device by itself.
  [[nodiscard]] static constexpr Index slices() { return 1; }
  [[nodiscard]] static constexpr Index shard_tokens() { return Index{1} << 30; }
  [[nodiscard]] static constexpr Index threads() { return 1; }
  static constexpr bool spreads_operations = true;
  /// Sequences that are encoded in one go outside of training: enough to fill a device, few enough for its memory.
  [[nodiscard]] static constexpr Index encoded_sequences() { return 1024; }

  /// Calls f, which enqueues the operations of a training step; with CudaOptions::graph as one graph.
  template <class F>
  void run_step(F&& f) const {
    if (context()->options().graph) {
      state_->graph.launch(context()->main(), f);
    } else {
      f();
    }
  }

  /// f(lane, i) for i in [0, count), in order.
  template <class F>
  void parallel_for(Index count, F&& f) const {
    for (Index i = 0; i < count; ++i) {
      f(state_->lane, i);
    }
  }

  /// f(lane, 0, count): one block.
  template <class F>
  void parallel_blocks(Index count, [[maybe_unused]] Index grain, F&& f) const {
    if (count > 0) {
      f(state_->lane, Index{0}, count);
    }
  }

 private:
  struct State {
    explicit State(const CudaOptions& options)
        : context(std::make_shared<const cuda::Context>(options)), lane(context) {}
    std::shared_ptr<const cuda::Context> context;
    Lane lane;
    cuda::StepGraph graph;
  };

  std::shared_ptr<State> state_;
};

using Cuda = BasicCuda<float>;

static_assert(check_every_operation<CudaLane<float>>() && check_every_operation<CudaLane<double>>());
static_assert(Backend<BasicCuda<float>> && Backend<BasicCuda<double>>);

}  // namespace elcrec::inline ELCREC_TARGET
