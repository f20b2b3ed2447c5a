// Models on other backends, snapshots that serve, and the slot that publishes the next one under readers.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "count_allocations.hpp"
#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/head/dot_bias.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/nn/clone.hpp"
#include "elcrec/serve/slot.hpp"
#include "elcrec/serve/snapshot.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;

namespace {

using Model = el::ELCRec<el::Cpu>;
using Served = el::Snapshot<Model>;
using Names = std::vector<std::int64_t>;

el::ELCRecOptions options(Index items = 90, Index hidden = 16, std::uint64_t seed = 0) {
  el::ELCRecOptions o;
  o.items = items;
  o.max_length = 8;
  o.hidden = hidden;
  o.intents = 5;
  o.seed = seed;
  return o;
}

/// first + 7, first + 14, ...
el::ItemMap sevens(Index items, std::int64_t first = 1000) {
  Names names;
  for (Index row = 1; row <= items; ++row) {
    names.push_back(first + 7 * row);
  }
  return el::ItemMap(names);
}

template <class B>
std::vector<double> weights(const B& backend, const auto& model) {
  std::vector<double> all;
  for (const auto& p : el::parameters(model)) {
    const auto values = el::test::to_host(backend, p.values);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

bool same(std::span<const el::NamedRecommendation> a, std::span<const el::NamedRecommendation> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const auto& x, const auto& y) { return x.name == y.name && x.score == y.score; });
}

/// Whether two tasks of a region run at once. Waits for ten seconds where they do not.
bool runs_two_at_once(const el::Cpu& backend) {
  std::atomic<int> arrived{0};
  std::atomic<int> met{0};
  backend.parallel_for(2, [&](el::Cpu::Lane&, Index) {
    ++arrived;
    for (const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
         arrived < 2 && std::chrono::steady_clock::now() < until;) {
      std::this_thread::yield();
    }
    met += arrived == 2 ? 1 : 0;
  });
  return met == 2;
}

/// Whether every task of a region runs on the caller's thread.
bool runs_on_caller(const el::Cpu& backend) {
  std::atomic<bool> all{true};
  const auto caller = std::this_thread::get_id();
  backend.parallel_for(64, [&](el::Cpu::Lane&, Index) {
    std::this_thread::yield();
    all = all && std::this_thread::get_id() == caller;
  });
  return all;
}

/// y_t = s E[item_t] + P[t] with a factor s that is no parameter; `Remakes` says whether it can go anywhere.
template <class B, bool Remakes>
struct ScaledEncoder {
  using Backend = B;
  using T = typename B::Scalar;
  using In = el::MatrixView<const T>;
  using Out = el::MatrixView<T>;
  struct Cache {};

  ScaledEncoder(const B& backend, double factor) : positions(backend, 6, 8), scale(factor) {
    el::initialise_normal(backend, 3, 1, 1.0, positions.view());
  }

  Index hidden() const { return positions.cols(); }
  Index max_length() const { return positions.rows(); }
  void forward(const el::Pass<B>& pass, const el::TokenView& tokens, In table, Cache&, Out y) const {
    embed(pass.lane, tokens, table, positions.view(), y);
    pass.lane.scale(static_cast<T>(scale), y);
  }
  void backward(const el::Pass<B>&, const el::TokenView&, const Cache&, Out, ScaledEncoder&, Out) const {}
  static void visit_parameters(auto& self, auto&& visitor) { visitor("positions", self.positions.view(), 2); }

  template <class To>
  ScaledEncoder<To, Remakes> remake(const To& backend) const requires Remakes {
    return {backend, scale};
  }

  el::Matrix<B> positions;
  double scale;
};

/// What ScaledEncoder makes of the items, and 9 more in the column that is the user's.
struct UserEncoder : ScaledEncoder<el::Cpu, false> {
  using ScaledEncoder::ScaledEncoder;
  void forward(const el::Pass<el::Cpu>& pass, const el::TokenView& tokens, In table, Cache& cache, Out y) const {
    ScaledEncoder::forward(pass, tokens, table, cache, y);
    const auto users = tokens.column<el::Users>();
    for (std::size_t s = 0; s < users.size(); ++s) {
      for (Index t = tokens.offsets[s]; t < tokens.offsets[s + 1]; ++t) {
        y(t, users[s] % 8) += 9;
      }
    }
  }
};

template <class B>
using Biased = el::SequentialModel<ScaledEncoder<B, true>, el::DotBiasHead<B>, el::NextItemSoftmax>;

}  // namespace

