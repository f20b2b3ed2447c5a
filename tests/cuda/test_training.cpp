// Whole jobs on the CUDA backend beside the same on the CPU: steps, a training run, evaluation, recommendation; graphs,
// several devices, threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "../support.hpp"
#include "elcrec/backend/cuda.hpp"
#include "elcrec/elcrec.hpp"
#ifdef ELCREC_CUDA_EMULATION
#include "runtime.hpp"
#endif

namespace el = elcrec;
using el::Index;
using el::test::to_host;

namespace {

using OnCpu = el::ELCRec<el::Cpu>;
using OnCuda = el::ELCRec<el::Cuda>;

const el::LeaveOneOut& split() {
  static const auto data =
      el::leave_one_out(el::make_synthetic({.users = 48, .items = 60, .intents = 4, .mean_length = 7}).data);
  return data;
}

el::ELCRecOptions options(el::Padding padding = el::Padding::masked) {
  el::ELCRecOptions o;
  o.items = split().item_count();
  o.max_length = 8;
  o.hidden = 16;
  o.layers = 2;
  o.intents = 4;
  o.padding = padding;
  return o;
}

el::Cpu cpu() { return el::Cpu({.threads = 1}); }

template <class Model>
std::vector<double> weights(const Model& model) {
  std::vector<double> all;
  for (const auto& p : el::parameters(model)) {
    const auto values = to_host(model.backend(), p.values);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    worst = difference <= worst ? worst : difference;
  }
  return worst;
}

struct Steps {
  std::vector<double> losses;
  std::vector<double> weights;
};

/// Training steps on batches of different sizes, without a trainer around them.
template <class Model>
Steps train(Model& model, int count, const el::Adam& adam) {
  const el::UniformNegativeSampler negatives(split().dataset());
  el::TrainingPass<Model> pass(model);
  el::StepBatches<Model> batches;
  auto parameters = el::parameters(model);
  typename el::Adam::State<typename Model::Backend> state(adam, model.backend(), parameters);
  Steps found;
  for (int step = 0; step < count; ++step) {
    std::vector<Index> users;
    for (Index i = 0; i < 8 + step % 3; ++i) {
      users.push_back((11 * step + 5 * i) % split().user_count());
    }
    const auto at = static_cast<std::uint32_t>(step);
    batches.build(model, {&split(), &negatives, 3, at}, users);
    found.losses.push_back(pass.run(batches, 3, at).total);
    const auto gradients = pass.gradients();
    state.step(model.backend(), parameters, gradients, 1.0);
  }
  found.weights = weights(model);
  return found;
}

void check_close(const Steps& found, const Steps& expected) {
  for (std::size_t i = 0; i < expected.losses.size(); ++i) {
    CHECK(found.losses[i] == doctest::Approx(expected.losses[i]).epsilon(1e-4));
  }
  CHECK(largest_difference(found.weights, expected.weights) < 1e-4);
}

void check_steps(el::ELCRecOptions o, const el::Adam& adam = {.learning_rate = 1e-3}) {
  OnCpu expected(o, cpu());
  OnCuda found(o);
  check_close(train(found, 5, adam), train(expected, 5, adam));
}

/// Gradients that cancel to noise become steps of full size in Adam. A large epsilon keeps noise small.
constexpr el::Adam steady{.learning_rate = 1e-2, .epsilon = 1e-3};

}  // namespace

TEST_CASE("five steps from one seed agree with the CPU's, dropout, views and negatives included") {
  for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
    CAPTURE(padding == el::Padding::paper);
    check_steps(options(padding), steady);
  }
}

TEST_CASE("five steps agree with every other choice of the objectives") {
  auto o = options();
  o.objective = el::NextItemLoss::softmax;
  o.prototype = el::Prototype::concat;
  o.assignment = el::Assignment::nearest;
  o.mask_false_negatives = true;
  o.dropout = 0.3;
  check_steps(o, steady);
  o.objective = el::NextItemLoss::bpr;
  o.pooling = el::Pooling::concat;
  o.share_views = false;
  o.center_pairs = el::CenterPairs::distinct;
  check_steps(o, steady);
}

TEST_CASE("lazy Adam agrees too") {
  auto lazy = steady;
  lazy.lazy = true;
  check_steps(options(), lazy);
}

