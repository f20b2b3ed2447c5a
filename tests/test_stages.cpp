// Stages of training: when they are called, what they keep, that an interruption anywhere leaves the same bits; steps
// taken by hand.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "elcrec/elcrec.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;

namespace {

using Model = el::ELCRec<el::Cpu>;
using Context = el::StageContext<Model>;
using Calls = std::vector<std::string>;

/// Forty users, in batches of sixteen: three steps an epoch.
const el::LeaveOneOut& split() {
  static const auto data =
      el::leave_one_out(el::make_synthetic({.users = 40, .items = 40, .intents = 3, .mean_length = 8}).data);
  return data;
}

Model make_model() {
  return Model({.items = split().item_count(), .max_length = 8, .hidden = 8, .intents = 3, .seed = 2},
               el::Cpu({.threads = 2}));
}

el::TrainerOptions run(Index epochs, const fs::path& checkpoint = {}) {
  return {.epochs = epochs, .batch_size = 16, .seed = 5, .checkpoint = checkpoint};
}

const el::KMeansOptions few{.iterations = 3, .restarts = 2};

std::vector<float> weights(const Model& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
  }
  return all;
}

template <class... Stages>
std::vector<float> trained(Index epochs, Stages... stages) {
  Model model = make_model();
  el::Trainer(model, el::Adam{}, run(epochs), stages...).fit(split());
  return weights(model);
}

/// A checkpoint's place that is gone at the end of a test.
struct Place {
  fs::path path = fs::temp_directory_path() / ("elcrec_test_stages_" + std::to_string(::getpid()) + ".safetensors");
  Place() = default;
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() { fs::remove(path); }
};

/// Writes down when it is called. A call of that name is interrupted while `stop` is given.
struct Witness {
  Calls* calls = nullptr;
  std::string who{};
  std::string interrupted{};
  std::atomic<bool>* stop = nullptr;

  bool call(const std::string& event) {
    calls->push_back(who + event);
    if (stop != nullptr && event == interrupted) {
      *stop = true;
      return false;
    }
    return true;
  }
  bool before_first(Context&) { return call("first"); }
  bool before_epoch(Context& context) { return call("epoch " + std::to_string(context.epoch)); }
  void after_step(Context& context) { call("step " + std::to_string(context.steps)); }
  bool after_last(Context&) { return call("last"); }
};

/// Averages the item table over the steps, and puts the average in its place at the end.
struct AverageItems {
  static constexpr std::string_view name = "average_items";
  const el::Cpu& backend;
  el::Matrix<el::Cpu> sum;
  Index steps = 0;
  bool started = false;
  double share = 0.5;

  explicit AverageItems(const Model& model)
      : backend(model.backend()), sum(backend, model.items().rows(), model.items().cols()) {}

  void before_first(Context& context) {
    started = true;
    share = 1 / static_cast<double>(context.split.user_count());
  }
  void after_step(Context& context) {
    ++steps;
    backend.parallel_for(1, [&](el::Cpu::Lane& lane, Index) {
      lane.add_scaled(started ? static_cast<float>(share) : 0.0F, context.model.items(), sum.view());
    });
  }
  bool after_last(Context& context) {
    backend.parallel_for(1, [&](el::Cpu::Lane& lane, Index) {
      lane.copy(sum.view(), context.model.items());
      lane.scale(1 / static_cast<float>(steps), context.model.items());
    });
    return true;
  }
  void visit_state(auto& visitor) {
    visitor("sum", sum.view());
    visitor("steps", steps);
    visitor("started", started);
    visitor("share", share);
  }
};

/// Stops a run at a step.
struct StopAt {
  std::atomic<bool>* stop;
  long at;
  void after_step(Context& context) const { *stop = context.steps == at; }
};

}  // namespace