TEST_CASE("a clone has weights and a pool of its own; a copy shares the pool") {
  auto o = options();
  o.padding = el::Padding::paper;
  o.next_item_weight = 0.25;
  std::optional<Model> model(std::in_place, o, el::Cpu({.threads = 2, .slices = 3}));
  model->pooling = el::Pooling::last;
  const auto before = weights(model->backend(), *model);

  Model clone = el::clone(*model, el::Cpu({.threads = 2, .slices = 5}));
  const Model copy = *model;
  CHECK(clone.backend().slices() == 5);
  CHECK(clone.padding == el::Padding::paper);
  CHECK(clone.pooling == el::Pooling::last);
  CHECK(clone.objective<el::NextItem>().weight == 0.25);
  CHECK(clone.metadata() == model->metadata());
  model->backend().parallel_for(1, [&](el::Cpu::Lane&, Index) {
    CHECK(runs_on_caller(copy.backend()));
    CHECK(runs_two_at_once(clone.backend()));
  });

  for (auto& p : el::parameters(*model)) {
    el::initialise_constant(model->backend(), 7.0, p.values);
  }
  model.reset();
  CHECK(weights(clone.backend(), clone) == before);
  CHECK(weights(copy.backend(), copy) == before);
}

TEST_CASE("a clone may have another type of backend and of number") {
  const el::ELCRec<el::Reference> exact(options());
  const Model rounded = el::clone(exact, el::Cpu({.threads = 1}));
  const el::ELCRec<el::Reference> back = el::clone(rounded, el::Reference());
  auto expected = weights(exact.backend(), exact);
  CHECK(weights(back.backend(), back) != expected);
  for (double& x : expected) {
    x = static_cast<double>(static_cast<float>(x));
  }
  CHECK(weights(rounded.backend(), rounded) == expected);
  CHECK(weights(back.backend(), back) == expected);
}

TEST_CASE("parts of one's own are cloned: as they are to the same type of backend, by remake to others") {
  const auto answer = [](const auto& model) {
    const std::vector<el::ItemId> history{3, 1, 4, 1, 5};
    const el::Recommender recommender(model);
    auto scratch = recommender.make_scratch();
    std::vector<el::ItemId> items;
    for (const auto& found : recommender.recommend(history, 6, scratch)) {
      items.push_back(found.item);
    }
    return items;
  };
  const el::Cpu cpu({.threads = 1});
  {
    const el::SequentialModel<ScaledEncoder<el::Cpu, false>, el::NextItemBce> model(cpu, {40, 1, 1.0}, {cpu, 1.5});
    const auto clone = el::clone(model, el::Cpu({.threads = 2}));
    CHECK(clone.backend().threads() == 2);
    CHECK(clone.encoder.scale == 1.5);
    CHECK(weights(cpu, clone) == weights(cpu, model));
    CHECK(answer(clone) == answer(model));
  }
  el::DotBiasHead<el::Cpu> head(cpu, 42);
  el::initialise_normal(cpu, 9, 2, 5.0, head.bias());
  const Biased<el::Cpu> model(cpu, {40, 1, 1.0}, {cpu, 1.5}, head);
  const Biased<el::Reference> clone = el::clone(model, el::Reference());
  CHECK(clone.encoder.scale == 1.5);
  CHECK(weights(clone.backend(), clone) == weights(cpu, model));
  CHECK(answer(clone) == answer(model));
}

