// Devices, memory, streams, events and graphs. Nothing runs when it is enqueued: a stream's work runs, in order, when
// someone waits for it (or for an event behind it), so that a missing wait shows as wrong data.
#include "runtime.hpp"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include <unistd.h>

#include "device_heap.hpp"

namespace {

using namespace cuda_emulation;

struct Work {
  enum class Kind { kernel, copy, fill, free, wait, record };
  Kind kind;
  std::function<void()> run;
};

using Clock = std::chrono::steady_clock;

}  // namespace

struct CudaEmulationGraph {
  std::vector<Work> work;
};
struct CudaEmulationGraphExec {
  std::vector<Work> work;
};
struct CudaEmulationPool {
  int device;
};
struct CudaEmulationStream {
  int device = 0;
  std::deque<Work> queue;
  std::size_t enqueued = 0;
  std::size_t done = 0;
  std::unique_ptr<CudaEmulationGraph> capture;
  bool capture_broken = false;
};
struct CudaEmulationEvent {
  cudaStream_t stream = nullptr;  // null before the first record
  std::size_t position = 0;
  std::shared_ptr<Clock::time_point> time = std::make_shared<Clock::time_point>();
};

namespace {

struct State {
  std::recursive_mutex mutex;
  int devices = 2;
  bool old_driver = false;
  long kernels = 0;
  std::map<std::uintptr_t, std::size_t> pinned;  // bytes by address
};

State& state() {
  static auto* s = new State;
  return *s;
}

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

[[nodiscard]] std::unique_lock<std::recursive_mutex> lock() { return std::unique_lock(state().mutex); }

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) {
    last_error = error;
  }
  return error;
}

bool is_pinned(const void* memory) {
  const auto at = reinterpret_cast<std::uintptr_t>(memory);
  const auto after = state().pinned.upper_bound(at);
  return after != state().pinned.begin() && at < std::prev(after)->first + std::prev(after)->second;
}

/// Runs the work of a stream up to a position.
void run_until(cudaStream_t stream, std::size_t position) {
  std::optional<DeviceHeap::Access> access;
  while (stream->done < position) {
    const Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    ++stream->done;
    if (work.kind == Work::Kind::kernel) {
      if (!access) {
        access.emplace(device_heap(), stream->device);
      }
    } else {
      access.reset();
    }
    work.run();
  }
}

void run_all(cudaStream_t stream) { run_until(stream, stream->enqueued); }