TEST_CASE("stages are called in their order at their times") {
  Calls calls;
  Model model = make_model();
  el::Trainer trainer(model, el::Adam{}, run(2), Witness{&calls, "a "}, std::optional<Witness>(),
                      std::optional(Witness{&calls, "b "}));
  CHECK(trainer.fit(split()).end == el::FitResult::End::epochs_done);
  CHECK(calls == Calls{"a first",  "b first",  "a epoch 0", "b epoch 0", "a step 1",  "b step 1", "a step 2",
                       "b step 2", "a step 3", "b step 3",  "a epoch 1", "b epoch 1", "a step 4", "b step 4",
                       "a step 5", "b step 5", "a step 6",  "b step 6",  "a last",    "b last"});
}

TEST_CASE("a stage that was interrupted comes again on resumption, and no other does") {
  const Place place;
  for (const std::string interrupted : {"first", "epoch 0", "epoch 1", "last"}) {
    CAPTURE(interrupted);
    Calls calls;
    std::atomic<bool> stop{false};
    auto options = run(2, place.path);
    options.stop = &stop;
    Model model = make_model();
    const auto result = el::Trainer(model, el::Adam{}, options, Witness{&calls, "a "},
                                    Witness{&calls, "b ", interrupted, &stop}, Witness{&calls, "c "})
                            .fit(split());
    CHECK(result.end == el::FitResult::End::interrupted);
    CHECK(calls.back() == "b " + interrupted);

    Calls rest;
    Model again = make_model();
    el::Trainer trainer(again, el::Adam{}, run(2, place.path), Witness{&rest, "a "}, Witness{&rest, "b "},
                        Witness{&rest, "c "});
    trainer.resume(place.path);
    CHECK(trainer.fit(split()).end == el::FitResult::End::epochs_done);
    CHECK(rest[0] == (interrupted == "last" ? "a last" : "b " + interrupted));
    calls.pop_back();
    if (interrupted == "last") {
      calls.pop_back();
    }
    calls.insert(calls.end(), rest.begin(), rest.end());
    Calls whole;
    Model other = make_model();
    el::Trainer(other, el::Adam{}, run(2), Witness{&whole, "a "}, Witness{&whole, "b "}, Witness{&whole, "c "})
        .fit(split());
    CHECK(calls == whole);
    CHECK(weights(again) == weights(other));
  }
}

TEST_CASE("a run that is stopped between its first stages and its first step does not repeat them") {
  const Place place;
  Calls calls;
  std::atomic<bool> stop{true};
  auto options = run(1, place.path);
  options.stop = &stop;
  Model model = make_model();
  CHECK(el::Trainer(model, el::Adam{}, options, Witness{&calls}).fit(split()).end == el::FitResult::End::interrupted);
  CHECK(calls == Calls{"first", "epoch 0"});
  CHECK(el::SafetensorsFile::read(place.path).metadata().at("training.stages") == "2");
  stop = false;
  calls.clear();
  el::Trainer trainer(model, el::Adam{}, options, Witness{&calls});
  trainer.resume(place.path);
  trainer.fit(split());
  CHECK(calls == Calls{"step 1", "step 2", "step 3", "last"});

  Model less = make_model();
  stop = true;
  el::Trainer(less, el::Adam{}, options, Witness{&calls}).fit(split());
  CHECK(error_of([&] {
          el::Trainer(less, el::Adam{}, options, el::NoStages()).resume(place.path);
        }).find("training.stages: found '2', expected a whole number from 0 to 0") != std::string::npos);
}

TEST_CASE("a trainer without stages takes the model's own, and NoStages means none") {
  CHECK(trained(1) == trained(1, el::KMeansStart()));
  CHECK(trained(1) != trained(1, el::NoStages()));
  CHECK(trained(1, std::optional<el::KMeansStart>()) == trained(1, el::NoStages()));
  const el::Cpu cpu({.threads = 1});
  el::SasRec<el::Cpu> plain(cpu, {split().item_count()},
                            el::TransformerEncoder<el::Dynamic, el::Cpu>(cpu, {.hidden = 8, .max_length = 8}));
  static_assert(std::tuple_size_v<decltype(el::SasRec<el::Cpu>::stages())> == 0);
  CHECK(el::Trainer(plain, el::Adam{}, run(1)).fit(split()).epochs == 1);
}

