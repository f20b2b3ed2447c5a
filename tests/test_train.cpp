// Training as a whole: the same bits for any number of threads, resume, early stopping, divergence, checkpoints, log.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "elcrec/elcrec.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;

namespace {

el::LeaveOneOut small_split(std::uint64_t seed = 1) {
  return el::leave_one_out(
      el::make_synthetic({.users = 150, .items = 80, .intents = 4, .mean_length = 9, .seed = seed}).data);
}

el::ELCRecOptions small_options(const el::LeaveOneOut& split, el::Padding padding = el::Padding::masked) {
  el::ELCRecOptions o;
  o.items = split.item_count();
  o.max_length = 12;
  o.hidden = 16;
  o.layers = 2;
  o.intents = 4;
  o.padding = padding;
  return o;
}

el::TrainerOptions small_run(Index epochs = 2) { return {.epochs = epochs, .batch_size = 32, .seed = 5}; }

template <class Model>
std::vector<float> weights(const Model& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
  }
  return all;
}

/// The next-item loss, raising a flag after a number of steps.
struct Countdown {
  using Views = el::TypeList<el::InputView>;
  static constexpr std::string_view name = "next_item";
  double weight = 1.0;
  std::atomic<bool>* flag = nullptr;
  int* left = nullptr;

  void evaluate(auto& step) const {
    el::pairwise_loss(step, step.template encoding<el::InputView>(), el::PairwiseLoss::bce, weight, step.loss(*this));
    if (left != nullptr && --*left == 0) {
      *flag = true;
    }
  }
};

/// The next-item loss, keeping the first item of every sequence of each step.
struct Recorder {
  using Views = el::TypeList<el::InputView>;
  static constexpr std::string_view name = "next_item";
  double weight = 1.0;
  std::vector<std::vector<el::ItemId>>* steps = nullptr;

  void evaluate(auto& step) const {
    el::pairwise_loss(step, step.template encoding<el::InputView>(), el::PairwiseLoss::bce, weight, step.loss(*this));
    const auto& tokens = step.template encoding<el::InputView>().tokens;
    auto& firsts = steps->emplace_back();
    for (Index s = 0; s < tokens.sequences(); ++s) {
      firsts.push_back(tokens.item(tokens.begin(s)));
    }
  }
};

/// Adam at the rate that a function makes of the steps before and the schedule's factor.
struct Driven : el::Adam {
  template <class B>
  struct State : el::AdamState<B> {
    State(const Driven& options, const B& backend, std::span<const el::Parameter<float>> parameters)
        : el::AdamState<B>(options, backend, parameters), rate(options.rate) {}
    void step(const B& backend, std::span<const el::Parameter<float>> parameters,
              std::span<const el::Parameter<float>> gradients, double rate_factor) {
      el::AdamState<B>::step(backend, parameters, gradients, rate(this->steps(), rate_factor));
    }
    std::function<double(long, double)> rate;
  };
  std::function<double(long, double)> rate;
};

/// A folder that is gone at the end of a test.
struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / ("elcrec_test_train_" + std::to_string(::getpid()));
  TemporaryFolder() { fs::create_directories(path); }
  ~TemporaryFolder() { fs::remove_all(path); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
};

}  // namespace

TEST_CASE("one, two and three threads give the same bits") {
  const auto split = small_split();
  for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
    CAPTURE(el::to_text(padding));
    std::vector<std::vector<float>> results;
    std::vector<double> losses;
    for (const Index threads : {1, 2, 3}) {
      el::ELCRec<el::Cpu> model(small_options(split, padding), el::Cpu({.threads = threads}));
      el::Trainer trainer(model, el::Adam{}, small_run());
      trainer.fit(split, [&](const el::EpochReport& report) { losses.push_back(report.losses.total); });
      results.push_back(weights(model));
    }
    CHECK(results[0] == results[1]);
    CHECK(results[0] == results[2]);
    REQUIRE(losses.size() == 6);
    CHECK(losses[0] == losses[2]);
    CHECK(losses[1] == losses[5]);
  }
}

