// One training step of the paper's Beauty model (256 users, five encoder passes) and single-user serving, on synthetic
// data with Beauty's number of items and mean history.
#include <numeric>

#include <benchmark/benchmark.h>

#include "elcrec/elcrec.hpp"

namespace el = elcrec;
using el::Index;

namespace {

const el::LeaveOneOut& split() {
  static const auto data =
      el::leave_one_out(el::make_synthetic({.users = 4000, .items = 12101, .intents = 64, .mean_length = 8.9}).data);
  return data;
}

el::ELCRecOptions options(el::Padding padding, bool share_views) {
  auto o = el::preset("beauty");
  o.items = split().item_count();
  o.padding = padding;
  o.share_views = share_views;
  return o;
}

/// Arguments: padded, share_views, threads.
void training_step(benchmark::State& state) {
  using Model = el::ELCRec<el::Cpu>;
  Model model(options(state.range(0) != 0 ? el::Padding::paper : el::Padding::masked, state.range(1) != 0),
              el::Cpu({.threads = state.range(2)}));
  el::TrainingPass<Model> pass(model);
  el::StepBatches<Model> batches;
  auto parameters = el::parameters(model);
  el::Adam::State<el::Cpu> adam(el::Adam{}, model.backend(), parameters);
  const el::UniformNegativeSampler negatives(split().dataset());
  std::vector<Index> users(256);
  std::iota(users.begin(), users.end(), Index{0});
  std::uint32_t step = 0;
  for (auto _ : state) {
    batches.build(model, {&split(), &negatives, 1, step}, users);
    pass.run(batches, 1, step++);
    const auto gradients = pass.gradients();
    adam.step(model.backend(), parameters, gradients, 1.0);
  }
  state.SetItemsProcessed(state.iterations() * 256);
  state.counters["resident_MB"] = el::resident_megabytes();
}
BENCHMARK(training_step)
    ->ArgNames({"padded", "share_views", "threads"})
    ->ArgsProduct({{0, 1}, {0, 1}, {1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

void evaluation(benchmark::State& state) {
  const el::ELCRec<el::Cpu> model(options(el::Padding::masked, false), el::Cpu({.threads = state.range(0)}));
  for (auto _ : state) {
    benchmark::DoNotOptimize(el::evaluate(model, split(), el::Split::test));
  }
  state.SetItemsProcessed(state.iterations() * split().user_count());
}
BENCHMARK(evaluation)->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

void recommend_20(benchmark::State& state) {
  const el::ELCRec<el::Cpu> model(options(el::Padding::masked, false), el::Cpu({.threads = 1}));
  const el::Recommender recommender(model);
  el::Recommender<el::ELCRec<el::Cpu>>::Scratch scratch;
  Index user = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(recommender.recommend(split().items(user), 20, scratch));
    user = (user + 1) % split().user_count();
  }
}
BENCHMARK(recommend_20)->Unit(benchmark::kMicrosecond);

}  // namespace
