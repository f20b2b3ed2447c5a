// The CPU backend's operations on one shard: 250 tokens (five padded sequences of 50), hidden size 64, one thread.
#include <benchmark/benchmark.h>

#include "elcrec/elcrec.hpp"

namespace el = elcrec;
using el::Index;

namespace {

constexpr Index tokens = 250;

struct Shard {
  el::Cpu backend{{.threads = 1}};
  el::Cpu::Lane lane;
  el::TokenBatch batch;

  Shard() {
    el::RandomEngine random({1, 0, 0});
    batch.start(50, el::Padding::paper);
    for (int s = 0; s < 5; ++s) {
      std::vector<el::ItemId> history(6);
      for (auto& item : history) {
        item = static_cast<el::ItemId>(1 + random.below(1000));
      }
      batch.add(history);
    }
  }
  [[nodiscard]] el::Matrix<el::Cpu> random(Index rows, Index cols) const {
    el::Matrix<el::Cpu> m(backend, rows, cols);
    el::initialise_normal(backend, 1, static_cast<std::uint32_t>(rows + cols), 0.3, m.view());
    return m;
  }
};

void flops(benchmark::State& state, double per_iteration) {
  state.counters["FLOP/s"] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

void elements(benchmark::State& state, Index per_iteration) {
  state.SetItemsProcessed(state.iterations() * per_iteration);
}

/// The ceiling: a product large enough that packing does not count.
void gemm_ceiling(benchmark::State& state) {
  Shard s;
  const auto a = s.random(512, 512);
  const auto b = s.random(512, 512);
  auto y = s.random(512, 512);
  for (auto _ : state) {
    s.lane.multiply_nn(a.view(), b.view(), y.view(), el::Write::replace);
  }
  flops(state, 2.0 * 512 * 512 * 512);
}
BENCHMARK(gemm_ceiling);

void linear(benchmark::State& state) {
  Shard s;
  const Index in = state.range(0);
  const Index out = state.range(1);
  const auto x = s.random(tokens, in);
  const auto w = s.random(out, in);
  const auto b = s.random(1, out);
  auto y = s.random(tokens, out);
  for (auto _ : state) {
    s.lane.linear(x.view(), w.view(), b.view(), y.view());
  }
  flops(state, 2.0 * tokens * static_cast<double>(in * out));
}
BENCHMARK(linear)->Args({64, 64})->Args({64, 192})->Args({64, 256})->Args({256, 64});

void weight_gradient(benchmark::State& state) {
  Shard s;
  const Index in = state.range(0);
  const Index out = state.range(1);
  const auto x = s.random(tokens, in);
  const auto dy = s.random(tokens, out);
  auto dw = s.random(out, in);
  for (auto _ : state) {
    s.lane.multiply_tn(dy.view(), x.view(), dw.view(), el::Write::add);
  }
  flops(state, 2.0 * tokens * static_cast<double>(in * out));
}
BENCHMARK(weight_gradient)->Args({64, 192})->Args({64, 256})->Args({256, 64});

void attention(benchmark::State& state) {
  Shard s;
  const auto qkv = s.random(tokens, 192);
  auto p = s.random(tokens, 2 * el::Cpu::Lane::key_columns(50));
  auto y = s.random(tokens, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, state.range(0) != 0 ? 0.5 : 0.0);
  for (auto _ : state) {
    s.lane.attention(s.batch.view(), 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), y.view());
  }
  flops(state, 4.0 * tokens * 50 * 64);
}
BENCHMARK(attention)->ArgName("dropout")->Arg(0)->Arg(1);

void attention_backward(benchmark::State& state) {
  Shard s;
  const auto qkv = s.random(tokens, 192);
  const auto p = s.random(tokens, 2 * el::Cpu::Lane::key_columns(50));
  const auto dy = s.random(tokens, 64);
  auto dqkv = s.random(tokens, 192);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  for (auto _ : state) {
    s.lane.attention_backward(s.batch.view(), 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), dy.view(),
                              dqkv.view());
  }
  flops(state, 8.0 * tokens * 50 * 64);
}
BENCHMARK(attention_backward);

void layer_norm(benchmark::State& state) {
  Shard s;
  const auto x = s.random(tokens, 64);
  const auto gamma = s.random(1, 64);
  auto hat = s.random(tokens, 64);
  auto rstd = s.random(1, tokens);
  auto y = s.random(tokens, 64);
  for (auto _ : state) {
    s.lane.layer_norm(x.view(), gamma.view(), gamma.view(), 1e-12F, hat.view(), rstd.view(), y.view());
  }
  elements(state, tokens * 64);
}
BENCHMARK(layer_norm);

void gelu(benchmark::State& state) {
  Shard s;
  const auto x = s.random(tokens, 256);
  auto y = s.random(tokens, 256);
  for (auto _ : state) {
    s.lane.gelu(x.view(), y.view());
  }
  elements(state, tokens * 256);
}
BENCHMARK(gelu);

void dropout(benchmark::State& state) {
  Shard s;
  auto x = s.random(tokens, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  for (auto _ : state) {
    s.lane.dropout(s.batch.view(), mask, x.view());
  }
  elements(state, tokens * 64);
}
BENCHMARK(dropout);

void nearest_center(benchmark::State& state) {
  Shard s;
  const auto x = s.random(tokens, 64);
  const auto centers = s.random(state.range(0), 64);
  std::vector<std::int32_t> ids(tokens);
  for (auto _ : state) {
    s.lane.nearest(x.view(), centers.view(), ids);
  }
  flops(state, 2.0 * tokens * 64 * static_cast<double>(state.range(0)));
}
BENCHMARK(nearest_center)->Arg(256)->Arg(512);

/// One query against a whole catalogue, by element type: reading the table is the bound.
template <class Element>
void top_20(benchmark::State& state) {
  const Index items = state.range(0);
  Shard s;
  const auto query = s.random(1, 64);
  std::vector<Element> table;
  table.reserve(static_cast<std::size_t>(items * 64));
  el::RandomEngine random({1, 2, 3});
  for (Index i = 0; i < items * 64; ++i) {
    table.push_back(static_cast<Element>(static_cast<float>(random.uniform() - 0.5)));
  }
  std::vector<el::ItemId> best(20);
  auto scores = s.random(1, 20);
  el::Index found = 0;
  const std::vector<std::int32_t> nothing{0, 0};
  const el::RankingRule rule{.first = 1, .last = static_cast<el::ItemId>(items)};
  for (auto _ : state) {
    s.lane.top_k(rule, query.view(), el::MatrixView<const Element>(table.data(), items, 64), nothing, {}, scores.view(),
                 best, {&found, 1});
    benchmark::DoNotOptimize(best.data());
  }
  state.SetBytesProcessed(state.iterations() * items * 64 * static_cast<Index>(sizeof(Element)));
}
BENCHMARK(top_20<float>)->Arg(12101)->Arg(100000)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_20<el::BFloat16>)->Arg(12101)->Arg(100000)->Unit(benchmark::kMicrosecond);

}  // namespace