TEST_CASE("weight decay shrinks matrices and leaves vectors") {
  const el::Cpu backend({.threads = 1});
  const auto list = [&](auto& matrix, auto& vector) {
    return std::vector<el::Parameter<float>>{{"matrix", matrix.view(), 2}, {"vector", vector.view(), 1}};
  };
  el::Matrix<el::Cpu> matrix(backend, 3, 7);
  el::Matrix<el::Cpu> vector(backend, 1, 7);
  el::Matrix<el::Cpu> no_gradient(backend, 3, 7);
  el::Matrix<el::Cpu> no_vector_gradient(backend, 1, 7);
  std::ranges::fill(matrix.view().flat(), 2.0F);
  std::ranges::fill(vector.view().flat(), 2.0F);
  const auto parameters = list(matrix, vector);
  el::Adam::State<el::Cpu> adam(el::Adam{.learning_rate = 0.5, .weight_decay = 0.1}, backend, parameters);
  adam.step(backend, parameters, list(no_gradient, no_vector_gradient), 0.5);
  for (const float p : matrix.view().flat()) {
    CHECK(p == doctest::Approx(2 * (1 - 0.5 * 0.5 * 0.1)));
  }
  for (const float p : vector.view().flat()) {
    CHECK(p == 2.0F);
  }
  // Lazy: the rows that have a gradient.
  const std::vector<std::int32_t> rows{2};
  auto some_rows = list(no_gradient, no_vector_gradient);
  some_rows[0].rows = rows;
  el::Adam::State<el::Cpu> lazy(el::Adam{.learning_rate = 0.5, .lazy = true, .weight_decay = 0.1}, backend, parameters);
  std::ranges::fill(matrix.view().flat(), 2.0F);
  lazy.step(backend, parameters, some_rows, 0.5);
  CHECK(matrix.view()(1, 0) == 2.0F);
  CHECK(matrix.view()(2, 6) == doctest::Approx(2 * (1 - 0.5 * 0.5 * 0.1)));
  for (const double wrong : {-0.1, 2.0}) {
    CHECK_THROWS_AS(
        (el::Adam::State<el::Cpu>(el::Adam{.learning_rate = 0.5, .weight_decay = wrong}, backend, parameters)),
        el::ArgumentError);
  }
}

TEST_CASE("lazy Adam moves the items of a step and no other") {
  const auto split = small_split();
  using Model = el::ELCRec<el::Cpu>;
  Model dense(small_options(split), el::Cpu({.threads = 2}));
  Model lazy(small_options(split), el::Cpu({.threads = 1}));
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<Index> users{0, 1, 2};
  const auto first = lazy.items().flat();
  const std::vector<float> start(first.begin(), first.end());
  const auto step_twice = [&](Model& model, bool is_lazy) {
    el::TrainingPass<Model> pass(model);
    el::StepBatches<Model> batches;
    auto parameters = el::parameters(model);
    el::Adam::State<el::Cpu> adam(el::Adam{.lazy = is_lazy}, model.backend(), parameters);
    std::vector<bool> touched(static_cast<std::size_t>(model.items().rows()), false);
    for (std::uint32_t step = 0; step < 2; ++step) {
      batches.build(model, {&split, &negatives, 1, step}, std::span(users).subspan(step, 1));
      pass.run(batches, 1, step);
      const auto gradients = pass.gradients();
      REQUIRE(gradients[1].rows.has_value());
      for (const auto id : *gradients[1].rows) {
        touched[static_cast<std::size_t>(id)] = true;
      }
      adam.step(model.backend(), parameters, gradients, 1.0);
    }
    return touched;
  };
  const auto touched = step_twice(lazy, true);
  step_twice(dense, false);
  Index moved = 0;
  Index different = 0;
  for (Index v = 0; v < lazy.items().rows(); ++v) {
    const bool was = touched[static_cast<std::size_t>(v)];
    const bool is_moved = lazy.items()(v, 0) != start[static_cast<std::size_t>(v * lazy.hidden())];
    CHECK(is_moved == was);
    moved += is_moved ? 1 : 0;
    different += lazy.items()(v, 0) != dense.items()(v, 0) ? 1 : 0;
  }
  CHECK(moved > 5);
  CHECK(moved < lazy.items().rows() - 5);
  CHECK(different > 0);  // momentum of the first step's items in the second
}

TEST_CASE("the full-softmax objective gives the same bits for any number of threads, and learns") {
  const auto split = small_split();
  std::vector<std::vector<float>> results;
  for (const Index threads : {1, 2}) {
    auto o = small_options(split);
    o.objective = el::NextItemLoss::softmax;
    el::ELCRec<el::Cpu> model(o, el::Cpu({.threads = threads}));
    el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, small_run(4));
    std::vector<double> next_item;
    trainer.fit(split, [&](const el::EpochReport& report) { next_item.push_back(report.losses.terms.at(0).second); });
    CHECK(next_item.back() < next_item.front());
    CHECK(next_item.front() == doctest::Approx(std::log(80.0)).epsilon(0.05));
    results.push_back(weights(model));
  }
  CHECK(results[0] == results[1]);
}

