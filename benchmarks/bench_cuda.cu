// The CUDA backend's operations and whole jobs, by the names that the CPU's benchmarks have, and what the device
// reaches at most in the same run: copying memory, and a large product. Operations work on a whole batch (256 padded
// sequences of 50), where the CPU's work on a shard of it: compare FLOP/s and B/s.
#include <algorithm>
#include <array>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "elcrec/backend/cuda.hpp"
#include "elcrec/elcrec.hpp"

namespace el = elcrec;
using el::Index;

namespace {

constexpr Index batch_size = 256;
constexpr Index tokens = batch_size * 50;
using Lane = el::Cuda::Lane;

const el::Cuda& gpu() {
  static const el::Cuda backend;
  return backend;
}

el::Matrix<el::Cuda> random(Index rows, Index cols) {
  el::Matrix<el::Cuda> m(gpu(), rows, cols);
  el::initialise_normal(gpu(), 1, static_cast<std::uint32_t>(rows + cols), 0.3, m.view());
  return m;
}

/// Seconds that the device needs for f(lane).
class Stopwatch {
 public:
  Stopwatch() {
    for (auto* event : {&begin_, &end_}) {
      el::cuda::check(cudaEventCreateWithFlags(event, cudaEventDefault), "cudaEventCreateWithFlags");
    }
  }
  ~Stopwatch() {
    static_cast<void>(cudaEventDestroy(begin_));
    static_cast<void>(cudaEventDestroy(end_));
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  template <class F>
  double seconds(F f) {
    constexpr int repetitions = 20;  // so that launching hides behind running
    const auto stream = gpu().context()->main().handle;
    el::cuda::check(cudaEventRecord(begin_, stream), "cudaEventRecord");
    gpu().parallel_for(repetitions, [&](Lane& lane, Index) { f(lane); });
    el::cuda::check(cudaEventRecord(end_, stream), "cudaEventRecord");
    el::cuda::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    el::cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) / 1e3 / repetitions;
  }

 private:
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

template <class F>
void run(benchmark::State& state, F f) {
  Stopwatch watch;
  watch.seconds(f);  // memory grows in the first
  for (auto _ : state) {
    state.SetIterationTime(watch.seconds(f));
  }
}

template <class F>
double best_rate(double work, F f) {
  Stopwatch watch;
  double seconds = 1e9;
  for (int go = 0; go < 10; ++go) {
    seconds = std::min(seconds, watch.seconds(f));
  }
  return work / seconds;
}

/// FLOP/s of a large product.
double gemm_ceiling() {
  static const double rate = [] {
    constexpr Index n = 4096;
    const auto a = random(n, n);
    const auto b = random(n, n);
    auto y = random(n, n);
    return best_rate(2.0 * n * n * n,
                     [&](Lane& lane) { lane.multiply_nn(a.view(), b.view(), y.view(), el::Write::replace); });
  }();
  return rate;
}

/// Bytes per second, read and written, of a copy that no cache holds.
double copy_ceiling() {
  static const double rate = [] {
    constexpr Index n = Index{1} << 27;
    const el::Matrix<el::Cuda> a(gpu(), 1, n);
    el::Matrix<el::Cuda> b(gpu(), 1, n);
    return best_rate(8.0 * n, [&](Lane& lane) { lane.copy(a.view(), b.view()); });
  }();
  return rate;
}

void flops(benchmark::State& state, double per_iteration) {
  using benchmark::Counter;
  state.counters["FLOP/s"] = Counter(per_iteration, Counter::kIsIterationInvariantRate);
  state.counters["of_gemm"] = Counter(per_iteration / gemm_ceiling(), Counter::kIsIterationInvariantRate);
}

void bytes(benchmark::State& state, double per_iteration) {
  using benchmark::Counter;
  state.counters["B/s"] = Counter(per_iteration, Counter::kIsIterationInvariantRate, Counter::kIs1024);
  state.counters["of_copy"] = Counter(per_iteration / copy_ceiling(), Counter::kIsIterationInvariantRate);
}

void floats(benchmark::State& state, double count, int arrays) { bytes(state, 4.0 * count * arrays); }

void device_gemm(benchmark::State& state) {
  for (auto _ : state) {
    state.SetIterationTime(1.0 / gemm_ceiling());
  }
  state.counters["FLOP/s"] = gemm_ceiling();
}
BENCHMARK(device_gemm)->UseManualTime()->Iterations(1);

void device_copy(benchmark::State& state) {
  for (auto _ : state) {
    state.SetIterationTime(1.0 / copy_ceiling());
  }
  state.counters["B/s"] = copy_ceiling();
}
BENCHMARK(device_copy)->UseManualTime()->Iterations(1);

void linear(benchmark::State& state) {
  const Index in = state.range(0);
  const Index out = state.range(1);
  const auto x = random(tokens, in);
  const auto w = random(out, in);
  const auto b = random(1, out);
  auto y = random(tokens, out);
  run(state, [&](Lane& lane) { lane.linear(x.view(), w.view(), b.view(), y.view()); });
  flops(state, 2.0 * tokens * static_cast<double>(in * out));
}
BENCHMARK(linear)->Args({64, 64})->Args({64, 192})->Args({64, 256})->Args({256, 64})->UseManualTime();

void weight_gradient(benchmark::State& state) {
  const Index in = state.range(0);
  const Index out = state.range(1);
  const auto x = random(tokens, in);
  const auto dy = random(tokens, out);
  auto dw = random(out, in);
  run(state, [&](Lane& lane) { lane.multiply_tn(dy.view(), x.view(), dw.view(), el::Write::add); });
  flops(state, 2.0 * tokens * static_cast<double>(in * out));
}
BENCHMARK(weight_gradient)->Args({64, 192})->Args({64, 256})->Args({256, 64})->UseManualTime();

/// A padded batch of short histories.
struct Batch {
  el::TokenBatch host;
  el::Cuda::Staging staging{gpu()};