TEST_CASE("parameters that do not pair up are not copied") {
  const el::Reference backend;
  const el::ELCRec<el::Reference> model(options());
  const auto unlike = [&](const el::ELCRecOptions& o) {
    el::ELCRec<el::Reference> other(o);
    const auto before = weights(backend, other);
    const std::string said = error_of([&] { el::copy_parameters(backend, model, backend, other); });
    CHECK(weights(backend, other) == before);
    return said;
  };
  CHECK(unlike(options(91)) ==
        "copied parameters: found 'item_embeddings.weight' (92 x 16), expected 'item_embeddings.weight' (93 x 16)");
  auto deeper = options();
  deeper.layers = 3;
  CHECK(unlike(deeper) == "copied parameters: found 21, expected 53");
}

TEST_CASE("a snapshot answers in the host's ids, and needs nothing else") {
  auto model = std::make_unique<Model>(options(), el::Cpu({.threads = 1}));
  const std::vector<el::ItemId> rows{4, 90, 17, 4};
  Names history;
  std::vector<el::NamedRecommendation> expected;
  el::IntentMatch intent;
  {
    const auto names = sevens(90);
    const el::Recommender recommender(*model);
    auto scratch = recommender.make_scratch();
    for (const auto& [item, score] : recommender.recommend(rows, 10, scratch)) {
      expected.push_back({names.name(item), score});
    }
    intent = recommender.intent(rows, scratch);
    for (const auto row : rows) {
      history.push_back(names.name(row));
    }
  }
  const Served snapshot(el::clone(*model, el::Cpu({.threads = 2})), sevens(90));
  const fs::path file = fs::temp_directory_path() / ("elcrec_snapshot_" + std::to_string(getpid()) + ".safetensors");
  el::save_model(file, *model, sevens(90));
  const el::Snapshot loaded(el::load_elcrec<el::Cpu>(file, el::Cpu({.threads = 1})), el::ScoreTable::model);
  fs::remove(file);
  model->items()(5, 5) = 1e9F;  // training goes on
  model.reset();

  for (const Served* served : {&snapshot, &loaded}) {
    CHECK(served->items() == sevens(90));
    auto scratch = served->make_scratch();
    REQUIRE(same(served->recommend(history, 10, scratch, el::UnknownItems::refuse), expected));
    CHECK(scratch.unknown() == 0);
    CHECK(served->intent(history, scratch, el::UnknownItems::refuse).intent == intent.intent);
    CHECK(served->recommend(history, 1000, scratch, el::UnknownItems::refuse).size() == 87);
    CHECK(served->recommend(history, 1000, scratch, el::UnknownItems::refuse, true).size() == 90);
  }
}

TEST_CASE("ids that the vocabulary lacks are refused or ignored, as the caller says") {
  const Served snapshot(Model(options(), el::Cpu({.threads = 2})), sevens(90));
  Served::Scratch scratch;
  const Names known{1028, 1630, 1119};
  const Names some{1028, 12, 1630, -5, 1119};
  const Names strange{12, 1029};
  const Names none;
  using enum el::UnknownItems;
  const auto list = [&](const Names& history, el::UnknownItems unknown) {
    const auto found = snapshot.recommend(history, 8, scratch, unknown);
    return std::vector<el::NamedRecommendation>(found.begin(), found.end());
  };
  const auto expected = list(known, refuse);
  REQUIRE(expected.size() == 8);
  CHECK(error_of([&] { list(some, refuse); }) == "history: found item 12, which the vocabulary of 90 items lacks");
  CHECK(same(list(some, ignore), expected));
  CHECK(scratch.unknown() == 2);
  CHECK(list(strange, ignore).empty());
  CHECK(scratch.unknown() == 2);
  CHECK(snapshot.intent(some, scratch, ignore).intent == snapshot.intent(known, scratch, refuse).intent);
  CHECK(error_of([&] { (void)snapshot.intent(strange, scratch, ignore); }) ==
        "history: found 2 items of which the vocabulary has none, expected at least one that it has");
  for (const auto unknown : {refuse, ignore}) {
    CHECK(error_of([&] { list(none, unknown); }) == "history: found no items, expected at least one");
    CHECK(error_of([&] { (void)snapshot.intent(none, scratch, unknown); }) ==
          "history: found no items, expected at least one");
    CHECK(error_of([&] { (void)snapshot.recommend(known, 0, scratch, unknown); }) ==
          "recommend: found k = 0, expected at least 1");
  }

  std::vector<std::span<const std::int64_t>> histories{strange, some, known, strange};
  Served::BatchScratch batch;
  snapshot.recommend_batch(histories, 8, batch, ignore);
  CHECK(batch.of(0).empty());
  CHECK(batch.of(3).empty());
  REQUIRE(batch.of(1).size() == 8);
  CHECK(same(batch.of(1), batch.of(2)));
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(batch.of(1)[i].score == doctest::Approx(expected[i].score).epsilon(1e-4));
  }
  CHECK(error_of([&] { snapshot.recommend_batch(histories, 8, batch, refuse); }) ==
        "history: found item 12, which the vocabulary of 90 items lacks");
  histories.front() = none;
  CHECK(error_of([&] { snapshot.recommend_batch(histories, 8, batch, ignore); }) ==
        "history: found no items, expected at least one");
  snapshot.recommend_batch({}, 8, batch, refuse);
}