TEST_CASE("an interrupted and resumed run equals an uninterrupted one") {
  const TemporaryFolder folder;
  const auto split = small_split();
  auto run = small_run(4);

  el::ELCRec<el::Cpu> whole(small_options(split));
  std::vector<double> whole_losses;
  const auto whole_result = el::Trainer(whole, el::Adam{}, run).fit(split, [&](const el::EpochReport& r) {
    whole_losses.push_back(r.losses.total);
  });
  CHECK(whole_result.end == el::FitResult::End::epochs_done);

  // Stopped inside the second epoch: the flag turns true after some steps, seen through a stop that counts them down.
  run.checkpoint = folder.path / "model.safetensors";
  std::atomic<bool> stop{false};
  run.stop = &stop;
  std::vector<double> losses;
  el::ELCRec<el::Cpu> first(small_options(split));
  el::Trainer first_trainer(first, el::Adam{}, run);
  const auto interrupted = first_trainer.fit(split, [&](const el::EpochReport& r) {
    losses.push_back(r.losses.total);
    stop = true;
  });
  CHECK(interrupted.end == el::FitResult::End::interrupted);
  CHECK(interrupted.epochs == 1);

  run.stop = nullptr;
  el::ELCRec<el::Cpu> second(small_options(split));
  el::Trainer second_trainer(second, el::Adam{}, run);
  second_trainer.resume(run.checkpoint);
  const auto resumed = second_trainer.fit(split, [&](const el::EpochReport& r) { losses.push_back(r.losses.total); });
  CHECK(resumed.epochs == 4);
  CHECK(losses == whole_losses);
  CHECK(weights(second) == weights(whole));
  CHECK(resumed.best_ndcg == whole_result.best_ndcg);
}

TEST_CASE("an interruption inside an epoch keeps the epoch's place") {
  const TemporaryFolder folder;
  const auto split = small_split();
  auto run = small_run(3);
  el::ELCRec<el::Cpu> whole(small_options(split));
  std::vector<double> whole_losses;
  el::Trainer(whole, el::Adam{}, run).fit(split, [&](const el::EpochReport& r) {
    whole_losses.push_back(r.losses.total);
  });

  // Batches of 32 of 150 users: five steps an epoch. Stop after each possible step of the first epoch in turn.
  run.checkpoint = folder.path / "model.safetensors";
  for (int steps = 1; steps < 5; ++steps) {
    std::atomic<bool> stop{false};
    using Model = el::SequentialModel<el::TransformerEncoder<el::Dynamic, el::Cpu>, Countdown>;
    const auto make = [&] {
      const el::Cpu cpu;
      return Model(cpu, split.item_count(),
                   el::TransformerEncoder<el::Dynamic, el::Cpu>(cpu, {.hidden = 16, .layers = 1, .max_length = 12}));
    };
    Model reference = make();
    std::vector<double> losses;
    el::Trainer(reference, el::Adam{}, small_run(3)).fit(split, [&](const el::EpochReport& r) {
      losses.push_back(r.losses.total);
    });

    Model stopped = make();
    int left = steps;
    std::get<0>(stopped.objectives).flag = &stop;
    std::get<0>(stopped.objectives).left = &left;
    run.stop = &stop;
    CHECK(el::Trainer(stopped, el::Adam{}, run).fit(split).end == el::FitResult::End::interrupted);
    run.stop = nullptr;
    Model resumed = make();
    el::Trainer trainer(resumed, el::Adam{}, run);
    trainer.resume(run.checkpoint);
    trainer.fit(split, [&](const el::EpochReport& r) {
      CHECK(r.losses.total == losses[static_cast<std::size_t>(r.epoch) - 1]);
      CHECK(std::lround(r.users_per_second * r.train_seconds) == (r.epoch == 1 ? 150 - 32 * steps : 150));
    });
    CHECK(weights(resumed) == weights(reference));
  }
}

TEST_CASE("training stops early and keeps the best weights") {
  const auto split = small_split();
  el::ELCRec<el::Cpu> model(small_options(split));
  auto run = small_run(40);
  run.patience = 2;
  std::vector<double> ndcg;
  const auto result =
      el::Trainer(model, el::Adam{.learning_rate = 0.05}, run).fit(split, [&](const el::EpochReport& r) {
        ndcg.push_back(r.valid.ndcg(20));
      });
  CHECK(result.end == el::FitResult::End::early_stop);
  CHECK(result.epochs == result.best_epoch + 2);
  CHECK(result.best_ndcg == *std::max_element(ndcg.begin(), ndcg.end()));
  CHECK(el::evaluate(model, split, el::Split::valid).ndcg(20) == result.best_ndcg);
}