cudaError_t enqueue(cudaStream_t stream, Work work) {
  if (stream == nullptr) {
    return remember(cudaErrorInvalidResourceHandle);  // the default stream: the library has its own
  }
  if (stream->capture) {
    if (work.kind == Work::Kind::free || work.kind == Work::Kind::record || work.kind == Work::Kind::wait) {
      stream->capture_broken = true;
      return remember(cudaErrorStreamCaptureUnsupported);
    }
    stream->capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->queue.push_back(std::move(work));
  ++stream->enqueued;
  return cudaSuccess;
}

/// Calls that wait for the host are not allowed while a stream is captured.
bool breaks_capture(cudaStream_t stream) {
  if (stream != nullptr && stream->capture) {
    stream->capture_broken = true;
    return true;
  }
  return false;
}

void on_fault(int signal, siginfo_t* info, void*) {
  char line[768] = "CUDA emulation: ";
  const auto length = [&] { return std::strlen(line); };
  if (device_heap().contains(info->si_addr)) {
    const std::string thread = running_thread();
    std::snprintf(line + length(), sizeof(line) - length(), "%s touches ",
                  thread.empty() ? "host code" : ("kernel " + thread).c_str());
    device_heap().describe(info->si_addr, line + length(), sizeof(line) - length() - 1);
  } else {
    std::snprintf(line + length(), sizeof(line) - length() - 1, "bad address %p %s", info->si_addr,
                  running_thread().c_str());
  }
  line[length() + 1] = '\0';
  line[length()] = '\n';
  static_cast<void>(!write(STDERR_FILENO, line, length()));
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

const bool faults_reported = (report_faults(), true);

}  // namespace

namespace cuda_emulation {

void report_faults() {
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

void set_device_count(int count) { state().devices = count; }
void set_old_driver(bool old) { state().old_driver = old; }
long kernels_run() { return state().kernels; }
std::size_t live_allocations() { return device_heap().allocations(); }

cudaError_t enqueue_device_work(cudaStream_t stream, std::function<void()> work) {
  const auto guard = lock();
  if (stream == nullptr || stream->device != current_device) {
    return remember(cudaErrorInvalidResourceHandle);
  }
  return enqueue(stream, {Work::Kind::kernel, [run = std::move(work)] {
                            ++state().kernels;
                            run();
                          }});
}

cudaError_t launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel,
                   const char* name) {
  const auto guard = lock();
  constexpr std::size_t most_shared_bytes = 163 * 1024;  // of a block on sm_80
  const bool fits = grid.x >= 1 && grid.x <= 0x7FFFFFFFU && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 &&
                    grid.z <= 65535 && block.x * block.y * block.z >= 1 && block.x * block.y * block.z <= 1024 &&
                    block.z <= 64 && shared_bytes <= most_shared_bytes;
  if (!fits) {
    return remember(cudaErrorInvalidConfiguration);
  }
  return enqueue_device_work(stream, [k = Kernel{grid, block, shared_bytes, std::move(kernel), name}] { run_grid(k); });
}

}  // namespace cuda_emulation

// ---- errors and devices -------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorGraphExecUpdateFailure:
      return "cudaErrorGraphExecUpdateFailure";
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t) { return "reported by the emulation"; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (state().old_driver) {
    return remember(cudaErrorInsufficientDriver);
  }
  *count = state().devices;
  return remember(state().devices == 0 ? cudaErrorNoDevice : cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= state().devices) {
    return remember(cudaErrorInvalidDevice);
  }
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= state().devices) {
    return remember(cudaErrorInvalidDevice);
  }
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated device %d", device);
  properties->major = 8;
  properties->multiProcessorCount = 2;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 2;  // processors
  return cudaSuccess;
}

// ---- memory -------------------------------------------------------------------------------------------------------