TEST_CASE("what a stage keeps is in the checkpoint: a resumed run has the bits of a whole one") {
  const Place place;
  Model whole = make_model();
  el::Trainer(whole, el::Adam{}, run(3), AverageItems(whole)).fit(split());
  for (const long at : {1L, 3L, 7L}) {
    CAPTURE(at);
    std::atomic<bool> stop{false};
    auto options = run(3, place.path);
    options.stop = &stop;
    Model model = make_model();
    CHECK(el::Trainer(model, el::Adam{}, options, AverageItems(model), StopAt{&stop, at}).fit(split()).end ==
          el::FitResult::End::interrupted);
    stop = false;
    Model again = make_model();
    el::Trainer trainer(again, el::Adam{}, options, AverageItems(again));
    trainer.resume(place.path);
    trainer.fit(split());
    CHECK(weights(again) == weights(whole));
  }
}

TEST_CASE("what a stage keeps and cannot find, or nobody knows, is refused by name") {
  const Place place;
  Model model = make_model();
  el::Trainer(model, el::Adam{}, run(1, place.path), AverageItems(model)).fit(split());
  const auto refusal = [&](auto... stages) {
    Model again = make_model();
    const auto before = weights(again);
    el::Trainer trainer(again, el::Adam{}, run(2), stages...);
    const auto said = error_of([&] { trainer.resume(place.path); });
    CHECK(weights(again) == before);
    CHECK(trainer.epoch() == 0);
    return said;
  };
  CHECK(refusal(el::KMeansStart())
            .find("found unknown metadata 'training.average_items.share', expected only what "
                  "this trainer, its optimizer and its stages keep") != std::string::npos);
  el::Trainer(model, el::Adam{}, run(1, place.path), el::NoStages()).fit(split());
  Model again = make_model();
  el::Trainer trainer(again, el::Adam{}, run(2), AverageItems(again));
  CHECK(error_of([&] { trainer.resume(place.path); }).find("training.average_items.sum") != std::string::npos);
}

TEST_CASE("k-means before every epoch: interrupted and resumed the same bits, from other starts each time") {
  const Place place;
  const auto whole = trained(3, el::KMeansEveryEpoch(few));
  CHECK(whole != trained(3, el::KMeansStart(few)));
  CHECK(trained(1, el::KMeansEveryEpoch(few)) == trained(1, el::KMeansStart(few)));
  for (const int pass : {3, 8 + 3, 16 + 8}) {  // eight passes a time: the first, within the second, the last of all
    CAPTURE(pass);
    std::atomic<bool> stop{false};
    int passes = 0;
    auto watched = few;
    watched.progress = [&](const el::KMeansReport& report) {
      passes += report.pass > 0 ? 1 : 0;
      stop = stop || passes == pass;
    };
    auto options = run(3, place.path);
    options.stop = &stop;
    Model model = make_model();
    const auto result = el::Trainer(model, el::Adam{}, options, el::KMeansEveryEpoch(watched)).fit(split());
    CHECK(result.end == el::FitResult::End::interrupted);
    CHECK(result.epochs == (pass - 1) / 8);
    stop = false;
    watched.progress = {};
    Model again = make_model();
    el::Trainer trainer(again, el::Adam{}, options, el::KMeansEveryEpoch(watched));
    trainer.resume(place.path);
    trainer.fit(split());
    CHECK(weights(again) == whole);
  }
}