#ifdef ELCREC_CUDA_EMULATION
TEST_CASE("a step is few launches: it is bound by them on a device") {
  auto o = options();
  o.hidden = 64;
  o.share_views = false;  // the more passes
  OnCuda model(o);
  train(model, 1, {});
  const long before = cuda_emulation::kernels_run();
  train(model, 2, {});
  const long both = cuda_emulation::kernels_run() - before;
  train(model, 1, {});
  const long step = 2 * both - (cuda_emulation::kernels_run() - before);
  MESSAGE("launches of a step: ", step);
  CHECK(step <= 300);
}
#endif

TEST_CASE("the same seed gives the same bits, launched one by one or as a graph, on one device or another") {
  const auto run = [](const el::CudaOptions& cuda) {
    OnCuda model(options(), el::Cuda(cuda));
    return train(model, 6, {});
  };
  const Steps first = run({});
  const auto check_same = [&](const Steps& found) {
    CHECK(found.losses == first.losses);
    CHECK(found.weights == first.weights);
  };
  check_same(run({}));
  check_same(run({.graph = true}));
  int devices = 0;
  REQUIRE(cudaGetDeviceCount(&devices) == cudaSuccess);
  if (devices > 1) {
    // Both at work in turn: nothing of a backend is shared with another.
    OnCuda other(options(), el::Cuda({.device = 1}));
    OnCuda here(options(), el::Cuda({.device = 0}));
    check_same(train(other, 6, {}));
    check_same(train(here, 6, {}));
  }
}

TEST_CASE("a training run learns what the CPU's learns, and both evaluate a model alike") {
  const auto run = [](auto& model) {
    el::Trainer trainer(model, steady, {.epochs = 3, .batch_size = 20, .seed = 5},
                        el::KMeansStart({.iterations = 3, .restarts = 2}));
    std::vector<double> losses;
    std::vector<double> next_item;
    trainer.fit(split(), [&](const el::EpochReport& report) {
      losses.push_back(report.losses.total);
      REQUIRE(report.losses.terms.front().first == "next_item");
      next_item.push_back(report.losses.terms.front().second);
    });
    CHECK(next_item.back() < next_item.front());  // the contrasts' views differ too much from step to step to tell
    return losses;
  };
  OnCpu expected(options(), cpu());
  OnCuda found(options());
  const auto expected_losses = run(expected);
  const auto found_losses = run(found);
  REQUIRE(found_losses.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(found_losses[i] == doctest::Approx(expected_losses[i]).epsilon(1e-3));
  }

  el::copy_parameters(expected.backend(), expected, found.backend(), found);
  for (const auto protocol : {el::Protocol::strict, el::Protocol::paper}) {
    const auto a = el::evaluate(expected, split(), el::Split::test, {.protocol = protocol});
    const auto b = el::evaluate(found, split(), el::Split::test, {.protocol = protocol});
    REQUIRE(b.users() == a.users());
    CHECK(b.hr(10) == a.hr(10));
    CHECK(b.ndcg(20) == doctest::Approx(a.ndcg(20)).epsilon(1e-3));
  }
}

namespace {

/// Two models of the same weights, one on each backend.
struct Pair {
  OnCpu expected{options(), cpu()};
  OnCuda found{options()};

  Pair() {
    train(expected, 5, {.learning_rate = 1e-2});
    el::copy_parameters(expected.backend(), expected, found.backend(), found);
  }
};

void check_same_items(std::span<const el::Recommendation> found, std::span<const el::Recommendation> expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CHECK(found[i].score == doctest::Approx(expected[i].score).epsilon(1e-4));
    CHECK((found[i].item == expected[i].item || std::abs(found[i].score - expected[i].score) < 1e-4F));
  }
}

}  // namespace