namespace {

cudaError_t allocate(void** memory, std::size_t bytes, int device) {
  const auto guard = lock();
  *memory = bytes == 0 ? nullptr : device_heap().allocate(bytes, device);
  return remember(bytes > 0 && *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

bool is_copyable(const void* memory, std::size_t bytes) {
  return !device_heap().contains(memory) || device_heap().holds(memory, bytes);
}

}  // namespace

cudaError_t cudaMalloc(void** memory, std::size_t bytes) { return allocate(memory, bytes, current_device); }
cudaError_t cudaFree(void* memory) {
  const auto guard = lock();
  return remember(memory == nullptr || device_heap().free(memory) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  const auto guard = lock();
  *memory = std::malloc(bytes);
  state().pinned.emplace(reinterpret_cast<std::uintptr_t>(*memory), bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  const auto guard = lock();
  if (memory == nullptr) {
    return cudaSuccess;
  }
  if (state().pinned.erase(reinterpret_cast<std::uintptr_t>(memory)) == 0) {
    return remember(cudaErrorInvalidValue);
  }
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* memory) {
  const auto guard = lock();
  *attributes = {device_heap().contains(memory) ? cudaMemoryTypeDevice
                 : is_pinned(memory)            ? cudaMemoryTypeHost
                                                : cudaMemoryTypeUnregistered,
                 current_device};
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  *pool = new CudaEmulationPool{properties->location.id};
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  delete pool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** memory, std::size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  return breaks_capture(stream) ? remember(cudaErrorStreamCaptureUnsupported) : allocate(memory, bytes, pool->device);
}
cudaError_t cudaMallocAsync(void** memory, std::size_t bytes, cudaStream_t stream) {
  return breaks_capture(stream) ? remember(cudaErrorStreamCaptureUnsupported) : allocate(memory, bytes, stream->device);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  const auto guard = lock();
  if (memory == nullptr) {
    return cudaSuccess;
  }
  if (!device_heap().holds(memory, 0)) {
    return remember(cudaErrorInvalidValue);
  }
  return enqueue(stream, {Work::Kind::free, [memory] { device_heap().free(memory); }});
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const auto guard = lock();
  if (width == 0 || height == 0) {
    return cudaSuccess;
  }
  auto& heap = device_heap();
  const std::size_t to_bytes = (height - 1) * to_pitch + width;
  const std::size_t from_bytes = (height - 1) * from_pitch + width;
  const bool to_device = heap.contains(to);
  const bool from_device = heap.contains(from);
  const bool as_told = kind == cudaMemcpyDefault ||
                       (to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
                        from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice));
  if (!as_told || !is_copyable(to, to_bytes) || !is_copyable(from, from_bytes)) {
    return remember(cudaErrorInvalidValue);
  }
  const bool pageable = (!to_device && !is_pinned(to)) || (!from_device && !is_pinned(from));
  if (pageable && breaks_capture(stream)) {
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  const auto copy = [=, &heap](const void* source) {
    const DeviceHeap::AccessAt read(heap, source);
    const DeviceHeap::AccessAt write(heap, to);
    for (std::size_t r = 0; r < height; ++r) {
      std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(source) + r * from_pitch, width);
    }
  };
  if (pageable && !from_device) {  // CUDA has read pageable memory when the call returns
    const auto* bytes = static_cast<const char*>(from);
    auto kept = std::make_shared<std::vector<char>>(bytes, bytes + from_bytes);
    return enqueue(stream, {Work::Kind::copy, [copy, kept] { copy(kept->data()); }});
  }
  const cudaError_t status = enqueue(stream, {Work::Kind::copy, [copy, from] { copy(from); }});
  if (status == cudaSuccess && pageable) {  // and has written it
    run_all(stream);
  }
  return status;
}
cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  const auto guard = lock();
  if (!device_heap().contains(memory) || !is_copyable(memory, bytes)) {
    return remember(cudaErrorInvalidValue);
  }
  return enqueue(stream, {Work::Kind::fill, [=] {
                            const DeviceHeap::AccessAt write(device_heap(), memory);
                            std::memset(memory, value, bytes);
                          }});
}

// ---- streams and events -------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CudaEmulationStream;
  (*stream)->device = current_device;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const auto guard = lock();
  if (stream != nullptr) {
    run_all(stream);
    delete stream;
  }
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const auto guard = lock();
  if (stream == nullptr) {
    return cudaSuccess;
  }
  if (breaks_capture(stream)) {
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  run_all(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const auto guard = lock();
  if (event->stream == nullptr) {
    return cudaSuccess;
  }
  return enqueue(stream,
                 {Work::Kind::wait, [from = event->stream, position = event->position] { run_until(from, position); }});
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CudaEmulationEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const auto guard = lock();
  event->stream = stream;
  event->position = stream->enqueued + 1;
  return enqueue(stream, {Work::Kind::record, [time = event->time] { *time = Clock::now(); }});
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const auto guard = lock();
  if (event->stream != nullptr) {
    run_until(event->stream, event->position);
  }
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const auto guard = lock();
  if (begin->stream == nullptr || end->stream == nullptr || begin->stream->done < begin->position ||
      end->stream->done < end->position) {
    return remember(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(*end->time - *begin->time).count();
  return cudaSuccess;
}

// ---- graphs -------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const auto guard = lock();
  if (breaks_capture(stream)) {
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  stream->capture = std::make_unique<CudaEmulationGraph>();
  stream->capture_broken = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const auto guard = lock();
  *graph = nullptr;
  if (!stream->capture) {
    return remember(cudaErrorInvalidValue);
  }
  const auto captured = std::exchange(stream->capture, nullptr).release();
  if (stream->capture_broken) {
    delete captured;
    return remember(cudaErrorStreamCaptureUnsupported);
  }
  *graph = captured;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !stream->capture         ? cudaStreamCaptureStatusNone
            : stream->capture_broken ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CudaEmulationGraphExec{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
  bool alike = executable->work.size() == graph->work.size();
  for (std::size_t i = 0; alike && i < graph->work.size(); ++i) {
    alike = executable->work[i].kind == graph->work[i].kind;
  }
  info->result = alike ? 0 : 1;
  if (!alike) {
    return remember(cudaErrorGraphExecUpdateFailure);
  }
  executable->work = graph->work;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const auto guard = lock();
  for (const auto& work : executable->work) {
    if (const cudaError_t status = enqueue(stream, work); status != cudaSuccess) {
      return status;
    }
  }
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