TEST_CASE("an epoch passes every user once, in an order of its own, at the schedule's rates") {
  constexpr Index users = 40;
  std::vector<std::int64_t> names;
  std::vector<Index> offsets{0};
  std::vector<el::ItemId> rows;
  for (Index u = 0; u < users; ++u) {  // the first item says who it is
    names.push_back(u);
    for (Index i = 0; i < 5; ++i) {
      rows.push_back(static_cast<el::ItemId>((u + i) % users + 1));
    }
    offsets.push_back(static_cast<Index>(rows.size()));
  }
  const auto split = el::leave_one_out({names, offsets, rows, el::ItemMap::identity(users)});
  const el::Cpu cpu;
  el::SequentialModel<el::TransformerEncoder<el::Dynamic, el::Cpu>, Recorder> model(
      cpu, users, el::TransformerEncoder<el::Dynamic, el::Cpu>(cpu, {.hidden = 16, .layers = 1, .max_length = 12}));
  std::vector<std::vector<el::ItemId>> steps;
  std::get<0>(model.objectives).steps = &steps;
  std::vector<double> factors;
  const Driven adam{{}, [&](long, double factor) { return factors.emplace_back(factor); }};
  auto run = small_run(3);
  run.batch_size = 16;
  run.schedule = {.shape = el::Schedule::Shape::cosine, .warmup_steps = 2, .floor = 0.1};
  el::Trainer(model, adam, run).fit(split);

  REQUIRE(steps.size() == 9);
  std::vector<std::vector<el::ItemId>> epochs;
  for (std::size_t s = 0; s < steps.size(); ++s) {
    CHECK(steps[s].size() == (s % 3 == 2 ? 8 : 16));
    if (s % 3 == 0) {
      epochs.emplace_back();
    }
    epochs.back().insert(epochs.back().end(), steps[s].begin(), steps[s].end());
  }
  std::vector<el::ItemId> every_item(users);
  std::iota(every_item.begin(), every_item.end(), 1);
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
  for (auto& epoch : epochs) {
    std::sort(epoch.begin(), epoch.end());
    CHECK(epoch == every_item);
  }
  REQUIRE(factors.size() == 9);
  for (std::size_t s = 0; s < factors.size(); ++s) {
    CHECK(factors[s] == run.schedule.factor(static_cast<long>(s), 9));
  }
}

TEST_CASE("an epoch's report: losses are means over its batches, NDCG is at the cutoff that was asked for") {
  const auto split = small_split();
  const auto options = small_options(split);
  el::ELCRec<el::Cpu> model(options);
  auto run = small_run(2);
  run.metric_cutoff = 3;
  const auto result = el::Trainer(model, el::Adam{}, run).fit(split, [&](const el::EpochReport& r) {
    std::map<std::string, double> term(r.losses.terms.begin(), r.losses.terms.end());
    CHECK(term.at("next_item") == doctest::Approx(2 * std::log(2.0)).epsilon(0.05));  // nothing is known yet
    CHECK(r.losses.total ==
          doctest::Approx(term.at("next_item") + options.sequence_weight * term.at("sequence_contrast") +
                          options.intent_weight * term.at("intent_contrast") + options.trade_off * term.at("cluster")));
    CHECK(r.seconds_left == r.train_seconds * static_cast<double>(2 - r.epoch));
  });
  const auto valid = el::evaluate(model, split, el::Split::valid);
  CHECK(result.best_ndcg == valid.ndcg(3));
  CHECK(result.best_ndcg < valid.ndcg(20));
}

TEST_CASE("a checkpoint is written where the model is better, every so many epochs, and at the end") {
  const TemporaryFolder folder;
  const auto split = small_split();
  el::ELCRec<el::Cpu> model(small_options(split));
  auto run = small_run(5);
  run.checkpoint = folder.path / "model.safetensors";
  run.checkpoint_every = 2;
  std::vector<std::string> saved;
  // At such a rate nothing changes, and an equal model is not a better one.
  const auto result = el::Trainer(model, el::Adam{.learning_rate = 1e-30}, run).fit(split, [&](const auto&) {
    saved.push_back(el::SafetensorsFile::read(run.checkpoint).metadata().at("training.epoch"));
  });
  CHECK(result.best_epoch == 1);
  CHECK(saved == std::vector<std::string>{"1", "2", "2", "4", "5"});
}

TEST_CASE("centers found after training are those of the training inputs, by the run's seed, on the sphere") {
  const auto split = small_split();
  auto options = small_options(split);
  options.sequence_weight = options.intent_weight = options.trade_off = 0;
  el::ELCRec<el::Cpu> model(options);
  auto run = small_run(2);
  el::KMeansOptions k_means{.iterations = 3, .restarts = 2};
  el::Trainer(model, el::Adam{}, run, el::KMeansEnd(k_means)).fit(split);

  el::Matrix<el::Cpu> users(model.backend(), split.user_count(), model.hidden());
  el::Matrix<el::Cpu> centers(model.backend(), 4, model.hidden());
  el::Matrix<el::Cpu> norms(model.backend(), 1, 4);
  el::TokenBatch batch;
  batch.start(model.max_length(), model.padding);
  for (Index user = 0; user < split.user_count(); ++user) {
    batch.add(split.input(user, el::Split::train));
  }
  el::Cpu::Lane lane;
  model.encode_user(lane, batch.view(), users.view());
  k_means.seed = run.seed;
  el::k_means<el::Cpu>(model.backend(), users.view(), k_means, centers.view());
  normalize_rows(lane, centers.view(), norms.view(), centers.view());
  for (Index j = 0; j < 4; ++j) {
    for (Index c = 0; c < model.hidden(); ++c) {
      CHECK(model.clusters().centers()(j, c) == doctest::Approx(centers.view()(j, c)).epsilon(1e-4));
    }
  }
}