  Batch() {
    el::RandomEngine engine({1, 0, 0});
    host.start(50, el::Padding::paper);
    for (Index s = 0; s < batch_size; ++s) {
      std::vector<el::ItemId> history(6);
      for (auto& item : history) {
        item = static_cast<el::ItemId>(1 + engine.below(1000));
      }
      host.add(history);
    }
    staging.upload(host.view());
  }
};

constexpr double attention_flops = 4.0 * tokens * 50 * 64;

void attention(benchmark::State& state) {
  const Batch batch;
  const auto view = batch.staging.view();
  const auto qkv = random(tokens, 192);
  auto p = random(tokens, 2 * Lane::key_columns(50));
  auto y = random(tokens, 64);
  const el::DropoutMask mask({1, 1, 1}, state.range(0) != 0 ? 0.5 : 0.0);
  run(state,
      [&](Lane& lane) { attention(lane, view, 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), y.view()); });
  flops(state, attention_flops);
}
BENCHMARK(attention)->ArgName("dropout")->Arg(0)->Arg(1)->UseManualTime();

void attention_backward(benchmark::State& state) {
  const Batch batch;
  const auto view = batch.staging.view();
  const auto qkv = random(tokens, 192);
  const auto p = random(tokens, 2 * Lane::key_columns(50));
  const auto dy = random(tokens, 64);
  auto dqkv = random(tokens, 192);
  const el::DropoutMask mask({1, 1, 1}, 0.5);
  run(state, [&](Lane& lane) {
    attention_backward(lane, view, 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), dy.view(), dqkv.view());
  });
  flops(state, 2 * attention_flops);
}
BENCHMARK(attention_backward)->UseManualTime();

void layer_norm(benchmark::State& state) {
  const auto x = random(tokens, 64);
  const auto gamma = random(1, 64);
  const auto beta = random(1, 64);
  auto normalised = random(tokens, 64);
  auto rstd = random(1, tokens);
  auto y = random(tokens, 64);
  run(state, [&](Lane& lane) {
    layer_norm(lane, x.view(), gamma.view(), beta.view(), 1e-12F, normalised.view(), rstd.view(), y.view());
  });
  floats(state, tokens * 64, 3);
}
BENCHMARK(layer_norm)->UseManualTime();

void add_norm(benchmark::State& state) {
  const Batch batch;
  const auto view = batch.staging.view();
  const auto x = random(tokens, 64);
  const auto residual = random(tokens, 64);
  const auto gamma = random(1, 64);
  auto normalised = random(tokens, 64);
  auto rstd = random(1, tokens);
  auto y = random(tokens, 64);
  const el::DropoutMask mask({1, 1, 1}, 0.5);
  run(state, [&](Lane& lane) {
    add_norm(lane, view, mask, x.view(), gamma.view(), residual.view(), gamma.view(), gamma.view(), 1e-12F,
             normalised.view(), rstd.view(), y.view());
  });
  floats(state, tokens * 64, 4);
}
BENCHMARK(add_norm)->UseManualTime();