TEST_CASE("a snapshot tells its model whose history it is") {
  const el::Cpu cpu({.threads = 2});
  using ByUser = el::SequentialModel<UserEncoder, el::NextItemBce>;
  const el::Snapshot snapshot(ByUser(cpu, {40, 1, 1.0}, {cpu, 1.5}), sevens(40));
  decltype(snapshot)::Scratch scratch;
  decltype(snapshot)::BatchScratch batch;
  el::Recommender<ByUser>::Scratch row_scratch;
  const Names history{1021, 1007, 1070};
  const std::vector<el::ItemId> rows{3, 1, 10};
  const Names strange{5};
  const std::vector<std::span<const std::int64_t>> histories{history, strange, history, history};
  const std::vector<el::UserId> users{3, 4, 0, 5};
  snapshot.recommend_batch(histories, 6, batch, el::UnknownItems::ignore, false, users);
  CHECK(batch.of(1).empty());
  Names best;
  for (const std::size_t u : {0U, 2U, 3U}) {
    const auto expected = snapshot.recommender().recommend(rows, 6, row_scratch, false, users[u]);
    const auto found = snapshot.recommend(history, 6, scratch, el::UnknownItems::refuse, false, users[u]);
    REQUIRE(found.size() == 6);
    REQUIRE(batch.of(static_cast<Index>(u)).size() == 6);
    for (std::size_t i = 0; i < 6; ++i) {
      CHECK(found[i].name == snapshot.items().name(expected[i].item));
      CHECK(batch.of(static_cast<Index>(u))[i].name == found[i].name);
    }
    best.push_back(found.front().name);
  }
  CHECK((best[0] != best[1] || best[1] != best[2]));
  CHECK(error_of([&] {
          snapshot.recommend_batch(histories, 6, batch, el::UnknownItems::ignore, false, std::span(users).first(3));
        }) == "recommend: found 3 users for 4 histories, expected as many or none");
}

TEST_CASE("what cannot serve makes no snapshot") {
  Model model(options(), el::Cpu({.threads = 1}));
  CHECK(error_of([&] { Served(model, sevens(89)); }) ==
        "snapshot: found 89 item ids, expected one for each of the model's 90 items");
  model.items()(7, 3) = std::nanf("");
  CHECK_THROWS_AS(Served(model, sevens(90)), el::DivergenceError);
}