TEST_CASE("centers found after training leave all else as it was, in the model, on disk and on resumption") {
  const TemporaryFolder folder;
  const auto split = small_split();
  auto options = small_options(split);
  options.sequence_weight = options.intent_weight = options.trade_off = 0;
  const auto trained = [&](bool k_means_end, Index epochs, Index more_epochs) {
    el::ELCRec<el::Cpu> model(options, el::Cpu({.threads = 2}));
    auto run = small_run(epochs);
    const auto stage = k_means_end ? std::optional<el::KMeansEnd>(std::in_place) : std::nullopt;
    run.checkpoint = folder.path / "model.safetensors";
    el::Trainer(model, el::Adam{}, run, stage).fit(split);
    if (more_epochs > 0) {
      run.epochs = more_epochs;
      el::Trainer again(model, el::Adam{}, run, stage);
      again.resume(run.checkpoint);
      again.fit(split);
    }
    CHECK(weights(el::load_elcrec<el::Cpu>(run.checkpoint).model) == weights(model));
    return model;
  };
  const auto but_centers = [](const auto& model) {
    std::vector<float> all;
    for (const auto& p : el::parameters(model)) {
      if (p.values.data() != model.clusters().centers().data()) {
        all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
      }
    }
    return all;
  };
  const auto with = trained(true, 3, 0);
  const auto without = trained(false, 3, 0);
  CHECK(but_centers(with) == but_centers(without));
  CHECK(weights(with) != weights(without));
  CHECK(weights(trained(true, 1, 3)) == weights(with));
  // Every user is nearer to a center than in a model whose centers are random.
  const auto distance = [&](const auto& model) {
    const el::Recommender recommender(model);
    auto scratch = recommender.make_scratch();
    double sum = 0;
    for (Index user = 0; user < split.user_count(); ++user) {
      sum += recommender.intent(split.input(user, el::Split::train), scratch).distance;
    }
    return sum / static_cast<double>(split.user_count());
  };
  CHECK(distance(with) < 0.8 * distance(without));
}

TEST_CASE("a run that ended with centers of its best weights goes on from its last ones") {
  const TemporaryFolder folder;
  const auto split = small_split();
  auto options = small_options(split);
  options.sequence_weight = options.intent_weight = options.trade_off = 0;
  const el::Adam adam{.learning_rate = 0.05};
  auto run = small_run(40);
  run.patience = 2;
  run.checkpoint = folder.path / "model.safetensors";
  el::ELCRec<el::Cpu> first(options);
  const auto result = el::Trainer(first, adam, run, el::KMeansEnd()).fit(split);
  REQUIRE(result.best_epoch < result.epochs);

  run.epochs = result.epochs + 1;
  run.patience = 40;
  double resumed = 0;
  double whole = 0;
  el::ELCRec<el::Cpu> second(options);
  el::Trainer trainer(second, adam, run, el::KMeansEnd());
  trainer.resume(run.checkpoint);
  trainer.fit(split, [&](const el::EpochReport& r) { resumed = r.losses.total; });
  el::ELCRec<el::Cpu> third(options);
  el::Trainer(third, adam, run, el::NoStages()).fit(split, [&](const el::EpochReport& r) { whole = r.losses.total; });
  CHECK(resumed == whole);
}

TEST_CASE("a loss that is not finite ends training and leaves the last good checkpoint") {
  const TemporaryFolder folder;
  const auto split = small_split();
  auto run = small_run(3);
  run.checkpoint = folder.path / "model.safetensors";
  el::ELCRec<el::Cpu> model(small_options(split));
  el::Trainer trainer(model, el::Adam{.learning_rate = 1e37}, run);
  // One good epoch first, at a sane rate.
  el::ELCRec<el::Cpu> good(small_options(split));
  auto one = run;
  one.epochs = 1;
  el::Trainer(good, el::Adam{}, one).fit(split);
  const std::string what = error_of([&] { trainer.fit(split); });
  CHECK(what.find("the loss is not finite") != std::string::npos);
  CHECK(what.find("epoch 1, batch 2") != std::string::npos);
  CHECK(what.find("next_item") != std::string::npos);
  CHECK(weights(el::load_elcrec<el::Cpu>(run.checkpoint).model) == weights(good));
}

