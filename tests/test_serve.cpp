// Recommending: against a direct computation, from many threads, without allocating, and with bad input.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "count_allocations.hpp"
#include "elcrec/elcrec.hpp"
#include "support.hpp"

namespace el = elcrec;
using el::Index;
using el::test::error_of;

namespace {

using Model = el::ELCRec<el::Cpu>;

struct Fixture {
  el::LeaveOneOut split =
      el::leave_one_out(el::make_synthetic({.users = 120, .items = 90, .intents = 4, .mean_length = 10}).data);
  Model model = make();
  el::Recommender<Model> recommender{model};

  Model make() const {
    el::ELCRecOptions o;
    o.items = split.item_count();
    o.max_length = 8;
    o.hidden = 16;
    o.intents = 5;
    Model m(o, el::Cpu({.threads = 1}));
    el::Trainer(m, el::Adam{.learning_rate = 3e-3}, {.epochs = 3, .batch_size = 32},
                el::KMeansStart({.iterations = 3, .restarts = 1}))
        .fit(split);
    return m;
  }
};

std::vector<el::ItemId> items_of(std::span<const el::Recommendation> list) {
  std::vector<el::ItemId> items;
  for (const auto& r : list) {
    items.push_back(r.item);
  }
  return items;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "recommendations are the best unseen items, best first") {
  el::Recommender<Model>::Scratch scratch;
  el::Cpu::Lane lane;
  for (Index user = 0; user < split.user_count(); user += 5) {
    const auto history = split.items(user);
    el::TokenBatch batch;
    batch.start(model.max_length(), el::Padding::paper);
    batch.add(history);
    std::vector<float> x(16);
    model.encode_last(lane, batch.view(), {x.data(), 1, 16});
    std::vector<std::pair<double, el::ItemId>> all;
    for (el::ItemId v = 1; v <= split.item_count(); ++v) {
      double s = 0;
      for (Index c = 0; c < 16; ++c) {
        s -= static_cast<double>(x[static_cast<std::size_t>(c)]) * static_cast<double>(model.items()(v, c));
      }
      if (std::find(history.begin(), history.end(), v) == history.end()) {
        all.emplace_back(s, v);
      }
    }
    std::sort(all.begin(), all.end());
    const auto found = recommender.recommend(history, 10, scratch);
    REQUIRE(found.size() == 10);
    for (std::size_t i = 0; i < 10; ++i) {
      CHECK(found[i].score == doctest::Approx(-all[i].first).epsilon(1e-4));
      CHECK((found[i].item == all[i].second || std::abs(all[i].first + static_cast<double>(found[i].score)) < 1e-5));
    }
  }
}

namespace {

/// What is served and evaluated under a head, against scores in plain loops: expected(y, v).
template <class Head>
void check_head(
    const Head& head,
    const std::function<double(std::span<const double> y, std::span<const double> row, el::ItemId v)>& expected) {
  using Headed = el::SequentialModel<el::TransformerEncoder<el::Dynamic, el::Cpu>, Head, el::NextItemSoftmax>;
  constexpr Index d = 16;
  const el::Cpu cpu;
  const auto split = el::leave_one_out(el::make_synthetic({.users = 60, .items = 90}).data);
  const Headed model(cpu, {split.item_count(), 3, 0.5},
                     el::TransformerEncoder<el::Dynamic, el::Cpu>(cpu, {.hidden = d, .layers = 1, .max_length = 9}),
                     head);
  el::Cpu::Lane lane;
  std::vector<Index> ranks;
  std::vector<std::vector<el::ItemId>> best(60);
  for (Index user = 0; user < split.user_count(); ++user) {
    const auto history = split.input(user, el::Split::test);
    el::TokenBatch batch;
    batch.start(9, el::Padding::masked);
    batch.add(history);
    std::vector<float> y(d);
    model.encode_last(lane, batch.view(), {y.data(), 1, d});
    const std::vector<double> query(y.begin(), y.end());
    std::vector<std::pair<double, el::ItemId>> all;
    for (el::ItemId v = 1; v <= split.item_count(); ++v) {
      if (std::ranges::find(history, v) == history.end()) {
        const std::vector<double> row(model.items().row(v), model.items().row(v) + d);
        all.emplace_back(-expected(query, row, v), v);
      }
    }
    std::ranges::sort(all);
    const auto target = std::ranges::find(all, split.target(user, el::Split::test), &std::pair<double, int>::second);
    ranks.push_back(target - all.begin());
    for (std::size_t i = 0; i < 5; ++i) {
      best[static_cast<std::size_t>(user)].push_back(all[i].second);
    }
  }
  el::RankingMetrics metrics({5, 20});
  metrics.add(ranks);
  const auto found = el::evaluate(model, split, el::Split::test, {.cutoffs = {5, 20}});
  CHECK(found.ndcg(20) == doctest::Approx(metrics.ndcg(20)).epsilon(1e-9));
  CHECK(found.hr(5) == metrics.hr(5));
  for (const auto table : {el::ScoreTable::compact, el::ScoreTable::model}) {
    const el::Recommender<Headed> served(model, table);
    typename el::Recommender<Headed>::Scratch scratch;
    for (Index user = 0; user < split.user_count(); ++user) {
      CHECK(items_of(served.recommend(split.input(user, el::Split::test), 5, scratch)) ==
            best[static_cast<std::size_t>(user)]);
    }
  }
}

double dot(std::span<const double> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

TEST_CASE("what a head scores is evaluated and served") {
  const el::Cpu cpu;
  el::DotBiasHead<el::Cpu> biased(cpu, 92);
  el::initialise_normal(cpu, 5, 0, 2.0, biased.bias());
  const std::vector<double> bias(biased.bias().data(), biased.bias().data() + 92);
  check_head(biased, [&](auto y, auto row, el::ItemId v) { return dot(y, row) + bias[static_cast<std::size_t>(v)]; });
  check_head(el::CosineHead<el::Cpu>(0.2),
             [](auto y, auto row, el::ItemId) { return dot(y, row) / std::sqrt(dot(y, y) * dot(row, row)) / 0.2; });
}

TEST_CASE("what was seen is left out, in whatever order and place of a large catalogue it stands") {
  constexpr el::ItemId items = 40000;  // blocks of the table, groups and stretches of the index
  constexpr Index read = 6;
  const el::ELCRec<el::Cpu> large({.items = items, .max_length = read, .hidden = 12, .intents = 2, .seed = 4},
                                  el::Cpu({.threads = 2}));
  el::RandomEngine random({.seed = 8});
  for (const auto table : {el::ScoreTable::compact, el::ScoreTable::model}) {
    const el::Recommender<Model> served(large, table);
    el::Recommender<Model>::Scratch scratch;
    std::vector<std::vector<el::ItemId>> histories;
    std::vector<std::vector<el::ItemId>> expected;
    for (int user = 0; user < 9; ++user) {
      std::vector<el::ItemId> recent;
      for (Index i = 0; i < read; ++i) {
        recent.push_back(static_cast<el::ItemId>(1 + random.below(items)));
      }
      // The best items, in a random order, every second of them before what is read of the history: seen all the same.
      const auto best = items_of(served.recommend(recent, 60, scratch));
      std::vector<el::ItemId> history;
      std::vector<el::ItemId> left;
      for (std::size_t i = 0; i < best.size(); ++i) {
        (i % 2 == 0 ? history : left).push_back(best[i]);
      }
      random.shuffle(std::span(history));
      history.insert(history.end(), recent.begin(), recent.end());
      CHECK(items_of(served.recommend(history, 25, scratch)) ==
            std::vector<el::ItemId>(left.begin(), left.begin() + 25));
      histories.push_back(history);
      left.resize(25);
      expected.push_back(left);
    }
    const std::vector<std::span<const el::ItemId>> views(histories.begin(), histories.end());
    el::Recommender<Model>::BatchScratch batch;
    served.recommend_batch(views, 25, batch);
    for (std::size_t u = 0; u < expected.size(); ++u) {
      CHECK(items_of(batch.of(static_cast<Index>(u))) == expected[u]);
    }
  }
}

TEST_CASE_FIXTURE(Fixture, "evaluation counts what is served, ties included") {
  for (el::ItemId item = 1; item <= split.item_count(); ++item) {  // fifteen items alike, then the next fifteen
    std::copy_n(model.items().row((item - 1) / 15 * 15 + 1), model.hidden(), model.items().row(item));
  }
  for (const auto table : {el::ScoreTable::compact, el::ScoreTable::model}) {
    const el::Recommender<Model> served(model, table);
    el::Recommender<Model>::Scratch scratch;
    Index hits = 0;
    for (Index user = 0; user < split.user_count(); ++user) {
      const auto items = items_of(served.recommend(split.input(user, el::Split::test), 10, scratch));
      hits += std::find(items.begin(), items.end(), split.target(user, el::Split::test)) != items.end() ? 1 : 0;
    }
    CHECK(el::evaluate(model, split, el::Split::test).hr(10) ==
          static_cast<double>(hits) / static_cast<double>(split.user_count()));
  }
}

TEST_CASE_FIXTURE(Fixture, "a batch gets the answers of its users, on any number of threads") {
  el::Recommender<Model>::Scratch scratch;
  std::vector<std::span<const el::ItemId>> histories;
  for (Index user = 0; user < split.user_count(); ++user) {
    histories.push_back(split.items(user));
  }
  for (const bool repeat : {false, true}) {
    for (const Index k : {1, 10, 1000}) {
      el::Recommender<Model>::BatchScratch batch;
      recommender.recommend_batch(histories, k, batch, repeat);
      for (Index user = 0; user < split.user_count(); ++user) {
        const auto alone = recommender.recommend(split.items(user), k, scratch, repeat);
        const auto found = batch.of(user);
        REQUIRE(found.size() == alone.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          CHECK(found[i].score == doctest::Approx(alone[i].score).epsilon(1e-4));
          CHECK((found[i].item == alone[i].item ||
                 std::abs(static_cast<double>(found[i].score - alone[i].score)) < 1e-5));
        }
      }
    }
  }
  el::Recommender<Model>::BatchScratch empty;
  recommender.recommend_batch({}, 5, empty);
  const std::vector<el::ItemId> wrong{91};
  const std::vector<std::span<const el::ItemId>> one{wrong};
  CHECK(error_of([&] { recommender.recommend_batch(one, 5, empty); }) == "history: found item 91, expected 1 to 90");
}

TEST_CASE_FIXTURE(Fixture, "a compact table gives the same answers") {
  // Items in pairs that 8 bits cannot tell apart, so that candidates must be taken beyond the first ones.
  for (el::ItemId v = 2; v <= split.item_count(); v += 2) {
    for (Index c = 0; c < model.hidden(); ++c) {
      model.items()(v, c) = model.items()(v - 1, c) * (1 + 1e-4F * static_cast<float>(v % 5));
    }
  }
  const el::Recommender<Model> plain(model, el::ScoreTable::model);
  const el::Recommender<Model> compact(model, el::ScoreTable::compact);
  el::Recommender<Model>::Scratch scratch;
  el::Recommender<Model>::Scratch compact_scratch;
  for (const Index k : {1, 9, 40, 1000}) {
    for (Index user = 0; user < split.user_count(); ++user) {
      const auto exact = plain.recommend(split.items(user), k, scratch);
      const auto found = compact.recommend(split.items(user), k, compact_scratch);
      REQUIRE(found.size() == exact.size());
      for (std::size_t i = 0; i < exact.size(); ++i) {
        CHECK(found[i].item == exact[i].item);
        CHECK(found[i].score == exact[i].score);
      }
    }
  }
}

TEST_CASE("bfloat16 rounds to nearest, ties to even") {
  const auto round = [](float x) { return static_cast<float>(el::BFloat16(x)); };
  CHECK(round(1.0F) == 1.0F);
  CHECK(round(1.0F + 1.0F / 256) == 1.0F);               // a tie, to even
  CHECK(round(1.0F + 3.0F / 256) == 1.0F + 4.0F / 256);  // a tie, to even
  CHECK(round(1.0F + 1.01F / 256) == 1.0F + 2.0F / 256);
  CHECK(round(-3.140625F) == -3.140625F);
  CHECK(std::isinf(round(3.4e38F)));
  CHECK(std::isinf(round(INFINITY)));
  CHECK(std::isnan(round(std::nanf(""))));
}

TEST_CASE_FIXTURE(Fixture, "repeat lets seen items compete, and k may exceed the catalogue") {
  el::Recommender<Model>::Scratch scratch;
  const std::vector<el::ItemId> history{3, 5, 9};
  auto all = items_of(recommender.recommend(history, 1000, scratch, true));
  CHECK(all.size() == 90);
  auto unseen = items_of(recommender.recommend(history, 1000, scratch));
  CHECK(unseen.size() == 87);
  CHECK(std::find(unseen.begin(), unseen.end(), 5) == unseen.end());
  std::sort(all.begin(), all.end());
  std::vector<el::ItemId> expected(90);
  std::iota(expected.begin(), expected.end(), 1);
  CHECK(all == expected);
}

TEST_CASE_FIXTURE(Fixture, "many threads get the answers of one") {
  std::vector<std::vector<el::ItemId>> expected(static_cast<std::size_t>(split.user_count()));
  std::vector<el::IntentMatch> intents(expected.size());
  el::Recommender<Model>::Scratch one;
  for (Index user = 0; user < split.user_count(); ++user) {
    expected[static_cast<std::size_t>(user)] = items_of(recommender.recommend(split.items(user), 7, one));
    intents[static_cast<std::size_t>(user)] = recommender.intent(split.items(user), one);
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      el::Recommender<Model>::Scratch scratch;
      for (Index i = 0; i < split.user_count(); ++i) {
        const auto user = static_cast<std::size_t>((i * (2 * t + 1)) % split.user_count());
        const bool same =
            items_of(recommender.recommend(split.items(static_cast<Index>(user)), 7, scratch)) == expected[user] &&
            recommender.intent(split.items(static_cast<Index>(user)), scratch).intent == intents[user].intent;
        wrong += same ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE_FIXTURE(Fixture, "after warm-up nothing is allocated") {
  el::Recommender<Model>::Scratch scratch;
  std::vector<el::ItemId> longest(90);  // no history is longer than the catalogue
  std::iota(longest.begin(), longest.end(), 1);
  (void)recommender.recommend(longest, 20, scratch);
  (void)recommender.intent(longest, scratch);
  const long before = el::test::allocations;
  for (Index user = 0; user < split.user_count(); ++user) {
    (void)recommender.recommend(split.items(user), 1 + user % 20, scratch);
    (void)recommender.intent(split.items(user), scratch);
  }
  CHECK(el::test::allocations.load() == before);
}

TEST_CASE_FIXTURE(Fixture, "the intent is the nearest center of the normalised pooled encoding") {
  el::Recommender<Model>::Scratch scratch;
  el::Cpu::Lane lane;
  for (Index user = 0; user < split.user_count(); user += 11) {
    const auto pooling = user % 2 == 0 ? el::Pooling::mean : el::Pooling::last;
    model.pooling = pooling;
    model.padding = user % 4 < 2 ? el::Padding::masked : el::Padding::paper;
    const auto match = recommender.intent(split.items(user), scratch);
    el::TokenBatch batch;
    batch.start(model.max_length(), model.padding);
    batch.add(split.items(user));
    std::vector<float> h(16);
    std::vector<float> norm(1);
    model.encode(lane, batch.view(), [&](auto x) { el::pool(lane, pooling, batch.view(), x, {h.data(), 1, 16}); });
    normalize_rows(lane, {h.data(), 1, 16}, {norm.data(), 1, 1}, {h.data(), 1, 16});
    std::vector<double> distances;
    for (Index j = 0; j < 5; ++j) {
      double length = 0;
      for (Index c = 0; c < 16; ++c) {
        length += static_cast<double>(model.clusters().centers()(j, c)) *
                  static_cast<double>(model.clusters().centers()(j, c));
      }
      double square = 0;
      for (Index c = 0; c < 16; ++c) {
        const double gap = static_cast<double>(h[static_cast<std::size_t>(c)]) -
                           static_cast<double>(model.clusters().centers()(j, c)) / std::sqrt(length);
        square += gap * gap;
      }
      distances.push_back(std::sqrt(square));
    }
    auto sorted = distances;
    std::sort(sorted.begin(), sorted.end());
    CHECK(static_cast<double>(match.distance) == doctest::Approx(sorted[0]).epsilon(1e-4));
    CHECK(static_cast<double>(match.runner_up_distance) == doctest::Approx(sorted[1]).epsilon(1e-4));
    CHECK(distances[static_cast<std::size_t>(match.intent)] == doctest::Approx(sorted[0]).epsilon(1e-4));
    CHECK(distances[static_cast<std::size_t>(match.runner_up)] == doctest::Approx(sorted[1]).epsilon(1e-4));
  }
}

TEST_CASE_FIXTURE(Fixture, "bad input is named") {
  el::Recommender<Model>::Scratch scratch;
  const std::vector<el::ItemId> none;
  const std::vector<el::ItemId> unknown{1, 91};
  const std::vector<el::ItemId> padding{0};
  const std::vector<el::ItemId> good{1};
  CHECK(error_of([&] { (void)recommender.recommend(none, 5, scratch); }) ==
        "history: found no items, expected at least one");
  CHECK(error_of([&] { (void)recommender.recommend(unknown, 5, scratch); }) ==
        "history: found item 91, expected 1 to 90");
  CHECK(error_of([&] { (void)recommender.recommend(padding, 5, scratch); }) ==
        "history: found item 0, expected 1 to 90");
  CHECK(error_of([&] { (void)recommender.recommend(good, 0, scratch); }) ==
        "recommend: found k = 0, expected at least 1");
  CHECK(error_of([&] { (void)recommender.intent(none, scratch); }) == "history: found no items, expected at least one");
  CHECK(recommender.recommend(good, 5, scratch).size() == 5);

  model.items()(7, 3) = std::nanf("");
  CHECK_THROWS_WITH_AS(el::Recommender<Model>{model},
                       "recommender: parameter 'item_embeddings.weight' holds numbers that are not finite; expected "
                       "finite weights. Lower the learning rate?",
                       el::DivergenceError);
}