TEST_CASE("scratch memory grows to what the next snapshot needs, then nothing is allocated") {
  const auto make = [](Index items, Index hidden, Index intents) {
    auto o = options(items, hidden);
    o.intents = intents;
    o.max_length = hidden;
    return std::make_unique<Served>(Model(o, el::Cpu({.threads = 1})), sevens(items));
  };
  const auto first = make(90, 16, 5);
  const auto larger = make(3000, 48, 40);
  const auto smaller = make(20, 4, 2);
  Names history;
  for (Index i = 0; i < 60; ++i) {
    history.push_back(1000 + 7 * (1 + i % 20));
  }
  const std::vector<std::span<const std::int64_t>> histories(70, history);
  Served::Scratch used;
  Served::BatchScratch used_batch;
  const auto ask = [&](const Served& snapshot, Served::Scratch& scratch, Served::BatchScratch& batch) {
    (void)snapshot.intent(history, scratch, el::UnknownItems::refuse);
    snapshot.recommend_batch(histories, 30, batch, el::UnknownItems::ignore);
    return snapshot.recommend(history, 30, scratch, el::UnknownItems::refuse, true);
  };
  for (const auto* snapshot : {first.get(), larger.get(), smaller.get(), larger.get()}) {
    Served::Scratch fresh;
    Served::BatchScratch fresh_batch;
    const auto expected = ask(*snapshot, fresh, fresh_batch);
    REQUIRE(expected.size() == static_cast<std::size_t>((std::min)(Index{30}, snapshot->items().size())));
    CHECK(same(ask(*snapshot, used, used_batch), expected));
    CHECK(same(used_batch.of(69), fresh_batch.of(69)));
    CHECK(fresh.unknown() == used.unknown());
    (void)ask(*snapshot, used, used_batch);
    const long before = el::test::allocations;
    (void)ask(*snapshot, used, used_batch);
    CHECK(el::test::allocations.load() == before);
  }
}

namespace {

/// Counts those alive.
struct Counted {
  static inline std::atomic<int> alive{0};
  static inline std::atomic<int> made{0};
  explicit Counted(std::int64_t v) : value(v), complement(~v) {
    ++alive;
    ++made;
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    complement = value;
    --alive;
  }
  std::int64_t value;
  std::int64_t complement;
};

}  // namespace

TEST_CASE("a slot gives the newest value and lets go of a replaced one with its last handle") {
  Counted::alive = 0;
  std::optional<el::Slot<Counted>> slot(std::in_place, std::make_shared<const Counted>(1));
  auto first = slot->take();
  auto again = slot->take();
  CHECK(first->value == 1);
  slot->publish(std::make_shared<const Counted>(2));
  CHECK(Counted::alive == 2);
  CHECK(first->value == 1);
  CHECK((*slot->take()).value == 2);
  first = slot->take();
  CHECK(Counted::alive == 2);
  auto moved = std::move(again);
  CHECK(moved->value == 1);
  again = std::move(moved);
  CHECK(Counted::alive == 2);
  again = slot->take();
  CHECK(Counted::alive == 1);
  slot->publish(std::make_shared<const Counted>(3));
  slot->publish(std::make_shared<const Counted>(4));
  CHECK(Counted::alive == 2);  // 2, which is held, and 4
  slot.reset();
  CHECK(Counted::alive == 1);
  CHECK(first->value == 2);
  CHECK(again->complement == ~std::int64_t{2});
  {
    const auto last = std::move(first);
    auto gone = std::move(again);
  }
  CHECK(Counted::alive == 0);
}

TEST_CASE("a slot refuses what it has no place for, and stays as it was") {
  Counted::alive = 0;
  CHECK(error_of([] { el::Slot<int>(nullptr); }) == "slot: found no value, expected one to publish");
  {
    el::Slot slot(std::make_shared<const Counted>(0));
    CHECK(error_of([&] { slot.publish(nullptr); }) == "slot: found no value, expected one to publish");
    std::vector<el::Slot<Counted>::Handle> held;
    for (int i = 1; i < 64; ++i) {
      held.push_back(slot.take());
      slot.publish(std::make_shared<const Counted>(i));
    }
    CHECK(Counted::alive == 64);
    const auto said = error_of([&] { slot.publish(std::make_shared<const Counted>(64)); });
    CHECK(said == "slot: found 64 values that readers hold, expected fewer: does a reader keep its handles?");
    CHECK(slot.take()->value == 63);
    held.erase(held.begin() + 20);
    slot.publish(std::make_shared<const Counted>(64));
    CHECK(slot.take()->value == 64);
    for (std::size_t i = 0; i < held.size(); ++i) {
      CHECK(held[i]->value == static_cast<std::int64_t>(i + (i < 20 ? 0 : 1)));
    }
  }
  CHECK(Counted::alive == 0);
}

