// Models on EigenCpu: the same bits for any number of threads, what Cpu gives but for rounding, and no allocation.
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include <doctest/doctest.h>

#include "count_allocations.hpp"
#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/eigen_cpu.hpp"
#include "elcrec/data/synthetic.hpp"
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/nn/clone.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/serve/recommender.hpp"
#include "elcrec/train/trainer.hpp"
#include "support.hpp"

namespace el = elcrec;
using el::Index;

namespace {

const el::LeaveOneOut& split() {
  static const auto data =
      el::leave_one_out(el::make_synthetic({.users = 150, .items = 300, .intents = 4, .mean_length = 9}).data);
  return data;
}

template <class B>
struct Trained {
  el::ELCRec<B> model;
  std::vector<double> losses;

  Trained(el::Padding padding, el::NextItemLoss objective, Index threads)
      : model(options(padding, objective), B({.threads = threads})) {
    el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, {.epochs = 3, .batch_size = 32, .seed = 5},
                        el::KMeansStart({.iterations = 3, .restarts = 2}));
    trainer.fit(split(), [&](const el::EpochReport& report) { losses.push_back(report.losses.total); });
  }

  static el::ELCRecOptions options(el::Padding padding, el::NextItemLoss objective) {
    el::ELCRecOptions o;
    o.items = split().item_count();
    o.max_length = 12;
    o.hidden = 16;
    o.layers = 2;
    o.intents = 4;
    o.padding = padding;
    o.objective = objective;
    return o;
  }

  [[nodiscard]] std::vector<float> weights() const {
    std::vector<float> all;
    for (const auto& p : el::parameters(model)) {
      all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
    }
    return all;
  }
};

std::vector<Index> ranks(const el::ELCRec<el::EigenCpu>& model) {
  const auto metrics = el::evaluate(model, split(), el::Split::test);
  return {metrics.ranks().begin(), metrics.ranks().end()};
}

constexpr el::Padding paddings[] = {el::Padding::masked, el::Padding::paper};
constexpr el::NextItemLoss objectives[] = {el::NextItemLoss::bce, el::NextItemLoss::softmax};

}  // namespace

TEST_CASE("training on EigenCpu: the same bits for one, two and three threads") {
  for (std::size_t i = 0; i < 2; ++i) {
    CAPTURE(i);
    const Trained<el::EigenCpu> one(paddings[i], objectives[i], 1);
    for (const Index threads : {2, 3}) {
      const Trained<el::EigenCpu> more(paddings[i], objectives[i], threads);
      CHECK(more.weights() == one.weights());
      CHECK(more.losses == one.losses);
      CHECK(ranks(more.model) == ranks(one.model));
    }
  }
}

TEST_CASE("training on EigenCpu takes Cpu's course") {
  for (std::size_t i = 0; i < 2; ++i) {
    CAPTURE(i);
    const Trained<el::EigenCpu> found(paddings[i], objectives[i], 2);
    const Trained<el::Cpu> expected(paddings[i], objectives[i], 2);
    REQUIRE(found.losses.size() == expected.losses.size());
    for (std::size_t epoch = 0; epoch < found.losses.size(); ++epoch) {
      CHECK(found.losses[epoch] == doctest::Approx(expected.losses[epoch]).epsilon(1e-3));
    }
    CHECK(found.losses.back() < found.losses.front());
    CHECK(el::evaluate(found.model, split(), el::Split::test).ndcg(20) ==
          doctest::Approx(el::evaluate(expected.model, split(), el::Split::test).ndcg(20)).epsilon(0.02));
  }
}

TEST_CASE("recommending on EigenCpu allocates nothing after warm-up, and a batch gets the answers of its users") {
  const Trained<el::EigenCpu> trained(el::Padding::masked, el::NextItemLoss::bce, 1);
  using Recommender = el::Recommender<el::ELCRec<el::EigenCpu>>;
  const Recommender recommender(trained.model);
  Recommender::Scratch scratch;
  Recommender::BatchScratch batch;
  std::vector<el::ItemId> longest(static_cast<std::size_t>(split().item_count()));
  std::iota(longest.begin(), longest.end(), 1);
  std::vector<std::span<const el::ItemId>> histories;
  for (Index user = 0; user < split().user_count(); ++user) {
    histories.push_back(split().items(user));
  }
  (void)recommender.recommend(longest, 20, scratch);
  (void)recommender.intent(longest, scratch);
  recommender.recommend_batch(histories, 20, batch);

  const long before = el::test::allocations;
  double difference = 0;
  recommender.recommend_batch(histories, 20, batch);
  for (Index user = 0; user < split().user_count(); ++user) {
    (void)recommender.intent(split().items(user), scratch);
    const auto alone = recommender.recommend(split().items(user), 20, scratch);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      difference = std::fmax(difference, std::abs(alone[i].score - batch.of(user)[i].score));
    }
  }
  CHECK(el::test::allocations.load() == before);
  CHECK(difference < 1e-5);
}

TEST_CASE("what Cpu trained is cloned to EigenCpu and served there") {
  const Trained<el::Cpu> trained(el::Padding::masked, el::NextItemLoss::softmax, 2);
  const auto clone = el::clone(trained.model, el::EigenCpu({.threads = 2}));
  const el::Recommender expected(trained.model);
  const el::Recommender found(clone);
  auto expected_scratch = expected.make_scratch();
  auto scratch = found.make_scratch();
  for (Index user = 0; user < split().user_count(); ++user) {
    const auto wanted = expected.recommend(split().items(user), 10, expected_scratch);
    const auto served = found.recommend(split().items(user), 10, scratch);
    REQUIRE(served.size() == 10);
    for (std::size_t i = 0; i < 10; ++i) {
      CHECK(served[i].score == doctest::Approx(wanted[i].score).epsilon(1e-4));
    }
    CHECK(found.intent(split().items(user), scratch).distance ==
          doctest::Approx(expected.intent(split().items(user), expected_scratch).distance).epsilon(1e-4));
  }
}

TEST_CASE("equal items are recommended by their ids, for one query and for many") {
  const el::EigenCpu backend({.threads = 1});
  constexpr Index items = 1500;
  constexpr Index d = 33;
  constexpr Index k = 700;
  const auto row = el::test::random_values(4, d);
  std::vector<float> table;
  for (Index v = 0; v < items; ++v) {
    table.insert(table.end(), row.begin(), row.end());
  }
  std::vector<el::ItemId> expected(static_cast<std::size_t>(k));
  std::iota(expected.begin(), expected.end(), 1);
  for (const Index users : {1, 3, 4, 7, 9}) {
    CAPTURE(users);
    const auto queries = el::test::random_matrix(backend, 3, users, d);
    const std::vector<std::int32_t> offsets(static_cast<std::size_t>(users + 1), 0);
    std::vector<float> scores(static_cast<std::size_t>(users * k));
    std::vector<el::ItemId> found(static_cast<std::size_t>(users * k));
    std::vector<Index> counts(static_cast<std::size_t>(users));
    el::EigenCpu::Lane lane;
    top_k(lane, {.first = 1, .last = items}, queries.view(), el::MatrixView<const float>(table.data(), items, d),
          offsets, {}, {scores.data(), users, k}, found, counts);
    for (Index u = 0; u < users; ++u) {
      CHECK(std::vector<el::ItemId>(found.begin() + u * k, found.begin() + (u + 1) * k) == expected);
    }
  }
}