TEST_CASE("users are encoded for k-means as one by one, until a stop") {
  const Model model = make_model();
  el::Matrix<el::Cpu> all(model.backend(), split().user_count(), 8);
  CHECK(el::encode_users(model, split(), el::Split::test, all.view()));
  el::Cpu::Lane lane;
  for (const Index user : {0, 17, 39}) {
    el::TokenBatch batch;
    batch.start(model.max_length(), model.padding);
    batch.add(split().input(user, el::Split::test));
    std::vector<float> one(8);
    model.encode_user(lane, batch.view(), {one.data(), 1, 8});
    for (Index c = 0; c < 8; ++c) {
      CHECK(all.view()(user, c) == doctest::Approx(one[static_cast<std::size_t>(c)]).epsilon(1e-5));
    }
  }
  const std::atomic<bool> stop{true};
  CHECK(!el::encode_users(model, split(), el::Split::test, all.view(), &stop));
}

TEST_CASE("steps by hand are those of an epoch") {
  std::vector<Index> order(static_cast<std::size_t>(split().user_count()));
  std::iota(order.begin(), order.end(), Index{0});
  el::RandomEngine({5, 0, static_cast<std::uint32_t>(el::RandomTensor::user_order)}).shuffle(std::span(order));
  const el::UniformNegativeSampler negatives(split().dataset());
  Calls calls;
  Model model = make_model();
  el::Trainer trainer(model, el::Adam{}, run(1), Witness{&calls});
  double total = 0;
  for (const Index first : {0, 16, 32}) {
    const auto users = el::slice(std::span<const Index>(order), first, std::min<Index>(first + 16, 40));
    const auto losses = trainer.step(split(), &negatives, users);
    CHECK(losses.terms.size() == 4);
    total += losses.total;
  }
  CHECK(trainer.epoch() == 0);
  CHECK(calls == Calls{"step 1", "step 2", "step 3"});
  Model fitted = make_model();
  el::Trainer(fitted, el::Adam{}, run(1), el::NoStages()).fit(split(), [&](const el::EpochReport& report) {
    CHECK(report.losses.total == total / 3);
  });
  CHECK(weights(model) == weights(fitted));

  // Users in one order, then an epoch: its place and its checkpoint are those of a run.
  const Place place;
  Model mixed = make_model();
  el::Trainer both(mixed, el::Adam{}, run(2, place.path), el::NoStages());
  const std::vector<Index> some{3, 1};
  both.step(split(), &negatives, some);
  CHECK(both.fit(split()).epochs == 2);
  Model resumed = make_model();
  el::Trainer again(resumed, el::Adam{}, run(3), el::NoStages());
  again.resume(place.path);
  CHECK(again.fit(split()).epochs == 3);
}

TEST_CASE("a step that cannot be is refused") {
  Model model = make_model();
  el::Trainer trainer(model, el::Adam{}, run(1));
  const el::UniformNegativeSampler negatives(split().dataset());
  const auto refusal = [&](const el::UniformNegativeSampler* sampler, const std::vector<Index>& users) {
    return error_of([&] { trainer.step(split(), sampler, users); });
  };
  CHECK(refusal(&negatives, {}) == "training step: found no users, expected at least one");
  CHECK(refusal(&negatives, {3, 40}) == "training step: found user number 40, expected 0 to 39");
  CHECK(refusal(&negatives, {-1}) == "training step: found user number -1, expected 0 to 39");
  CHECK(refusal(nullptr, {1}).find("found no negative sampler") != std::string::npos);
}

TEST_CASE("saving writes the best weights and leaves those in training alone") {
  const Place place;
  Model model = make_model();
  el::Trainer trainer(model, el::Adam{.learning_rate = 0.3}, run(6, place.path), el::NoStages());
  std::vector<float> best;
  int later = 0;
  trainer.fit(split(), [&](const el::EpochReport& report) {
    const auto live = weights(model);
    best = report.best ? live : best;
    trainer.save(split());
    CHECK(weights(model) == live);
    CHECK(weights(el::load_elcrec<el::Cpu>(place.path).model) == best);
    later += live != best ? 1 : 0;
  });
  CHECK(later > 0);
}