TEST_CASE("recommendations and intents are the CPU's, alone and in batches") {
  const Pair models;
  const el::Recommender expected(models.expected);
  auto expected_scratch = expected.make_scratch();
  const el::Recommender found(models.found);
  auto scratch = found.make_scratch();
  for (Index user = 0; user < split().user_count(); user += 6) {
    const auto history = split().items(user);
    for (const bool repeat : {false, true}) {
      check_same_items(found.recommend(history, 7, scratch, repeat),
                       expected.recommend(history, 7, expected_scratch, repeat));
    }
    const auto intent = found.intent(history, scratch);
    const auto expected_intent = expected.intent(history, expected_scratch);
    CHECK(intent.intent == expected_intent.intent);
    CHECK(intent.distance == doctest::Approx(expected_intent.distance).epsilon(1e-4));
    CHECK(intent.runner_up == expected_intent.runner_up);
  }
  std::vector<std::span<const el::ItemId>> histories;
  for (Index user = 0; user < split().user_count(); ++user) {
    histories.push_back(split().items(user));
  }
  decltype(found)::BatchScratch batch;
  found.recommend_batch(histories, 5, batch);
  for (Index user = 0; user < split().user_count(); ++user) {
    check_same_items(batch.of(user), expected.recommend(split().items(user), 5, expected_scratch));
  }
}

TEST_CASE("a snapshot of a model in training stays as it is, on its device, in another context or on the CPU") {
  OnCuda model(options());
  train(model, 5, {.learning_rate = 1e-2});
  const auto before = weights(model);
  const auto names = el::ItemMap::identity(split().item_count());
  const el::Snapshot here(model, names);
  const el::Snapshot beside(el::clone(model, el::Cuda()), names);
  const el::Snapshot on_cpu(el::clone(model, cpu()), names);
  train(model, 2, {.learning_rate = 1e-2});
  CHECK(weights(model) != before);
  CHECK(weights(here.model()) == before);
  CHECK(weights(beside.model()) == before);
  CHECK(weights(on_cpu.model()) == before);

  auto scratch = here.make_scratch();
  auto beside_scratch = beside.make_scratch();
  auto cpu_scratch = on_cpu.make_scratch();
  for (Index user = 0; user < split().user_count(); user += 12) {
    const auto items = split().items(user);
    const std::vector<std::int64_t> history(items.begin(), items.end());
    const auto expected = on_cpu.recommend(history, 7, cpu_scratch, el::UnknownItems::refuse);
    const auto found = here.recommend(history, 7, scratch, el::UnknownItems::refuse);
    const auto found_beside = beside.recommend(history, 7, beside_scratch, el::UnknownItems::refuse);
    REQUIRE(expected.size() == 7);
    REQUIRE(found.size() == 7);
    REQUIRE(found_beside.size() == 7);
    for (std::size_t i = 0; i < 7; ++i) {
      CHECK(found[i].score == doctest::Approx(expected[i].score).epsilon(1e-4));
      CHECK(found_beside[i].name == found[i].name);
      CHECK(found_beside[i].score == found[i].score);
    }
  }
}

TEST_CASE("many threads recommend, each on a stream of its own; nothing is allocated after the first call") {
  const Pair models;
  const el::Recommender recommender(models.found);
  const auto items_of = [&](Index user, auto& scratch) {
    std::vector<el::ItemId> items;
    for (const auto& r : recommender.recommend(split().items(user), 5, scratch)) {
      items.push_back(r.item);
    }
    return items;
  };
  auto one = recommender.make_scratch();
  std::vector<std::vector<el::ItemId>> expected;
  for (Index user = 0; user < 12; ++user) {
    expected.push_back(items_of(user, one));
  }
#ifdef ELCREC_CUDA_EMULATION
  const auto before = cuda_emulation::live_allocations();
  for (Index user = 0; user < 12; ++user) {
    CHECK(items_of(user, one) == expected[static_cast<std::size_t>(user)]);
  }
  CHECK(cuda_emulation::live_allocations() == before);
#endif
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      auto scratch = recommender.make_scratch();
      for (Index user = 0; user < 12; ++user) {
        wrong += items_of(user, scratch) == expected[static_cast<std::size_t>(user)] ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("what the kernels cannot do is an error that says so") {
  auto o = options();
  o.max_length = 300;
  const OnCuda model(o);
  const el::Recommender recommender(model);
  auto scratch = recommender.make_scratch();
  const std::vector<el::ItemId> longest(300, 1);
  CHECK(el::test::error_of([&] { static_cast<void>(recommender.recommend(longest, 5, scratch)); }) ==
        "CUDA attention: found a sequence of 300 tokens, expected at most 256");
}
