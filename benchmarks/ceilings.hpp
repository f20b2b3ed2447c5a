#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

#include <Eigen/Core>
#include <benchmark/benchmark.h>

#include "elcrec/elcrec.hpp"

/// What one core of this machine reaches in this run: the fastest of some matrix products that fit its caches, and
/// reading memory. Measured once, at the first use.
namespace ceilings {

/// Units of work per second, the best of several goes.
template <class F>
double best_rate(double work, F f) {
  double seconds = 1e9;
  for (int go = 0; go < 12; ++go) {
    const auto began = std::chrono::steady_clock::now();
    f();
    seconds = std::min(seconds, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  return work / seconds;
}

inline double measure_gemm() {
  const auto rate_of = [](elcrec::Index rows, elcrec::Index depth, elcrec::Index cols) {
    const std::vector<float> a(static_cast<std::size_t>(rows * depth), 0.5F);
    const std::vector<float> b(static_cast<std::size_t>(depth * cols), 0.25F);
    std::vector<float> y(static_cast<std::size_t>(rows * cols));
    elcrec::Cpu::Lane lane;
    return best_rate(2.0 * static_cast<double>(rows * depth * cols), [&] {
      lane.multiply_nn({a.data(), rows, depth}, {b.data(), depth, cols}, {y.data(), rows, cols},
                       elcrec::Write::replace);
    });
  };
  return std::max({rate_of(512, 512, 512), rate_of(480, 256, 128), rate_of(240, 256, 64)});
}

inline double measure_read() {
  using elcrec::simd::load;
  constexpr elcrec::Index w = elcrec::simd::width<float>;
  const std::vector<float> memory(std::size_t{1} << 26, 1.0F);  // 256 MB
  return best_rate(static_cast<double>(memory.size() * sizeof(float)), [&] {
    elcrec::simd::Pack<float> sums[4] = {};
    for (const float* at = memory.data(); at != memory.data() + memory.size(); at += 4 * w) {
      for (elcrec::Index i = 0; i < 4; ++i) {
        sums[i] += load(at + i * w);
      }
    }
    benchmark::DoNotOptimize(sums);
  });
}

/// FLOP/s of one core.
inline double gemm() {
  static const double rate = measure_gemm();
  return rate;
}

/// Bytes per second of one core.
inline double read() {
  static const double rate = measure_read();
  return rate;
}

/// Counters FLOP/s and its share of the ceiling of `threads` cores.
inline void flops(benchmark::State& state, double per_iteration, double threads = 1) {
  using benchmark::Counter;
  state.counters["FLOP/s"] = Counter(per_iteration, Counter::kIsIterationInvariantRate);
  state.counters["of_gemm"] = Counter(per_iteration / (gemm() * threads), Counter::kIsIterationInvariantRate);
}

/// Counters B/s and its share of the ceiling of one core; above 1 where the data stay in a cache.
inline void bytes(benchmark::State& state, double per_iteration) {
  using benchmark::Counter;
  state.counters["B/s"] = Counter(per_iteration, Counter::kIsIterationInvariantRate, Counter::kIs1024);
  state.counters["of_read"] = Counter(per_iteration / read(), Counter::kIsIterationInvariantRate);
}

}  // namespace ceilings
