// The emulation itself: what it computes, and that it notices what a device would not forgive.
#include <array>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/launch.hpp"
#include "runtime.hpp"

namespace el = elcrec;
using cuda_emulation::Order;

namespace {

struct Device {
  std::shared_ptr<const el::cuda::Context> context = std::make_shared<el::cuda::Context>(el::CudaOptions{});

  [[nodiscard]] const el::cuda::Stream& stream() const { return context->main(); }

  template <class T>
  el::DeviceBuffer<T> put(const std::vector<T>& values) const {
    el::DeviceBuffer<T> buffer(context, stream().handle, static_cast<el::Index>(values.size()));
    el::cuda::check(
        cudaMemcpyAsync(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyDefault, stream().handle),
        "cudaMemcpyAsync");
    return buffer;
  }
  template <class T>
  std::vector<T> get(const el::DeviceBuffer<T>& buffer) const {
    std::vector<T> values(static_cast<std::size_t>(buffer.size()));
    el::cuda::check(
        cudaMemcpyAsync(values.data(), buffer.data(), values.size() * sizeof(T), cudaMemcpyDefault, stream().handle),
        "cudaMemcpyAsync");
    return values;
  }
};

/// What a child process writes to its error output when it runs f, and whether it was ended by a signal.
struct Ending {
  bool killed;
  std::string text;
};
Ending in_child(const std::function<void()>& f) {
  std::array<int, 2> pipe_ends{};
  REQUIRE(pipe(pipe_ends.data()) == 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    f();
    _exit(0);
  }
  close(pipe_ends[1]);
  Ending ending{};
  char c = 0;
  while (read(pipe_ends[0], &c, 1) == 1) {
    ending.text += c;
  }
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  ending.killed = WIFSIGNALED(status) || WEXITSTATUS(status) != 0;
  return ending;
}

/// y[i] = a x[i] + y[i]
struct Axpy {
  float a;
  const float* x;
  float* y;
  int n;
  __device__ void operator()() const {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) {
      y[i] += a * x[i];
    }
  }
};

/// sums[block] = sum of a block's values, by shuffles within warps and shared memory between them
struct BlockSum {
  const int* values;
  int* sums;
  __device__ void operator()() const {
    __shared__ int of_warp[32];
    int sum = values[blockIdx.x * blockDim.x + threadIdx.x];
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, step);
    }
    if (threadIdx.x % 32 == 0) {
      of_warp[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (unsigned w = 1; w < blockDim.x / 32; ++w) {
        sum += of_warp[w];
      }
      sums[blockIdx.x] = sum;
    }
  }
};

struct WarpTalk {
  unsigned* out;
  __device__ void operator()() const {
    const unsigned t = threadIdx.x;
    out[t] = __ballot_sync(0xFFFFFFFFU, t % 3 == 0 ? 1 : 0);
    out[32 + t] = __shfl_up_sync(0xFFFFFFFFU, t, 1);
    out[64 + t] = __shfl_down_sync(0xFFFFFFFFU, t, 2, 16);
    out[96 + t] = __shfl_sync(0xFFFFFFFFU, t * t, 5);
    const unsigned half = t < 16 ? 0x0000FFFFU : 0xFFFF0000U;
    if (t < 16) {
      out[128 + t] = __shfl_xor_sync(half, t, 1);
    } else {
      out[128 + t] = __shfl_xor_sync(half, t, 2);
    }
  }
};

