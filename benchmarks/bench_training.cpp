// Whole jobs, on synthetic data with Beauty's number of users and items and mean history: training steps of the paper's
// Beauty model (256 users), evaluation, recommendation. Names without a backend are Cpu's.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include "ceilings.hpp"
#include "elcrec/backend/eigen_cpu.hpp"
#include "elcrec/elcrec.hpp"

namespace el = elcrec;
using el::Index;

namespace {

using el::EigenCpu;

/// f<el::Cpu> by its name alone and f<EigenCpu> beside it, both with what follows.
#define ELCREC_ON_BOTH(f, ...)                               \
  BENCHMARK(f<EigenCpu>)->Name(#f "<EigenCpu>") __VA_ARGS__; \
  BENCHMARK(f<el::Cpu>)->Name(#f) __VA_ARGS__

template <class B>
using Model = el::ELCRec<B>;
constexpr Index batch_size = 256;

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

/// The most that this process has had resident, in MB: of one benchmark only if it runs alone.
double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

/// A model in the middle of training.
template <class B>
class Training {
 public:
  Training(const el::ELCRecOptions& o, const el::Adam& adam, Index threads, const el::LeaveOneOut& data = split())
      : data_(data),
        model_(o, B({.threads = threads})),
        pass_(model_),
        parameters_(el::parameters(model_)),
        adam_(adam, model_.backend(), parameters_),
        negatives_(data.dataset()),
        users_(batch_size) {
    std::iota(users_.begin(), users_.end(), Index{0});
  }

  void step() {
    batches_.build(model_, {&data_, &negatives_, 1, step_}, users_);
    pass_.run(batches_, 1, step_++);
    const auto gradients = pass_.gradients();
    adam_.step(model_.backend(), parameters_, gradients, 1.0);
  }

 private:
  const el::LeaveOneOut& data_;
  Model<B> model_;
  el::TrainingPass<Model<B>> pass_;
  el::StepBatches<Model<B>> batches_;
  std::vector<el::Parameter<float>> parameters_;
  el::Adam::State<B> adam_;
  el::UniformNegativeSampler negatives_;
  std::vector<Index> users_;
  std::uint32_t step_ = 0;
};

template <class B>
void run_steps(benchmark::State& state, Training<B>&& training) {
  training.step();  // memory grows in the first
  for (auto _ : state) {
    training.step();
  }
  state.SetItemsProcessed(state.iterations() * batch_size);
  state.counters["resident_MB"] = el::resident_megabytes();
  state.counters["peak_MB"] = peak_megabytes();
}

template <class B>
void training_step(benchmark::State& state) {
  auto o = options(state.range(0) != 0 ? el::Padding::paper : el::Padding::masked);
  o.share_views = state.range(1) != 0;
  run_steps(state, Training<B>(o, {}, state.range(2)));
  if (state.range(0) != 0) {
    // The products alone: the layer over every token three times (forward, inputs, weights), attention included, and
    // the sequence contrast: half of the similarities, their gradient, the nearest centers.
    const double passes = o.share_views ? 3 : 5;
    const double encoder = 3 * passes * batch_size * 50 * (2.0 * 12 * 64 * 64 + 4.0 * 50 * 64);
    const double contrast = 2.0 * batch_size * 50 * 64 * (3.0 * 2 * batch_size + 2.0 * 256);
    ceilings::flops(state, encoder + contrast, static_cast<double>(state.range(2)));
  }
}
ELCREC_ON_BOTH(training_step, ->ArgNames({"padded", "share_views", "threads"})
                                  ->ArgsProduct({{0, 1}, {0, 1}, {1, 2}})
                                  ->Unit(benchmark::kMillisecond)
                                  ->UseRealTime());

/// The full-softmax objective alone: its share of the GEMM ceiling is FLOP/s against gemm_ceiling's.
template <class B>
void softmax_step(benchmark::State& state) {
  auto o = options(el::Padding::masked);
  o.objective = el::NextItemLoss::softmax;
  o.sequence_weight = o.intent_weight = o.trade_off = 0;
  run_steps(state, Training<B>(o, {}, state.range(0)));
  Index targets = 0;
  for (Index user = 0; user < batch_size; ++user) {
    targets += std::min<Index>(o.max_length, el::ssize(split().input(user, el::Split::train)));
  }
  const double flops = static_cast<double>(targets) * 64 * (6.0 * static_cast<double>(o.items + 1) + 3 * 2 * 12 * 64);
  ceilings::flops(state, flops, static_cast<double>(state.range(0)));
}
ELCREC_ON_BOTH(softmax_step, ->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime());

/// A sampled loss and lazy Adam: the step must not grow with the catalogue.
template <class B>
void lazy_step(benchmark::State& state) {
  const Index items = state.range(0);
  auto o = options(el::Padding::masked);
  o.items = items;
  // The histories of one batch of users, on items that are spread over the catalogue.
  const auto spread = static_cast<el::ItemId>(items / split().item_count());
  std::vector<std::int64_t> users;
  std::vector<Index> offsets{0};
  std::vector<el::ItemId> history;
  for (Index user = 0; user < batch_size; ++user) {
    for (const el::ItemId item : split().items(user)) {
      history.push_back(item * spread);
    }
    users.push_back(user);
    offsets.push_back(static_cast<Index>(history.size()));
  }
  std::vector<std::int64_t> names(static_cast<std::size_t>(items));
  std::iota(names.begin(), names.end(), 1);
  const auto data = el::leave_one_out(el::SequenceDataset(users, offsets, history, el::ItemMap(names)));
  run_steps(state, Training<B>(o, {.lazy = true}, state.range(1), data));
}
ELCREC_ON_BOTH(lazy_step, ->ArgNames({"items", "threads"})
                              ->ArgsProduct({{12101, 200000, 2000000}, {1, 2}})
                              ->Unit(benchmark::kMillisecond)
                              ->UseRealTime());

template <class B>
void evaluation(benchmark::State& state) {
  const Model<B> model(options(el::Padding::masked), B({.threads = state.range(0)}));
  for (auto _ : state) {
    benchmark::DoNotOptimize(el::evaluate(model, split(), el::Split::test));
  }
  state.SetItemsProcessed(state.iterations() * split().user_count());
}
ELCREC_ON_BOTH(evaluation, ->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime());

/// How long single calls took, in microseconds.
class CallTimes {
 public:
  template <class F>
  void operator()(F call) {
    const auto began = Clock::now();
    call();
    times_.push_back(std::chrono::duration<double, std::micro>(Clock::now() - began).count());
  }
  double quantile(double q) {
    const auto at = times_.begin() + static_cast<std::ptrdiff_t>(q * static_cast<double>(times_.size()));
    std::nth_element(times_.begin(), at, times_.end());
    return *at;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::vector<double> times_;
};

/// One user a call on one thread: the mean, and the median and 99th percentile of single calls.
template <class B>
void recommend_20(benchmark::State& state) {
  const Model<B> model(options(el::Padding::masked), B({.threads = 1}));
  const el::Recommender recommender(model, state.range(0) != 0 ? el::ScoreTable::compact : el::ScoreTable::model);
  typename el::Recommender<Model<B>>::Scratch scratch;
  CallTimes timed;
  Index user = 0;
  for (auto _ : state) {
    timed([&] { benchmark::DoNotOptimize(recommender.recommend(split().items(user), 20, scratch)); });
    user = (user + 1) % split().user_count();
  }
  state.counters["median_us"] = timed.quantile(0.5);
  state.counters["p99_us"] = timed.quantile(0.99);
}
ELCREC_ON_BOTH(recommend_20, ->ArgName("compact")->Arg(0)->Arg(1)->Unit(benchmark::kMicrosecond));

/// Many users a call: the mean, and users a second by the median of single calls.
template <class B>
void recommend_batch(benchmark::State& state) {
  const Model<B> model(options(el::Padding::masked), B({.threads = state.range(1)}));
  const el::Recommender recommender(model, state.range(0) != 0 ? el::ScoreTable::compact : el::ScoreTable::model);
  typename el::Recommender<Model<B>>::BatchScratch scratch;
  std::vector<std::span<const el::ItemId>> histories;
  CallTimes timed;
  Index user = 0;
  for (auto _ : state) {
    histories.clear();
    for (Index i = 0; i < batch_size; ++i) {
      histories.push_back(split().items(user));
      user = (user + 1) % split().user_count();
    }
    timed([&] { recommender.recommend_batch(histories, 20, scratch); });
    benchmark::DoNotOptimize(scratch.of(0));
  }
  state.SetItemsProcessed(state.iterations() * batch_size);
  state.counters["users_per_s"] = batch_size * 1e6 / timed.quantile(0.5);
}
ELCREC_ON_BOTH(recommend_batch, ->ArgNames({"compact", "threads"})
                                    ->ArgsProduct({{0, 1}, {1, 2}})
                                    ->Unit(benchmark::kMillisecond)
                                    ->UseRealTime());

/// Exact best 20 among a million items for one query on one thread.
template <class Element>
void top_20_million(benchmark::State& state) {
  constexpr Index items = 1000000;
  el::Cpu::Lane lane;
  el::RandomEngine random({1, 2, 3});
  std::vector<Element> table;
  table.reserve(static_cast<std::size_t>(items * 64));
  for (Index i = 0; i < items * 64; ++i) {
    table.push_back(static_cast<Element>(static_cast<float>(random.uniform() - 0.5)));
  }
  std::vector<float> query(64);
  std::generate(query.begin(), query.end(), [&] { return static_cast<float>(random.uniform() - 0.5); });
  std::vector<float> scores(20);
  std::vector<el::ItemId> best(20);
  Index found = 0;
  const std::vector<std::int32_t> nothing_seen{0, 0};
  const el::RankingRule rule{.first = 0, .last = static_cast<el::ItemId>(items)};
  for (auto _ : state) {
    top_k(lane, rule, {query.data(), 1, 64}, el::MatrixView<const Element>(table.data(), items, 64), nothing_seen, {},
          {scores.data(), 1, 20}, best, {&found, 1});
    benchmark::DoNotOptimize(best.data());
  }
  ceilings::bytes(state, static_cast<double>(items) * 64 * sizeof(Element));
}
/// The same by way of an index, whose bytes are what is read.
void top_20_million_index(benchmark::State& state) {
  constexpr Index items = 1000000;
  el::Cpu::Lane lane;
  el::RandomEngine random({1, 2, 3});
  std::vector<float> table(static_cast<std::size_t>(items * 64));
  std::generate(table.begin(), table.end(), [&] { return static_cast<float>(random.uniform() - 0.5); });
  std::vector<float> query(64);
  std::generate(query.begin(), query.end(), [&] { return static_cast<float>(random.uniform() - 0.5); });
  const el::MatrixView<const float> view(table.data(), items, 64);
  const el::ItemIndex<float> index(view);
  std::vector<float> scores(20);
  std::vector<el::ItemId> best(20);
  Index found = 0;
  const std::vector<std::int32_t> nothing_seen{0, 0};
  const el::RankingRule rule{.first = 0, .last = static_cast<el::ItemId>(items)};
  for (auto _ : state) {
    top_k(lane, rule, {query.data(), 1, 64}, view, index, nothing_seen, {}, {scores.data(), 1, 20}, best, {&found, 1});
    benchmark::DoNotOptimize(best.data());
  }
  ceilings::bytes(state, static_cast<double>(index.size()));
}
BENCHMARK(top_20_million_index)->Unit(benchmark::kMillisecond);
BENCHMARK(top_20_million<float>)->Name("top_20_million/bf16:0")->Unit(benchmark::kMillisecond);
BENCHMARK(top_20_million<el::BFloat16>)->Name("top_20_million/bf16:1")->Unit(benchmark::kMillisecond);

}  // namespace