void add_norm_backward(benchmark::State& state) {
  const Batch batch;
  const auto view = batch.staging.view();
  const auto normalised = random(tokens, 64);
  const auto rstd = random(1, tokens);
  const auto gamma = random(1, 64);
  const auto dy = random(tokens, 64);
  auto ds = random(tokens, 64);
  auto dx = random(tokens, 64);
  auto sums = random(3, 64);
  const el::DropoutMask mask({1, 1, 1}, 0.5);
  const auto sum = [&](Index i) { return sums.view().slice_rows(i, i + 1); };
  run(state, [&](Lane& lane) {
    add_norm_backward(lane, view, mask, normalised.view(), rstd.view(), gamma.view(), dy.view(), ds.view(), dx.view(),
                      sum(0), sum(1), sum(2));
  });
  floats(state, tokens * 64, 4);
}
BENCHMARK(add_norm_backward)->UseManualTime();

void bias_gelu(benchmark::State& state) {
  const auto x = random(tokens, 256);
  const auto b = random(1, 256);
  auto y = random(tokens, 256);
  run(state, [&](Lane& lane) { bias_gelu(lane, x.view(), b.view(), y.view()); });
  floats(state, tokens * 256, 2);
}
BENCHMARK(bias_gelu)->UseManualTime();

void dropout(benchmark::State& state) {
  const Batch batch;
  const auto view = batch.staging.view();
  auto x = random(tokens, 64);
  const el::DropoutMask mask({1, 1, 1}, 0.5);
  run(state, [&](Lane& lane) { dropout(lane, view, mask, x.view()); });
  floats(state, tokens * 64, 2);
}
BENCHMARK(dropout)->UseManualTime();

void nearest_center(benchmark::State& state) {
  const Index k = state.range(0);
  const auto x = random(tokens, 64);
  const auto centers = random(k, 64);
  auto ids = gpu().allocate<std::int32_t>(tokens);
  run(state, [&](Lane& lane) { nearest_rows(lane, x.view(), centers.view(), {ids.data(), tokens}); });
  flops(state, 2.0 * tokens * 64 * static_cast<double>(k));
}
BENCHMARK(nearest_center)->RangeMultiplier(8)->Range(256, 1 << 14)->UseManualTime();

void exponentials(benchmark::State& state) {
  constexpr Index rows = 320;
  constexpr Index items = 256;
  auto logits = random(rows, items);
  auto largest = random(1, rows);
  auto sums = random(1, rows);
  run(state, [&](Lane& lane) { exponentials(lane, logits.view(), largest.view(), sums.view()); });
  floats(state, rows * items, 2);
}
BENCHMARK(exponentials)->UseManualTime();

void adam(benchmark::State& state) {
  const Index n = state.range(0);
  auto p = random(1, n);
  const auto g = random(1, n);
  auto m = random(1, n);
  el::Matrix<el::Cuda> v(gpu(), 1, n);
  const el::AdamStep step{
      .rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .correction1 = 0.1, .correction2 = 1e-3};
  const el::AdamSlot<float> slot{p.view().flat(), g.view().flat(), m.view().flat(), v.view().flat()};
  run(state, [&](Lane& lane) { adam(lane, step, std::span(&slot, 1), 0, n); });
  floats(state, static_cast<double>(n), 7);
}
BENCHMARK(adam)->Arg(1 << 14)->Arg(12103 * 64)->UseManualTime();

template <class Element>
void top_20(benchmark::State& state) {
  const Index items = state.range(0);
  const auto query = random(1, 64);
  const auto host = std::vector<Element>(static_cast<std::size_t>(items * 64), Element(0.5F));
  auto table = gpu().allocate<Element>(items * 64);
  gpu().copy<Element>(host, std::span(table.data(), host.size()));
  auto scores = random(1, 20);
  auto best = gpu().allocate<el::ItemId>(20);
  auto found = gpu().allocate<Index>(1);
  const auto nothing_seen = gpu().allocate<std::int32_t>(2);
  const el::RankingRule rule{.first = 1, .last = static_cast<el::ItemId>(items)};
  run(state, [&](Lane& lane) {
    top_k(lane, rule, query.view(), el::MatrixView<const Element>(table.data(), items, 64), {nothing_seen.data(), 2},
          {}, scores.view(), {best.data(), 20}, {found.data(), 1});
  });
  bytes(state, static_cast<double>(items) * 64 * sizeof(Element));
}
BENCHMARK(top_20<float>)->Arg(12101)->Arg(100000)->Arg(1000000)->UseManualTime();
BENCHMARK(top_20<el::BFloat16>)->Arg(12101)->Arg(100000)->Arg(1000000)->UseManualTime();