TEST_CASE("handles taken while values are replaced are whole, and every value goes") {
  Counted::alive = 0;
  Counted::made = 0;
  constexpr std::int64_t publishers = 2;
  constexpr std::int64_t rounds = 3000;
  std::atomic<int> wrong{0};
  {
    el::Slot slot(std::make_shared<const Counted>(-1));
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    for (int reader = 0; reader < 8; ++reader) {
      threads.emplace_back([&] {
        std::array<std::int64_t, publishers> newest{-1, -1};
        auto held = slot.take();
        while (!done) {
          const auto now = slot.take();
          wrong += now->complement != ~now->value ? 1 : 0;
          wrong += held->complement != ~held->value ? 1 : 0;
          if (now->value >= 0) {
            auto& last = newest[static_cast<std::size_t>(now->value % publishers)];
            wrong += now->value < last ? 1 : 0;
            last = now->value;
          }
          held = slot.take();
        }
      });
    }
    std::vector<std::thread> publishing;
    for (std::int64_t p = 0; p < publishers; ++p) {
      publishing.emplace_back([&, p] {
        for (std::int64_t round = 0; round < rounds; ++round) {
          slot.publish(std::make_shared<const Counted>(round * publishers + p));
        }
      });
    }
    for (auto& thread : publishing) {
      thread.join();
    }
    done = true;
    for (auto& thread : threads) {
      thread.join();
    }
    CHECK(slot.take()->value >= (rounds - 1) * publishers);
    CHECK(Counted::alive == 1);
  }
  CHECK(wrong == 0);
  CHECK(Counted::made == 1 + publishers * rounds);
  CHECK(Counted::alive == 0);
}

TEST_CASE("publishers take turns") {
  std::vector<std::shared_ptr<const int>> values;
  for (int i = 0; i < 4; ++i) {
    values.push_back(std::make_shared<const int>(i));
  }
  const auto held = [&] {
    return std::accumulate(values.begin(), values.end(), 0L,
                           [](long sum, const auto& v) { return sum + v.use_count(); });
  };
  {
    el::Slot<int> slot(values[0]);
    std::atomic<int> ready{0};
    std::vector<std::thread> publishing;
    for (const auto& value : values) {
      publishing.emplace_back([&] {
        for (++ready; ready < 4;) {
          std::this_thread::yield();
        }
        for (int round = 0; round < 20000; ++round) {
          slot.publish(value);
        }
      });
    }
    for (auto& thread : publishing) {
      thread.join();
    }
    CHECK(held() == 5);
  }
  CHECK(held() == 4);
}

namespace {

constexpr std::int64_t names_of_a_version = 10000;

/// A snapshot whose weights, catalogue, hidden size and vocabulary tell its version.
std::unique_ptr<Served> version(std::int64_t v, const el::Cpu& backend) {
  const Index items = 40 + v % 50;
  return std::make_unique<Served>(Model(options(items, v % 3 == 0 ? 8 : 12, static_cast<std::uint64_t>(v)), backend),
                                  sevens(items, v * names_of_a_version));
}

Names history_of(std::int64_t v) {
  Names history;
  for (std::int64_t i = 1; i <= 9; ++i) {
    history.push_back(v * names_of_a_version + 7 * (i * (v + 3) % 40 + 1));
  }
  return history;
}

}  // namespace

