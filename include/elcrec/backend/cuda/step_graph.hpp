#pragma once

#include "elcrec/backend/cuda/error.hpp"
#include "elcrec/backend/cuda/stream.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// Launches what a function enqueues on a stream as one CUDA graph. The graph is captured every time, for the arguments
/// of its kernels change, but instantiated anew only when it has another shape than the last one.
class StepGraph {
 public:
  StepGraph() = default;
  ~StepGraph() {
    if (executable_ != nullptr) {
      static_cast<void>(cudaGraphExecDestroy(executable_));
    }
  }
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  /// f may allocate device memory, but neither wait for the stream nor give memory of it back.
  template <class F>
  void launch(const Stream& stream, F&& f) {
    const DeviceGuard guard(stream.device);
    check(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      f();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream.handle, &graph));  // f's error is the one to report
      static_cast<void>(cudaGraphDestroy(graph));
      throw;
    }
    check(cudaStreamEndCapture(stream.handle, &graph), "cudaStreamEndCapture");
    const GraphGuard owner{graph};
    take(graph);
    check(cudaGraphLaunch(executable_, stream.handle), "cudaGraphLaunch");
  }

 private:
  struct GraphGuard {
    cudaGraph_t graph;
    ~GraphGuard() { static_cast<void>(cudaGraphDestroy(graph)); }
  };

  void take(cudaGraph_t graph) {
    if (executable_ != nullptr) {
      cudaGraphExecUpdateResultInfo info{};
      if (cudaGraphExecUpdate(executable_, graph, &info) == cudaSuccess) {
        return;
      }
      static_cast<void>(cudaGetLastError());  // another shape: no failure
      check(cudaGraphExecDestroy(executable_), "cudaGraphExecDestroy");
      executable_ = nullptr;
    }
    check(cudaGraphInstantiate(&executable_, graph, 0), "cudaGraphInstantiate");
  }

  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
