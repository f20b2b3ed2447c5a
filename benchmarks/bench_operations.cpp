// The operations of the backends in host memory side by side, on one thread, at the sizes that the paper's models give
// them. A shard is 250 tokens (five padded sequences of 50), hidden size 64.
#include <numeric>
#include <type_traits>
#include <vector>

#include <benchmark/benchmark.h>

#include "ceilings.hpp"
#include "elcrec/backend/eigen_cpu.hpp"
#include "elcrec/elcrec.hpp"

namespace el = elcrec;
using el::Index;

namespace {

using Reference = el::BasicReference<float>;
using el::Cpu;
using el::EigenCpu;

/// name<Backend> on each backend, with what follows: arguments, unit.
#define ELCREC_ON_EVERY_BACKEND(name, ...)                           \
  BENCHMARK(name<Reference>)->Name(#name "<Reference>") __VA_ARGS__; \
  ELCREC_ON_VECTOR_BACKENDS(name, __VA_ARGS__)
/// The same without plain loops, where they would take seconds.
#define ELCREC_ON_VECTOR_BACKENDS(name, ...)                       \
  BENCHMARK(name<EigenCpu>)->Name(#name "<EigenCpu>") __VA_ARGS__; \
  BENCHMARK(name<Cpu>)->Name(#name "<Cpu>") __VA_ARGS__

constexpr Index tokens = 250;

template <class B>
B one_thread() {
  if constexpr (std::is_constructible_v<B, el::CpuOptions>) {
    return B(el::CpuOptions{.threads = 1});
  } else {
    return B();
  }
}

template <class B>
struct Shard {
  B backend = one_thread<B>();
  typename B::Lane lane;
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
  [[nodiscard]] el::Matrix<B> random(Index rows, Index cols) const {
    el::Matrix<B> m(backend, rows, cols);
    el::initialise_normal(backend, 1, static_cast<std::uint32_t>(rows + cols), 0.3, m.view());
    return m;
  }
};

using ceilings::bytes;
using ceilings::flops;

/// Reads and writes of elementwise work on `count` floats, `arrays` of them.
void floats(benchmark::State& state, Index count, int arrays) {
  bytes(state, static_cast<double>(count) * arrays * static_cast<double>(sizeof(float)));
}

/// One of the products that give the ceiling.
template <class B>
void gemm_512(benchmark::State& state) {
  Shard<B> s;
  const auto a = s.random(512, 512);
  const auto b = s.random(512, 512);
  auto y = s.random(512, 512);
  for (auto _ : state) {
    s.lane.multiply_nn(a.view(), b.view(), y.view(), el::Write::replace);
  }
  flops(state, 2.0 * 512 * 512 * 512);
}
ELCREC_ON_EVERY_BACKEND(gemm_512, );

template <class B>
void linear(benchmark::State& state) {
  Shard<B> s;
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
ELCREC_ON_EVERY_BACKEND(linear, ->Args({64, 64})->Args({64, 192})->Args({64, 256})->Args({256, 64}));

template <class B>
void weight_gradient(benchmark::State& state) {
  Shard<B> s;
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
ELCREC_ON_EVERY_BACKEND(weight_gradient, ->Args({64, 192})->Args({64, 256})->Args({256, 64}));

template <class B>
void attention(benchmark::State& state) {
  Shard<B> s;
  const auto qkv = s.random(tokens, 192);
  auto p = s.random(tokens, 2 * B::Lane::key_columns(50));
  auto y = s.random(tokens, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, state.range(0) != 0 ? 0.5 : 0.0);
  for (auto _ : state) {
    attention(s.lane, s.batch.view(), 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), y.view());
  }
  flops(state, 4.0 * tokens * 50 * 64);
}
ELCREC_ON_EVERY_BACKEND(attention, ->ArgName("dropout")->Arg(0)->Arg(1));

template <class B>
void attention_backward(benchmark::State& state) {
  Shard<B> s;
  const auto qkv = s.random(tokens, 192);
  const auto p = s.random(tokens, 2 * B::Lane::key_columns(50));
  const auto dy = s.random(tokens, 64);
  auto dqkv = s.random(tokens, 192);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  for (auto _ : state) {
    attention_backward(s.lane, s.batch.view(), 2, el::AttentionMask::causal, mask, qkv.view(), p.view(), dy.view(),
                       dqkv.view());
  }
  flops(state, 8.0 * tokens * 50 * 64);
}
ELCREC_ON_EVERY_BACKEND(attention_backward, );

template <class B>
void layer_norm(benchmark::State& state) {
  Shard<B> s;
  const auto x = s.random(tokens, 64);
  const auto gamma = s.random(1, 64);
  auto hat = s.random(tokens, 64);
  auto rstd = s.random(1, tokens);
  auto y = s.random(tokens, 64);
  for (auto _ : state) {
    layer_norm(s.lane, x.view(), gamma.view(), gamma.view(), 1e-12F, hat.view(), rstd.view(), y.view());
  }
  floats(state, tokens * 64, 3);
}
ELCREC_ON_EVERY_BACKEND(layer_norm, );

template <class B>
void add_norm(benchmark::State& state) {
  Shard<B> s;
  const auto x = s.random(tokens, 64);
  const auto residual = s.random(tokens, 64);
  const auto gamma = s.random(1, 64);
  auto hat = s.random(tokens, 64);
  auto rstd = s.random(1, tokens);
  auto y = s.random(tokens, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  for (auto _ : state) {
    add_norm(s.lane, s.batch.view(), mask, x.view(), gamma.view(), residual.view(), gamma.view(), gamma.view(), 1e-12F,
             hat.view(), rstd.view(), y.view());
  }
  floats(state, tokens * 64, 4);
}
ELCREC_ON_EVERY_BACKEND(add_norm, );

template <class B>
void add_norm_backward(benchmark::State& state) {
  Shard<B> s;
  const auto hat = s.random(tokens, 64);
  const auto rstd = s.random(1, tokens);
  const auto gamma = s.random(1, 64);
  const auto dy = s.random(tokens, 64);
  auto ds = s.random(tokens, 64);
  auto dx = s.random(tokens, 64);
  auto sums = s.random(3, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  const auto sum = [&](Index i) { return sums.view().slice_rows(i, i + 1); };
  for (auto _ : state) {
    add_norm_backward(s.lane, s.batch.view(), mask, hat.view(), rstd.view(), gamma.view(), dy.view(), ds.view(),
                      dx.view(), sum(0), sum(1), sum(2));
  }
  floats(state, tokens * 64, 4);
}
ELCREC_ON_EVERY_BACKEND(add_norm_backward, );

template <class B>
void bias_gelu(benchmark::State& state) {
  Shard<B> s;
  const auto x = s.random(tokens, 256);
  const auto b = s.random(1, 256);
  auto y = s.random(tokens, 256);
  for (auto _ : state) {
    bias_gelu(s.lane, x.view(), b.view(), y.view());
  }
  floats(state, tokens * 256, 2);
}
ELCREC_ON_EVERY_BACKEND(bias_gelu, );

template <class B>
void dropout(benchmark::State& state) {
  Shard<B> s;
  auto x = s.random(tokens, 64);
  const el::DropoutMask mask(el::RandomStream{1, 2, 3}, 0.5);
  for (auto _ : state) {
    dropout(s.lane, s.batch.view(), mask, x.view());
  }
  floats(state, tokens * 64, 2);
}
ELCREC_ON_EVERY_BACKEND(dropout, );

template <class B>
void nearest_center(benchmark::State& state) {
  Shard<B> s;
  const auto x = s.random(tokens, 64);
  const auto centers = s.random(state.range(0), 64);
  std::vector<std::int32_t> ids(tokens);
  for (auto _ : state) {
    nearest_rows(s.lane, x.view(), centers.view(), ids);
  }
  flops(state, 2.0 * tokens * 64 * static_cast<double>(state.range(0)));
}
ELCREC_ON_EVERY_BACKEND(nearest_center, ->Arg(256)->Arg(1 << 12));
ELCREC_ON_VECTOR_BACKENDS(nearest_center, ->Arg(1 << 15)->Arg(1 << 18));

/// The closed form with its gradient, 256 users: linear in K, in memory too.
template <class B>
void cluster_loss(benchmark::State& state) {
  Shard<B> s;
  const Index k = state.range(0);
  const auto h = s.random(256, 64);
  const auto centers = s.random(k, 64);
  auto dh = s.random(256, 64);
  auto dc = s.random(k, 64);
  double loss = 0;
  for (auto _ : state) {
    el::cluster_loss(s.lane, h.view(), centers.view(), el::CenterPairs::all, 1.0, &loss, dh.view(), dc.view());
    benchmark::DoNotOptimize(loss);
  }
  floats(state, (256 + k) * 64, 3);
  state.counters["ns_per_center"] = benchmark::Counter(
      static_cast<double>(k) * 1e-9, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  state.counters["workspace_KB"] = static_cast<double>(s.lane.workspace().capacity()) / 1024;
}
ELCREC_ON_EVERY_BACKEND(
    cluster_loss, ->RangeMultiplier(8)->Range(256, 1 << 18)->Arg(1 << 20)->Unit(benchmark::kMicrosecond));

/// Both views of 256 users: the sequence level at 50 padded positions, and the intent level at one.
template <class B>
void info_nce(benchmark::State& state) {
  Shard<B> s;
  const Index samples = 512;
  const Index positions = state.range(0);
  const auto z = s.random(samples * positions, 64);
  auto dz = s.random(samples * positions, 64);
  auto memory = s.backend.make_workspace();
  auto index = el::GramIndex::rows(samples);
  index.positions = positions;
  double loss = 0;
  for (auto _ : state) {
    el::info_nce(s.backend, memory, index, z.view(), {}, {}, &loss, dz.view());
    benchmark::DoNotOptimize(loss);
  }
  // Half of the similarities and the whole of the gradient.
  flops(state, 3.0 * static_cast<double>(samples * samples * positions) * 64);
}
ELCREC_ON_EVERY_BACKEND(info_nce, ->ArgName("positions")->Arg(1)->Unit(benchmark::kMicrosecond));
ELCREC_ON_VECTOR_BACKENDS(info_nce, ->ArgName("positions")->Arg(50)->Unit(benchmark::kMicrosecond));

template <class B>
void exponentials(benchmark::State& state) {
  Shard<B> s;
  const auto fresh = s.random(320, 256);
  auto logits = s.random(320, 256);
  auto largest = s.random(1, 320);
  auto sums = s.random(1, 320);
  for (auto _ : state) {
    s.lane.copy(fresh.view(), logits.view());
    exponentials(s.lane, logits.view(), largest.view(), sums.view());
  }
  floats(state, 320 * 256, 4);
}
ELCREC_ON_EVERY_BACKEND(exponentials, ->Unit(benchmark::kMicrosecond));

template <class B>
void adam(benchmark::State& state) {
  Shard<B> s;
  const Index n = state.range(0);
  auto p = s.random(1, n);
  const auto g = s.random(1, n);
  el::Matrix<B> m(s.backend, 1, n);
  el::Matrix<B> v(s.backend, 1, n);
  const el::AdamStep step{
      .rate = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .correction1 = 0.1, .correction2 = 0.001};
  const el::AdamSlot<float> slot{p.view().flat(), g.view().flat(), m.view().flat(), v.view().flat()};
  for (auto _ : state) {
    adam(s.lane, step, std::span(&slot, 1), 0, n);
  }
  floats(state, n, 7);
}
ELCREC_ON_EVERY_BACKEND(adam, ->Arg(1 << 14)->Arg(12103 * 64)->Unit(benchmark::kMicrosecond));

/// One layer of the encoder over a shard, with dropout; the backward pass gets what the forward pass kept.
template <class B>
void encoder(benchmark::State& state) {
  using Encoder = el::TransformerEncoder<el::Dynamic, B>;
  Shard<B> s;
  const Encoder encoder(s.backend, {.hidden = 64, .layers = 1});
  Encoder gradient = encoder;
  const auto table = s.random(1001, 64);
  auto y = s.random(tokens, 64);
  auto dy = s.random(tokens, 64);
  auto dembedded = s.random(tokens, 64);
  auto memory = s.backend.make_workspace();
  typename Encoder::Cache cache;
  const el::Pass<B> pass{s.lane, memory, {.seed = 1, .training = true}};
  const bool backward = state.range(0) != 0;
  encoder.forward(pass, s.batch.view(), table.view(), cache, y.view());
  for (auto _ : state) {
    if (backward) {
      encoder.backward(pass, s.batch.view(), cache, dy.view(), gradient, dembedded.view());
    } else {
      memory.clear();
      encoder.forward(pass, s.batch.view(), table.view(), cache, y.view());
    }
  }
  state.SetItemsProcessed(state.iterations() * tokens);
  const double forward_flops = 2.0 * tokens * (12 * 64 * 64 + 2 * 50 * 64);
  flops(state, backward ? 2 * forward_flops : forward_flops);
}
ELCREC_ON_EVERY_BACKEND(encoder, ->ArgName("backward")->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond));

/// One query against a whole catalogue, by element type: reading the table is the bound.
template <class B, class Element>
void top_20_of(benchmark::State& state) {
  const Index items = state.range(0);
  Shard<B> s;
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
    top_k(s.lane, rule, query.view(), el::MatrixView<const Element>(table.data(), items, 64), nothing, {},
          scores.view(), best, {&found, 1});
    benchmark::DoNotOptimize(best.data());
  }
  bytes(state, static_cast<double>(items) * 64 * sizeof(Element));
}
template <class B>
void top_20_bfloat16(benchmark::State& state) {
  top_20_of<B, el::BFloat16>(state);
}
template <class B>
void top_20(benchmark::State& state) {
  top_20_of<B, float>(state);
}
ELCREC_ON_EVERY_BACKEND(top_20, ->Arg(12101)->Arg(100000)->Unit(benchmark::kMicrosecond));
ELCREC_ON_EVERY_BACKEND(top_20_bfloat16, ->Arg(12101)->Arg(100000)->Unit(benchmark::kMicrosecond));

}  // namespace