TEST_CASE("100 snapshots published under 8 readers: each is served, whole, and freed") {
  constexpr std::int64_t versions = 101;  // the first, and 100 that are published
  const el::Cpu pool({.threads = 2});
  std::vector<std::vector<el::NamedRecommendation>> expected;
  for (std::int64_t v = 0; v < versions; ++v) {
    Served::Scratch scratch;
    const auto found = version(v, pool)->recommend(history_of(v), 5, scratch, el::UnknownItems::refuse);
    expected.emplace_back(found.begin(), found.end());
  }

  std::atomic<int> alive{0};
  const auto counted = [&](std::unique_ptr<Served> snapshot) {
    ++alive;
    return std::shared_ptr<const Served>(snapshot.release(), [&alive](const Served* s) {
      delete s;
      --alive;
    });
  };
  std::array<std::atomic<int>, versions> served{};
  std::atomic<int> wrong{0};
  {
    el::Slot<Served> slot(counted(version(0, pool)));
    std::atomic<bool> done{false};
    std::vector<std::thread> readers;
    for (int reader = 0; reader < 8; ++reader) {
      readers.emplace_back([&, reader] {
        Served::Scratch scratch;
        Served::BatchScratch batch;
        std::int64_t last = 0;
        while (!done) {
          const auto snapshot = slot.take();
          const std::int64_t v = snapshot->items().name(1) / names_of_a_version;
          const Names history = history_of(v);
          const auto& answer = expected[static_cast<std::size_t>(v)];
          wrong += v < last ? 1 : 0;
          last = v;
          wrong += same(snapshot->recommend(history, 5, scratch, el::UnknownItems::refuse), answer) ? 0 : 1;
          if (reader == 0) {  // and in a region of the pool
            const std::span<const std::int64_t> one[] = {history};
            snapshot->recommend_batch(one, 5, batch, el::UnknownItems::refuse);
            wrong += batch.of(0).size() == 5 && batch.of(0)[0].name == answer[0].name ? 0 : 1;
          }
          ++served[static_cast<std::size_t>(v)];
          std::this_thread::sleep_for(std::chrono::microseconds(100));  // the publisher has a processor now and then
        }
      });
    }
    for (std::int64_t v = 1; v < versions; ++v) {
      slot.publish(counted(version(v, pool)));
      while (served[static_cast<std::size_t>(v)] == 0) {
        std::this_thread::yield();
      }
    }
    done = true;
    for (auto& reader : readers) {
      reader.join();
    }
    CHECK(alive == 1);
    CHECK(slot.take()->items().name(1) == (versions - 1) * names_of_a_version + 7);
  }
  CHECK(wrong == 0);
  CHECK(alive == 0);
  CHECK(std::count_if(served.begin() + 1, served.end(), [](const auto& n) { return n > 0; }) == versions - 1);
}

TEST_CASE("regions of a model, its copy and its clone, from several threads at once, all end") {
  const Model model(options(), el::Cpu({.threads = 3}));
  const Served shared(model, sevens(90));
  const Served own(el::clone(model, el::Cpu({.threads = 2})), sevens(90));
  std::vector<Names> histories;
  for (std::int64_t user = 0; user < 200; ++user) {
    histories.push_back({1007 + 7 * (user % 90), 1007 + 7 * (user * user % 90)});
  }
  const std::vector<std::span<const std::int64_t>> views(histories.begin(), histories.end());
  const auto answers = [&](const Served& snapshot) {
    Served::BatchScratch scratch;
    snapshot.recommend_batch(views, 5, scratch, el::UnknownItems::refuse);
    Names names;
    for (Index user = 0; user < std::ssize(views); ++user) {
      for (const auto& found : scratch.of(user)) {
        names.push_back(found.name);
      }
    }
    return names;
  };
  const Names expected = answers(own);
  REQUIRE(expected.size() == 1000);
  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  std::thread training([&] {
    while (!done) {
      model.backend().parallel_for(16, [&](el::Cpu::Lane&, Index) { std::this_thread::yield(); });
    }
  });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        wrong += answers(shared) != expected || answers(own) != expected ? 1 : 0;
      }
    });
  }
  // A task of one pool that asks the other's, both ways: whoever finds a pool busy works alone.
  shared.model().backend().parallel_for(6, [&](el::Cpu::Lane&, Index) { wrong += answers(own) != expected ? 1 : 0; });
  own.model().backend().parallel_for(6, [&](el::Cpu::Lane&, Index) { wrong += answers(shared) != expected ? 1 : 0; });
  for (auto& caller : callers) {
    caller.join();
  }
  done = true;
  training.join();
  CHECK(wrong == 0);
}