TEST_CASE("after a divergence the model has the best weights so far") {
  const auto split = small_split();
  el::ELCRec<el::Cpu> one(small_options(split));
  el::Trainer(one, el::Adam{}, small_run(1)).fit(split);
  for (const long last : {6, 10}) {  // of five steps an epoch: the next loss shows it, or only the scores do
    CAPTURE(last);
    el::ELCRec<el::Cpu> model(small_options(split));
    const Driven adam{{}, [last](long step, double factor) { return step + 1 == last ? 1e40 : factor; }};
    CHECK_THROWS_AS(el::Trainer(model, adam, small_run(3)).fit(split), el::DivergenceError);
    CHECK(weights(model) == weights(one));
  }
}

TEST_CASE("weights that the last step of an epoch made infinite are not the best ones, nor saved") {
  const TemporaryFolder folder;
  const auto split = small_split();
  const auto path = folder.path / "model.safetensors";
  el::ELCRec<el::Cpu> model(small_options(split));
  auto run = small_run(1);
  run.batch_size = 1000;  // one step an epoch: no later loss shows what it did
  run.checkpoint = path;
  el::Trainer(model, el::Adam{}, run).fit(split);
  std::ifstream good(path, std::ios::binary);
  const std::string before(std::istreambuf_iterator<char>(good), {});

  el::Trainer trainer(model, el::Adam{.learning_rate = 1e30}, run);
  const std::string said = error_of([&] { trainer.fit(split); });
  CHECK(said.find("epoch 1: parameter '") != std::string::npos);
  CHECK(said.find("not finite") != std::string::npos);
  std::ifstream after(path, std::ios::binary);
  CHECK(std::string(std::istreambuf_iterator<char>(after), {}) == before);
}

TEST_CASE("eight layers with rows that dropout emptied have finite gradients") {
  const auto split = small_split();
  auto options = small_options(split);
  options.hidden = 4;
  options.layers = 8;
  options.dropout = 0.9;
  el::ELCRec<el::Cpu> model(options);
  el::TrainingPass<el::ELCRec<el::Cpu>> pass(model);
  el::StepBatches<el::ELCRec<el::Cpu>> batches;
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<Index> users{0, 1, 2, 3, 4, 5, 6, 7};
  batches.build(model, {&split, &negatives, 3, 0}, users);
  pass.run(batches, 3, 0);
  for (const auto& gradient : pass.gradients()) {
    CAPTURE(gradient.name);
    for (const float g : gradient.values.flat()) {
      REQUIRE(std::abs(g) < 1e12F);
    }
  }
}

TEST_CASE("evaluation refuses scores that are not finite, and ranks equal ones by their ids") {
  const auto split = small_split();
  el::ELCRec<el::Cpu> model(small_options(split));
  auto* const first = model.items().row(1);
  const auto last = static_cast<el::ItemId>(split.item_count());
  for (el::ItemId item = 2; item <= last; ++item) {
    std::copy_n(first, model.hidden(), model.items().row(item));
  }
  double hits = 0;
  for (Index user = 0; user < split.user_count(); ++user) {
    const auto seen = split.input(user, el::Split::test);
    Index before = 0;
    for (el::ItemId item = 1; item < split.target(user, el::Split::test); ++item) {
      before += std::find(seen.begin(), seen.end(), item) == seen.end() ? 1 : 0;
    }
    hits += before < 20 ? 1 : 0;
  }
  CHECK(el::evaluate(model, split, el::Split::test).hr(20) ==
        doctest::Approx(hits / static_cast<double>(split.user_count())));

  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    model.items()(7, 3) = bad;
    CHECK(error_of([&] { static_cast<void>(el::evaluate(model, split, el::Split::test)); }).find("not finite") !=
          std::string::npos);
  }
}

TEST_CASE("wrong options say what is wrong") {
  const auto split = small_split();
  auto o = small_options(split);
  o.intents = 151;
  el::ELCRec<el::Cpu> many(o);
  CHECK(error_of([&] { el::Trainer(many, el::Adam{}, small_run()).fit(split); }) ==
        "intents: found K = 151 for 150 users, expected at most one for each user");
  o.intents = 0;
  CHECK(error_of([&] { el::ELCRec<el::Cpu> none(o); }) == "intents: found K = 0, expected at least 1");
  o = small_options(split);
  o.heads = 3;
  CHECK(error_of([&] { el::ELCRec<el::Cpu> odd(o); }) == "heads: found 3, expected a divisor of the hidden size 16");
  o = small_options(split);
  o.items = 10;
  el::ELCRec<el::Cpu> few(o);
  CHECK(error_of([&] {
          el::Trainer(few, el::Adam{}, small_run()).fit(split);
        }).find("expected at most the model's 10") != std::string::npos);
  CHECK(error_of([&] { (void)el::evaluate(few, split, el::Split::test); }) ==
        "evaluation: found data with 80 items, expected at most the model's 10");
  CHECK(error_of([&] { el::Trainer(few, el::Adam{.learning_rate = -1}, small_run()); }) ==
        "learning rate: found -1, expected a positive number");
  CHECK(error_of([&] { el::Trainer(few, el::Adam{}, {.epochs = 0}); }) == "epochs: found 0, expected at least 1");
}