// ---- whole jobs ---------------------------------------------------------------------------------------------------

using Model = el::ELCRec<el::Cuda>;

const el::LeaveOneOut& split() {
  static const auto data =
      el::leave_one_out(el::make_synthetic({.users = 22363, .items = 12101, .intents = 64, .mean_length = 8.9}).data);
  return data;
}

el::ELCRecOptions options(el::Padding padding) {
  auto o = el::preset("beauty");
  o.items = split().item_count();
  o.padding = padding;
  return o;
}

/// Steps as the trainer makes them: the host prepares a batch while the device computes the one before.
void run_steps(benchmark::State& state, const el::ELCRecOptions& o, bool graph) {
  Model model(o, el::Cuda({.graph = graph}));
  el::TrainingPass<Model> pass(model);
  auto parameters = el::parameters(model);
  el::Adam::State<el::Cuda> optimizer(el::Adam{}, model.backend(), parameters);
  const el::UniformNegativeSampler negatives(split().dataset());
  std::vector<Index> users(batch_size);
  std::iota(users.begin(), users.end(), Index{0});
  std::array<el::StepBatches<Model>, 2> batches;
  std::uint32_t step = 0;
  const auto prepare = [&](std::uint32_t next) {
    batches[next % 2].build(model, {&split(), &negatives, 1, next}, users);
    pass.upload(batches[next % 2]);
  };
  const auto one = [&] {
    pass.start(1, step);
    prepare(++step);
    benchmark::DoNotOptimize(pass.losses());
    const auto gradients = pass.gradients();
    optimizer.step(model.backend(), parameters, gradients, 1.0);
  };
  prepare(0);
  one();
  for (auto _ : state) {
    one();
  }
  state.SetItemsProcessed(state.iterations() * batch_size);
}

void training_step(benchmark::State& state) {
  auto o = options(state.range(0) != 0 ? el::Padding::paper : el::Padding::masked);
  o.share_views = state.range(1) != 0;
  run_steps(state, o, state.range(2) != 0);
}
BENCHMARK(training_step)
    ->ArgNames({"padded", "share_views", "graph"})
    ->ArgsProduct({{0, 1}, {0, 1}, {0, 1}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void softmax_step(benchmark::State& state) {
  auto o = options(el::Padding::masked);
  o.objective = el::NextItemLoss::softmax;
  o.sequence_weight = o.intent_weight = o.trade_off = 0;
  run_steps(state, o, false);
}
BENCHMARK(softmax_step)->Unit(benchmark::kMillisecond)->UseRealTime();

void evaluation(benchmark::State& state) {
  const Model model(options(el::Padding::masked), gpu());
  for (auto _ : state) {
    benchmark::DoNotOptimize(el::evaluate(model, split(), el::Split::test));
  }
  state.SetItemsProcessed(state.iterations() * split().user_count());
}
BENCHMARK(evaluation)->Unit(benchmark::kMillisecond)->UseRealTime();

void recommend_20(benchmark::State& state) {
  const Model model(options(el::Padding::masked), gpu());
  const el::Recommender recommender(model);
  auto scratch = recommender.make_scratch();
  Index user = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(recommender.recommend(split().items(user), 20, scratch));
    user = (user + 1) % split().user_count();
  }
}
BENCHMARK(recommend_20)->Unit(benchmark::kMicrosecond)->UseRealTime();

void recommend_batch(benchmark::State& state) {
  const Model model(options(el::Padding::masked), gpu());
  const el::Recommender recommender(model);
  decltype(recommender)::BatchScratch scratch;
  std::vector<std::span<const el::ItemId>> histories;
  Index user = 0;
  for (auto _ : state) {
    histories.clear();
    for (Index i = 0; i < batch_size; ++i) {
      histories.push_back(split().items(user));
      user = (user + 1) % split().user_count();
    }
    recommender.recommend_batch(histories, 20, scratch);
    benchmark::DoNotOptimize(scratch.of(0));
  }
  state.SetItemsProcessed(state.iterations() * batch_size);
}
BENCHMARK(recommend_batch)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::cout << "skipped: no CUDA device\n";
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