struct DynamicShared {
  int* out;
  __device__ void operator()() const {
    int* const memory = el::cuda::dynamic_shared<int>();
    memory[threadIdx.x] = static_cast<int>(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = memory[blockDim.x - 1 - threadIdx.x];
  }
};

/// Warps 0 and 1 hand a value over at barrier 1 while warp 2 does not take part.
struct NamedBarrier {
  int* out;
  __device__ void operator()() const {
    __shared__ int value;
    if (threadIdx.x >= 64) {
      return;
    }
    if (threadIdx.x == 63) {
      value = 5;
    }
    __barrier_sync_count(1, 64);
    out[threadIdx.x] = value;
  }
};

struct EarlyEnd {
  __device__ void operator()() const {
    if (threadIdx.x == 3) {
      return;
    }
    __syncthreads();
  }
};
struct TwoBarriers {
  __device__ void operator()() const {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
};
struct MissingLane {
  __device__ void operator()() const {
    if (threadIdx.x != 7) {
      __syncwarp();
    }
  }
};
struct OutsideMask {
  __device__ void operator()() const {
    if (threadIdx.x < 16) {
      static_cast<void>(__shfl_sync(0xFFFFU, 1, 20));
    }
  }
};

/// Every thread reads its neighbour's value, which a barrier should have come before.
struct Race {
  int* out;
  __device__ void operator()() const {
    __shared__ int values[64];
    values[threadIdx.x] = static_cast<int>(1 + threadIdx.x + 100 * blockIdx.x);
    out[blockIdx.x * blockDim.x + threadIdx.x] = values[(threadIdx.x + 1) % 64];
  }
};

struct Write {
  int* out;
  long at;
  __device__ void operator()() const { out[at] = 1; }
};

template <class Kernel>
std::string kernel_error(const Kernel& kernel, el::Index threads) {
  const Device device;
  el::cuda::launch(device.stream(), {2}, {threads}, 0, kernel);
  try {
    static_cast<void>(cudaStreamSynchronize(device.stream().handle));
  } catch (const cuda_emulation::KernelError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("kernels compute") {
  for (const auto order : {Order::forward, Order::reversed}) {
    cuda_emulation::set_order(order);
    const Device device;
    const auto x = device.put(std::vector<float>(1000, 2.0F));
    auto y = device.put(std::vector<float>(1000, 1.0F));
    el::cuda::launch(device.stream(), {el::cuda::blocks_for(1000, 128)}, {128}, 0,
                     Axpy{3.0F, x.data(), y.data(), 1000});
    CHECK(device.get(y) == std::vector<float>(1000, 7.0F));

    std::vector<int> values(512);
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<int>(i);
    }
    const auto v = device.put(values);
    auto sums = device.put(std::vector<int>(2));
    el::cuda::launch(device.stream(), {2}, {256}, 0, BlockSum{v.data(), sums.data()});
    CHECK(device.get(sums) == std::vector<int>{255 * 128, 767 * 128});

    auto out = device.put(std::vector<int>(96));
    el::cuda::launch(device.stream(), {1}, {96}, 96 * sizeof(int), DynamicShared{out.data()});
    CHECK(device.get(out)[10] == 85);
    el::cuda::launch(device.stream(), {1}, {96}, 0, NamedBarrier{out.data()});
    CHECK(device.get(out)[0] == 5);
  }
  cuda_emulation::set_order(Order::forward);
}

TEST_CASE("warp operations exchange what CUDA's do") {
  const Device device;
  auto out = device.put(std::vector<unsigned>(160));
  el::cuda::launch(device.stream(), {1}, {32}, 0, WarpTalk{out.data()});
  const auto found = device.get(out);
  for (unsigned t = 0; t < 32; ++t) {
    CAPTURE(t);
    CHECK(found[t] == 0x49249249U);
    CHECK(found[32 + t] == (t == 0 ? 0 : t - 1));
    CHECK(found[64 + t] == (t % 16 < 14 ? t + 2 : t));
    CHECK(found[96 + t] == 25);
    CHECK(found[128 + t] == (t < 16 ? t ^ 1U : t ^ 2U));
  }
}

TEST_CASE("threads that do not meet are an error that says where they are") {
  const auto contains = [](const std::string& text, const std::string& part) {
    INFO(text);
    CHECK(text.find(part) != std::string::npos);
  };
  contains(kernel_error(EarlyEnd{}, 64), "divergent barrier: thread (63, 0, 0) waits at test_emulation.cpp:");
  contains(kernel_error(EarlyEnd{}, 64), "thread (3, 0, 0) has ended");
  contains(kernel_error(TwoBarriers{}, 64), "divergent barrier: thread (0, 0, 0) waits at test_emulation.cpp:");
  contains(kernel_error(MissingLane{}, 32), "divergent warp operation at test_emulation.cpp:");
  contains(kernel_error(MissingLane{}, 32), "MissingLane, block (0, 0, 0), thread (8, 0, 0)");
  contains(kernel_error(OutsideMask{}, 32), "reads lane 20, which is not in the mask");
}

TEST_CASE("a race gives another result in the reversed order") {
  std::vector<std::vector<int>> found;
  for (const auto order : {Order::forward, Order::reversed}) {
    cuda_emulation::set_order(order);
    const Device device;
    auto out = device.put(std::vector<int>(128));
    el::cuda::launch(device.stream(), {2}, {64}, 0, Race{out.data()});
    found.push_back(device.get(out));
  }
  cuda_emulation::set_order(Order::forward);
  CHECK(found[0] != found[1]);
}

TEST_CASE("wrong accesses end the process and are explained") {
  const auto check = [](const std::string& expected, const std::function<void(const Device&)>& f) {
    const Ending ending = in_child([&] { f(Device()); });
    INFO(ending.text);
    CHECK(ending.killed);
    CHECK(ending.text.find(expected) != std::string::npos);
  };
  check("host code touches device address", [](const Device& device) {
    volatile float* data = device.put(std::vector<float>(8)).data();
    *data = 1.0F;
  });
  const auto write_at = [](long at) {
    return [at](const Device& device) {
      auto buffer = device.put(std::vector<int>(64));
      el::cuda::launch(device.stream(), {1}, {1}, 0, Write{buffer.data(), at});
      device.get(buffer);
    };
  };
  check("Write, block (0, 0, 0), thread (0, 0, 0) touches device address", write_at(64));
  check("0 bytes past the end of an allocation of 256 bytes", write_at(64));
  check("Write", write_at(-1024));
  check("where nothing is allocated", [](const Device& device) {
    int* freed = device.put(std::vector<int>(64)).data();
    static_cast<void>(cudaStreamSynchronize(device.stream().handle));
    el::cuda::launch(device.stream(), {1}, {1}, 0, Write{freed, 0});
    static_cast<void>(cudaStreamSynchronize(device.stream().handle));
  });
}

TEST_CASE("memory of another device is out of reach") {
  const Ending ending = in_child([] {
    const Device first;
    auto buffer = first.put(std::vector<int>(64));
    static_cast<void>(cudaStreamSynchronize(first.stream().handle));
    const el::cuda::Context second(el::CudaOptions{.device = 1});
    el::cuda::launch(second.main(), {1}, {1}, 0, Write{buffer.data(), 0});
    static_cast<void>(cudaStreamSynchronize(second.main().handle));
  });
  CHECK(ending.killed);
  CHECK(ending.text.find("allocation of 256 bytes of device 0") != std::string::npos);
}

TEST_CASE("streams are ordered by events alone") {
  const Device device;
  const auto& main = device.stream();
  const auto& upload = device.context->upload();
  int* pinned = nullptr;
  REQUIRE(cudaMallocHost(&pinned, 4 * sizeof(int)) == cudaSuccess);
  for (const bool wait : {false, true}) {
    std::fill_n(pinned, 4, 7);
    auto buffer = device.put(std::vector<int>(4, 1));
    static_cast<void>(cudaStreamSynchronize(main.handle));
    static_cast<void>(cudaMemcpyAsync(buffer.data(), pinned, 4 * sizeof(int), cudaMemcpyDefault, upload.handle));
    cudaEvent_t event = nullptr;
    static_cast<void>(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    static_cast<void>(cudaEventRecord(event, upload.handle));
    if (wait) {
      static_cast<void>(cudaStreamWaitEvent(main.handle, event));
    }
    CHECK(device.get(buffer) == std::vector<int>(4, wait ? 7 : 1));
    static_cast<void>(cudaStreamSynchronize(upload.handle));
    static_cast<void>(cudaEventDestroy(event));
  }
  static_cast<void>(cudaFreeHost(pinned));
}

TEST_CASE("graphs replay what was captured, and refuse to wait meanwhile") {
  const Device device;
  const auto& main = device.stream();
  const auto x = device.put(std::vector<float>(8, 1.0F));
  auto y = device.put(std::vector<float>(8, 0.0F));
  REQUIRE(cudaStreamBeginCapture(main.handle, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  el::cuda::launch(main, {1}, {8}, 0, Axpy{2.0F, x.data(), y.data(), 8});
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamEndCapture(main.handle, &graph) == cudaSuccess);
  CHECK(device.get(y) == std::vector<float>(8, 0.0F));
  cudaGraphExec_t executable = nullptr;
  REQUIRE(cudaGraphInstantiate(&executable, graph) == cudaSuccess);
  for (int i = 0; i < 3; ++i) {
    CHECK(cudaGraphLaunch(executable, main.handle) == cudaSuccess);
  }
  CHECK(device.get(y) == std::vector<float>(8, 6.0F));
  static_cast<void>(cudaGraphDestroy(graph));
  static_cast<void>(cudaGraphExecDestroy(executable));

  REQUIRE(cudaStreamBeginCapture(main.handle, cudaStreamCaptureModeRelaxed) == cudaSuccess);
  CHECK(cudaStreamSynchronize(main.handle) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(main.handle, &graph) == cudaErrorStreamCaptureUnsupported);
}

TEST_CASE("no device and an old driver are one clear line") {
  const auto message = [] {
    try {
      const el::cuda::Context context(el::CudaOptions{});
    } catch (const el::Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  cuda_emulation::set_device_count(0);
  CHECK(message() == "CUDA: found no device, expected at least one");
  cuda_emulation::set_device_count(2);
  cuda_emulation::set_old_driver(true);
  CHECK(message() == "CUDA: found no driver, or one older than this program's CUDA runtime; expected a newer driver");
  cuda_emulation::set_old_driver(false);
  CHECK_THROWS_WITH_AS(el::cuda::Context(el::CudaOptions{.device = 2}), "CUDA device: found 2, expected 0 to 1",
                       el::ArgumentError);
  const Device device;
  CHECK_THROWS_WITH_AS(el::cuda::launch(device.stream(), {1}, {2000}, 0, EarlyEnd{}),
                       "CUDA launch: found 2000 threads a block, expected 1 to 1024", el::ArgumentError);
  CHECK_THROWS_WITH_AS(
      el::cuda::launch(device.stream(), {1}, {1}, std::size_t{200} << 10, EarlyEnd{}),
      "kernel launch: found cudaErrorInvalidConfiguration (reported by the emulation), expected cudaSuccess",
      el::CudaError);
}