TEST_CASE("a checkpoint brings back the model, its options and the item ids") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "model.safetensors";
  const auto split = small_split();
  auto o = small_options(split);
  o.prototype = el::Prototype::concat;
  o.assignment = el::Assignment::nearest;
  o.crop = 0.30000000000000004;
  const el::ELCRec<el::Cpu> model(o);
  std::vector<std::int64_t> names;
  for (Index i = 1; i <= split.item_count(); ++i) {
    names.push_back(7 * i);
  }
  el::save_model(path, model, el::ItemMap(names));
  const auto loaded = el::load_elcrec<el::Cpu>(path);
  CHECK(weights(loaded.model) == weights(model));
  CHECK(loaded.items.name(3) == 21);
  CHECK(el::to_metadata(loaded.model.options()) == el::to_metadata(o));

  SUBCASE("what does not fit is named") {
    el::CheckpointWriter writer;
    for (const auto& [key, value] : model.metadata()) {
      writer.metadata(key, value);
    }
    const auto rewritten = [&](const std::string& left_out) {
      for (const auto& p : el::parameters(model)) {
        if (p.name != left_out) {
          writer.add<el::Cpu, float>(model.backend(), p.name, p.shape(), p.values.flat());
        }
      }
    };
    const std::vector<float> wrong(32, 1.0F);
    SUBCASE("missing") {
      rewritten("LayerNorm.bias");
      writer.write(path);
      CHECK(error_of([&] { (void)el::load_elcrec<el::Cpu>(path); }).find("LayerNorm.bias") != std::string::npos);
    }
    SUBCASE("extra") {
      rewritten("");
      writer.add<el::Cpu, float>(model.backend(), "surprise", {32}, wrong);
      writer.write(path);
      CHECK(error_of([&] {
              (void)el::load_elcrec<el::Cpu>(path);
            }).find("found tensor 'surprise', expected only the model's parameters") != std::string::npos);
    }
    SUBCASE("mis-shaped") {
      rewritten("LayerNorm.bias");
      writer.add<el::Cpu, float>(model.backend(), "LayerNorm.bias", {32}, wrong);
      writer.write(path);
      CHECK(error_of([&] {
              (void)el::load_elcrec<el::Cpu>(path);
            }).find("tensor 'LayerNorm.bias': found F32 [32], expected shape F32 [16]") != std::string::npos);
    }
    SUBCASE("NaN") {  // from elsewhere: our own writer refuses it
      std::vector<float> nan(16, 0.0F);
      nan[5] = NAN;
      el::SafetensorsWriter foreign;
      for (const auto& p : el::parameters(model)) {
        const auto values = p.values.flat();
        foreign.add<float>(p.name, p.shape(), p.name == "LayerNorm.bias" ? std::span<const float>(nan) : values);
      }
      foreign.write(path);
      CHECK(error_of([&] {
              (void)el::load_elcrec<el::Cpu>(path);
            }).find("tensor \"LayerNorm.bias\" element 5 is nan") != std::string::npos);
    }
    SUBCASE("metadata of nonsense") {
      rewritten("");
      writer.metadata("encoder.heads", "three");
      writer.write(path);
      CHECK(error_of([&] {
              (void)el::load_elcrec<el::Cpu>(path);
            }).find("encoder.heads: found 'three', expected a whole number") != std::string::npos);
    }
  }

  SUBCASE("a file without training state does not resume") {
    el::ELCRec<el::Cpu> other(o);
    el::Trainer trainer(other, el::Adam{}, small_run());
    CHECK(error_of([&] { trainer.resume(path); }).find("expected a checkpoint with training state") !=
          std::string::npos);
  }
}

TEST_CASE("the run log has one JSON line an epoch") {
  const TemporaryFolder folder;
  const auto split = small_split();
  el::ELCRec<el::Cpu> model(small_options(split));
  {
    el::RunLog log(folder.path / "log.jsonl");
    el::Trainer(model, el::Adam{}, small_run(3)).fit(split, log);
  }
  std::ifstream in(folder.path / "log.jsonl");
  int lines = 0;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    CHECK(json.at("epoch") == ++lines);
    for (const char* key : {"loss", "next_item", "sequence_contrast", "cluster", "intent_contrast", "train_seconds",
                            "users_per_second", "rss_mb"}) {
      CHECK(json.at(key).is_number());
    }
    CHECK(json.at("valid").at("NDCG@20").is_number());
  }
  CHECK(lines == 3);
  CHECK(error_of([&] { el::RunLog log(folder.path / "nowhere" / "log.jsonl"); }).find("cannot be opened") !=
        std::string::npos);
}

TEST_CASE("evaluation ranks as a direct sort does, under both protocols and paddings") {
  el::Cpu::Lane lane;
  // The second catalogue takes several blocks; what was seen lies in them in any order.
  for (const auto& split :
       {small_split(), el::leave_one_out(el::make_synthetic({.users = 70, .items = 1300, .mean_length = 60}).data)}) {
    const el::ELCRec<el::Cpu> model(small_options(split));
    for (const auto protocol : {el::Protocol::strict, el::Protocol::paper}) {
      for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
        const auto metrics = el::evaluate(model, split, el::Split::test, {.protocol = protocol, .padding = padding});
        REQUIRE(metrics.users() == split.user_count());
        for (Index user = 0; user < split.user_count(); user += 7) {
          const auto history = split.input(user, el::Split::test);
          el::TokenBatch batch;
          batch.start(model.max_length(), padding);
          batch.add(history);
          std::vector<float> x(16);
          model.encode_last(lane, batch.view(), {x.data(), 1, 16});
          std::vector<double> scores;
          for (Index v = 0; v < split.item_count() + 2; ++v) {
            double s = 0;
            for (Index c = 0; c < 16; ++c) {
              s += static_cast<double>(x[static_cast<std::size_t>(c)]) * static_cast<double>(model.items()(v, c));
            }
            const bool seen = std::find(history.begin(), history.end(), static_cast<el::ItemId>(v)) != history.end();
            const bool real = v >= 1 && v <= split.item_count();
            scores.push_back(protocol == el::Protocol::paper ? (seen ? 0.0 : s) : (seen || !real ? -1e30 : s));
          }
          // Scores in float may order those of doubles that are this near the other way.
          constexpr double gap = 1e-6;
          const double target = scores[static_cast<std::size_t>(split.target(user, el::Split::test))];
          const auto above = [&](double score) {
            return std::count_if(scores.begin(), scores.end(), [&](double s) { return s > score; });
          };
          const Index rank = metrics.ranks()[static_cast<std::size_t>(user)];
          CHECK(above(target + gap) <= rank);
          CHECK(rank < above(target - gap));
        }
      }
    }
  }
}

TEST_CASE("the schedule warms up, then stays or falls") {
  const el::Schedule constant{.warmup_steps = 4};
  CHECK(constant.factor(0, 100) == 0.25);
  CHECK(constant.factor(3, 100) == 1.0);
  CHECK(constant.factor(99, 100) == 1.0);
  const el::Schedule cosine{.shape = el::Schedule::Shape::cosine, .warmup_steps = 10, .floor = 0.1};
  CHECK(cosine.factor(9, 110) == 1.0);
  CHECK(cosine.factor(10, 110) == 1.0);
  CHECK(cosine.factor(60, 110) == doctest::Approx(0.55));
  CHECK(cosine.factor(110, 110) == doctest::Approx(0.1));
  CHECK(cosine.factor(500, 110) == doctest::Approx(0.1));
}

TEST_CASE("clipping scales all gradients to the limit, and only above it") {
  const el::Cpu cpu({.threads = 2});
  el::Matrix<el::Cpu> a(cpu, 1, 2);
  el::Matrix<el::Cpu> b(cpu, 2, 1);
  const auto set = [&] {
    a.view()(0, 0) = 1;
    a.view()(0, 1) = 2;
    b.view()(0, 0) = 2;
    b.view()(1, 0) = 4;
  };
  const std::vector<el::Parameter<float>> list{{"a", a.view(), 2}, {"b", b.view(), 2}};
  set();
  CHECK(el::clip_gradients(cpu, std::span(list), 10.0) == doctest::Approx(5));
  CHECK(b.view()(1, 0) == 4.0F);
  CHECK(el::clip_gradients(cpu, std::span(list), 2.5) == doctest::Approx(5));
  CHECK(a.view()(0, 0) == doctest::Approx(0.5));
  CHECK(b.view()(1, 0) == doctest::Approx(2));

  // In a run: clipping changes the outcome, and a limit that is never reached does not.
  const auto split = small_split();
  const auto trained = [&](double limit) {
    el::ELCRec<el::Cpu> model(small_options(split));
    auto run = small_run(1);
    run.clip_norm = limit;
    el::Trainer(model, el::Adam{}, run).fit(split);
    return weights(model);
  };
  CHECK(trained(0) == trained(1e9));
  CHECK(trained(0) != trained(1e-3));
}
