// What a checkpoint's training state may say: other data and protocols are measured anew, nonsense is refused.
#include <atomic>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
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

/// A checkpoint's place that is gone at the end of a test.
struct Place {
  fs::path path = fs::temp_directory_path() / ("elcrec_test_resume_" + std::to_string(::getpid()) + ".safetensors");
  ~Place() { fs::remove(path); }
};

/// User u has eight items, (u + stride · i) mod 60 + 1; item row r is named first_name + r - 1.
el::LeaveOneOut cycles(Index stride, Index users = 300, std::int64_t first_name = 1, Index items = 60) {
  std::vector<std::int64_t> names;
  std::vector<std::int64_t> item_names;
  std::vector<Index> offsets{0};
  std::vector<el::ItemId> rows;
  for (Index u = 0; u < users; ++u) {
    names.push_back(u + 1);
    for (Index i = 0; i < 8; ++i) {
      rows.push_back(static_cast<el::ItemId>((u + stride * i) % 60 + 1));
    }
    offsets.push_back(static_cast<Index>(rows.size()));
  }
  for (Index row = 1; row <= items; ++row) {
    item_names.push_back(first_name + row - 1);
  }
  return el::leave_one_out({names, offsets, rows, el::ItemMap(item_names)});
}

el::ELCRecOptions plain(Index items = 60) {
  el::ELCRecOptions o;
  o.items = items;
  o.max_length = 8;
  o.hidden = 16;
  o.intents = 4;
  o.dropout = o.attention_dropout = 0.1;
  o.sequence_weight = o.intent_weight = o.trade_off = 0;
  return o;
}

el::TrainerOptions run(Index epochs, const fs::path& checkpoint) {
  return {.epochs = epochs, .batch_size = 32, .seed = 5, .checkpoint = checkpoint};
}

constexpr el::Adam fast{.learning_rate = 1e-2};

std::vector<float> weights(const Model& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
  }
  return all;
}

double valid_ndcg(const Model& model, const el::LeaveOneOut& split, const el::EvaluationOptions& options = {}) {
  return el::evaluate(model, split, el::Split::valid, options).ndcg(20);
}

/// Adam that raises a flag after a number of steps.
struct Countdown : el::Adam {
  template <class B>
  struct State : el::AdamState<B> {
    State(const Countdown& options, const B& backend, std::span<const el::Parameter<float>> parameters)
        : el::AdamState<B>(options, backend, parameters), flag(options.flag), last(options.last) {}
    void step(const B& backend, std::span<const el::Parameter<float>> parameters,
              std::span<const el::Parameter<float>> gradients, double rate_factor) {
      el::AdamState<B>::step(backend, parameters, gradients, rate_factor);
      *flag = this->steps() >= last;
    }
    std::atomic<bool>* flag;
    long last;
  };
  std::atomic<bool>* flag = nullptr;
  long last = 0;
};

/// Two whole epochs of ten steps on cycles(1), and eight steps of the third where `inside`.
void write_checkpoint(const fs::path& path, bool inside = false) {
  Model model(plain());
  auto options = run(inside ? 3 : 2, path);
  std::atomic<bool> stop{false};
  options.stop = &stop;
  el::Trainer(model, Countdown{fast, &stop, inside ? 28 : 99}, options, el::NoStages()).fit(cycles(1));
}

/// The checkpoint, changed.
struct Parts {
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::vector<float>> floats;
  std::map<std::string, std::vector<double>> doubles;
};

void rewrite(const fs::path& path, const std::function<void(Parts&)>& change) {
  Parts parts;
  std::map<std::string, std::vector<Index>> shapes;
  std::vector<std::int64_t> ids;
  {
    const auto file = el::SafetensorsFile::read(path);
    const Model model(plain());
    for (const auto& [key, value] : file.metadata()) {
      if (key.starts_with(el::training_prefix) || model.metadata().contains(key)) {
        parts.metadata[key] = value;
      }
    }
    for (const auto& name : file.names()) {
      shapes[name] = file.info(name).shape;
      if (name == el::item_ids_tensor) {
        ids = file.read<std::int64_t>(name);
      } else if (file.info(name).dtype == el::DType::f64) {
        parts.doubles[name] = file.read<double>(name);
      } else {
        parts.floats[name] = file.read<float>(name);
      }
    }
  }
  change(parts);
  el::SafetensorsWriter writer;  // not the checkpoints' own, which refuses what is not finite
  for (const auto& [key, value] : parts.metadata) {
    writer.metadata(key, value);
  }
  const auto shape = [&](const std::string& name, std::size_t size) {
    return shapes[name].size() == 1 ? std::vector<Index>{static_cast<Index>(size)} : shapes[name];
  };
  for (const auto& [name, values] : parts.floats) {
    writer.add<float>(name, shape(name, values.size()), values);
  }
  for (const auto& [name, values] : parts.doubles) {
    writer.add<double>(name, shape(name, values.size()), values);
  }
  writer.add<std::int64_t>(std::string(el::item_ids_tensor), {static_cast<Index>(ids.size())}, ids);
  writer.write(path);
}

/// A checkpoint of a release that did not say what it was trained on.
void make_old(const fs::path& path) {
  rewrite(path, [](Parts& parts) {
    for (const char* key : {"data", "users", "protocol", "metric_cutoff", "measured_anew"}) {
      parts.metadata.erase("training." + std::string(key));
    }
  });
}

}  // namespace

TEST_CASE("a run resumed on other data delivers the best on that data") {
  const Place place;
  const auto first = cycles(1);
  const auto second = cycles(7);
  Model model(plain());
  const auto before = el::Trainer(model, fast, run(12, place.path), el::NoStages()).fit(first);
  CHECK(before.best_ndcg > 0.3);
  CHECK(before.note.empty());
  bool old = false;
  SUBCASE("") {}
  SUBCASE("from an old checkpoint") {
    old = true;
    make_old(place.path);
  }

  Model again(plain());
  auto options = run(24, place.path);
  std::vector<std::string> said;
  options.notice = [&](const std::string& what) { said.push_back(what); };
  el::Trainer trainer(again, fast, options, el::NoStages());
  trainer.resume(place.path);
  double best = 0;
  const auto result = trainer.fit(second, [&](const el::EpochReport& report) {
    best = std::max(best, report.valid.ndcg(20));
    CHECK(report.users_per_second > 0);
    CHECK(report.losses.total < 5);
  });
  CHECK(best > 0.3);
  CHECK(result.best_ndcg == best);
  CHECK(result.best_epoch > 12);
  CHECK(valid_ndcg(again, second) == best);
  CHECK(valid_ndcg(el::load_elcrec<el::Cpu>(place.path).model, second) == best);
  REQUIRE(said.size() == 1);
  CHECK(result.note == said.front());
  CHECK(said.front().find("the best weights, of epoch " + std::to_string(before.best_epoch)) != std::string::npos);
  CHECK(said.front().find(old ? "does not say what data" : "other data") != std::string::npos);
}

TEST_CASE("best weights stay when no epoch on the other data is better, at their new measure") {
  const Place place;
  Model model(plain());
  el::Trainer(model, fast, run(1, place.path), el::NoStages()).fit(cycles(1));
  Model again(plain());
  el::Trainer trainer(again, el::Adam{.learning_rate = 1e-30}, run(3, place.path), el::NoStages());
  trainer.resume(place.path);
  const auto fewer = cycles(1, 200);
  const auto result = trainer.fit(fewer);
  CHECK(result.best_epoch == 1);
  CHECK(result.best_ndcg == valid_ndcg(model, fewer));
  CHECK(weights(again) == weights(model));
}

TEST_CASE("patience counts from where the best weights were measured") {
  const Place place;
  Model model(plain());
  auto options = run(9, place.path);
  options.patience = 2;
  const auto stuck = el::Adam{.learning_rate = 1e-30};
  CHECK(el::Trainer(model, stuck, options, el::NoStages()).fit(cycles(1)).end == el::FitResult::End::early_stop);
  const auto resumed = [&](const el::LeaveOneOut& split) {
    Model again(plain());
    el::Trainer trainer(again, stuck, options, el::NoStages());
    trainer.resume(place.path);
    return trainer.fit(split);
  };
  CHECK(resumed(cycles(1)).epochs == 3);
  CHECK(resumed(cycles(7)).epochs == 5);
  CHECK(resumed(cycles(7)).epochs == 5);  // where it stopped on these data
}

TEST_CASE("another validation protocol measures the best weights anew and keeps the place within the epoch") {
  const Place place;
  const auto split = cycles(1);
  const el::EvaluationOptions paper{.protocol = el::Protocol::paper};
  const auto resumed = [&](const el::TrainerOptions& options, std::vector<double>& losses) {
    Model model(plain());
    el::Trainer trainer(model, fast, options, el::NoStages());
    trainer.resume(place.path);
    return trainer.fit(split, [&](const el::EpochReport& r) { losses.push_back(r.losses.total); });
  };
  write_checkpoint(place.path, true);
  const auto best = el::load_elcrec<el::Cpu>(place.path).model;
  std::vector<double> same;
  std::vector<double> other;
  auto options = run(3, {});
  CHECK(resumed(options, same).note.empty());
  options.validation = paper;
  const auto result = resumed(options, other);
  CHECK(result.note.find("validation by paper NDCG@20, until now by strict NDCG@20") != std::string::npos);
  CHECK(result.note.find("begins anew") == std::string::npos);
  CHECK(same == other);  // the epoch under way is the same
  CHECK(same.size() == 1);
  options = run(2, {});
  options.validation = paper;
  CHECK(resumed(options, other).best_ndcg == valid_ndcg(best, split, paper));
  options.validation = {};
  options.metric_cutoff = 5;
  CHECK(resumed(options, other).best_ndcg == el::evaluate(best, split, el::Split::valid).ndcg(5));
}

TEST_CASE("the place within an epoch is that of the same data only") {
  const Place place;
  write_checkpoint(place.path, true);
  for (const Index users : {300, 301, 40, 33}) {
    CAPTURE(users);
    const auto split = cycles(1, users);
    Model model(plain());
    el::Trainer trainer(model, fast, run(4, {}), el::NoStages());
    trainer.resume(place.path);
    const auto result = trainer.fit(split, [&](const el::EpochReport& report) {
      CHECK(report.users_per_second > 0);
      CHECK(report.losses.total < 5);
    });
    CHECK(result.epochs == 4);
    CHECK((result.note.find("epoch 3 begins anew") != std::string::npos) == (users != 300));
  }
  CHECK(el::fingerprint(cycles(1)).value() == el::fingerprint(cycles(1)).value());
  CHECK(el::fingerprint(cycles(1)).value() != el::fingerprint(cycles(7)).value());
  CHECK(el::fingerprint(cycles(1)).value() != el::fingerprint(cycles(1, 299)).value());
  CHECK(el::fingerprint(cycles(1)).value() != el::fingerprint(cycles(1, 300, 2)).value());
}

TEST_CASE("a trainer that is given other data at a second fit does not mix them either") {
  Model model(plain());
  std::atomic<bool> stop{false};
  auto options = run(24, {});
  options.stop = &stop;
  el::Trainer trainer(model, fast, options, el::NoStages());
  trainer.fit(cycles(1), [&](const el::EpochReport& r) { stop = r.epoch == 12; });
  stop = false;
  const auto second = cycles(7);
  double best = 0;
  const auto result = trainer.fit(second, [&](const el::EpochReport& r) { best = std::max(best, r.valid.ndcg(20)); });
  CHECK(best > 0.3);
  CHECK(result.best_ndcg == best);
  CHECK(valid_ndcg(model, second) == best);
}

TEST_CASE("rows that mean other items are refused; new items behind the old ones are not") {
  const Place place;
  write_checkpoint(place.path);
  Model resumed(plain());
  el::Trainer trainer(resumed, fast, run(3, {}), el::NoStages());
  trainer.resume(place.path);
  CHECK(error_of([&] { trainer.fit(cycles(1, 300, 5)); }) ==
        "training: row 1 is item 5 in the data, expected item 1 as in " + place.path.string());

  Model larger(plain(70));
  el::Trainer second(larger, fast, run(3, {}), el::NoStages());
  second.fit(cycles(1));
  CHECK(error_of([&] { second.fit(cycles(1, 300, 5)); }) ==
        "training: row 1 is item 5 in the data, expected item 1 as in the run so far");
  CHECK(error_of([&] { second.fit(cycles(1, 300, 1, 65)); }) == "no error");
}

TEST_CASE("a checkpoint that could not be loaded for want of item ids is refused before training") {
  const Place place;
  Model model(plain(70));
  CHECK(error_of([&] { el::Trainer(model, fast, run(1, place.path), el::NoStages()).fit(cycles(1)); }) ==
        "training with a checkpoint: found data with 60 items, expected the model's 70, each of which needs an id in "
        "the file");
  CHECK(!fs::exists(place.path));
}

TEST_CASE("a training state of nonsense is refused and leaves the trainer as it was") {
  const Place place;
  const auto split = cycles(1);
  const auto refused = [&](bool inside, const std::string& what, const std::function<void(Parts&)>& change) {
    CAPTURE(what);
    write_checkpoint(place.path, inside);
    rewrite(place.path, change);
    Model model(plain());
    Model untouched(plain());
    el::Trainer trainer(model, fast, run(1, {}), el::NoStages());
    std::string found = "nothing thrown";
    try {
      trainer.resume(place.path);
    } catch (const el::FileError& error) {
      found = error.what();
    } catch (const el::Error& error) {
      found = std::string("not a FileError: ") + error.what();
    }
    CHECK(found.find(place.path.string() + ": ") == 0);
    CHECK(found.find(what) != std::string::npos);
    CHECK(trainer.epoch() == 0);
    CHECK(weights(model) == weights(untouched));
    trainer.fit(split);
    el::Trainer(untouched, fast, run(1, {}), el::NoStages()).fit(split);
    CHECK(weights(model) == weights(untouched));
  };
  const auto value = [&](bool inside, const std::string& key, const std::string& text, const std::string& expected) {
    refused(inside, "training." + key + ": found '" + text + "', expected " + expected,
            [&](Parts& parts) { parts.metadata.at("training." + key) = text; });
  };
  SUBCASE("batch") {
    for (const char* text : {"10", "11", "4000000000", "9223372036854775807", "-1"}) {
      value(true, "batch", text, "a whole number from 0 to 9");
    }
    value(false, "batch", "two", "a whole number from 0 to 9");
    value(false, "batch", "99999999999999999999", "a whole number from 0 to 9");
  }
  SUBCASE("epochs") {
    value(false, "epoch", "-5", "a whole number from 0 to ");
    value(false, "best_epoch", "99", "a whole number from 1 to 2");
    value(false, "best_epoch", "-1", "a whole number from 1 to 2");
    value(false, "measured_anew", "3", "a whole number from 0 to 2");
    value(false, "measured_anew", "-9223372036854775808", "a whole number from 0 to 2");
    value(false, "users", "0", "a whole number from 1 to ");
    value(false, "epoch", "1.5", "a whole number");
    value(false, "metric_cutoff", "0", "a whole number from 1 to ");
    value(false, "protocol", "PAPER", "strict or paper");
  }
  SUBCASE("best NDCG") {
    for (const char* text : {"nan", "-nan", "inf", "-inf", "2", "-0.5", "-1", "1e999", ""}) {
      value(false, "best_ndcg", text, "a number from 0 to 1");
    }
  }
  SUBCASE("steps") {
    value(false, "step", "21", "a whole number from 20 to 20");
    value(true, "step", "20", "a whole number from 28 to 28");
    value(false, "step", "-1", "a whole number");
    value(false, "optimizer_steps", "-1", "a whole number from 0 to ");
    value(false, "optimizer_steps", "9223372036854775807", "a whole number from 0 to ");
  }
  SUBCASE("sums of losses") {
    const std::string name = "training.loss_sums";
    refused(true, "tensor 'training.loss_sums': found 0 values, expected 2",
            [&](Parts& parts) { parts.doubles.at(name).clear(); });
    refused(true, "tensor 'training.loss_sums': found 3 values, expected 2",
            [&](Parts& parts) { parts.doubles.at(name).push_back(1); });
    refused(false, "tensor 'training.loss_sums': found 1 values, expected 0",
            [&](Parts& parts) { parts.doubles.at(name).push_back(1); });
    refused(true, "training.loss_sums", [&](Parts& parts) { parts.doubles.at(name)[0] = std::nan(""); });
  }
  SUBCASE("tensors") {
    const std::string square = "training.adam.square.item_embeddings.weight";
    refused(false, "tensor '" + square + "': found -1 at element 3, expected no negative value",
            [&](Parts& parts) { parts.floats.at(square)[3] = -1; });
    refused(false, square, [&](Parts& parts) { parts.floats.at(square)[3] = std::numeric_limits<float>::infinity(); });
    refused(false, "training.adam.mean.LayerNorm.bias",
            [&](Parts& parts) { parts.floats.at("training.adam.mean.LayerNorm.bias")[0] = std::nanf(""); });
    refused(false, "training.current.LayerNorm.bias",
            [&](Parts& parts) { parts.floats.at("training.current.LayerNorm.bias").pop_back(); });
    refused(false, "LayerNorm.bias", [&](Parts& parts) { parts.floats.at("LayerNorm.bias").pop_back(); });
    refused(false, "training.current.LayerNorm.bias",
            [&](Parts& parts) { parts.floats.erase("training.current.LayerNorm.bias"); });
  }
  SUBCASE("what nobody knows") {
    refused(false, "found unknown metadata 'training.epochs', expected only what this trainer",
            [](Parts& parts) { parts.metadata["training.epochs"] = "3"; });
    refused(false, "found unknown tensor 'training.sgd.velocity', expected only what this trainer",
            [](Parts& parts) { parts.floats["training.sgd.velocity"].push_back(1); });
    refused(true, "training.stages: found '1', expected a whole number from 0 to 0",
            [](Parts& parts) { parts.metadata["training.stages"] = "1"; });
  }
  SUBCASE("a value that is missing") {
    for (const char* key : {"epoch", "batch", "step", "best_ndcg", "best_epoch", "optimizer_steps", "users", "protocol",
                            "metric_cutoff", "measured_anew", "optimizer", "seed", "batch_size"}) {
      refused(false, "found no 'training." + std::string(key) + "' in the metadata",
              [&](Parts& parts) { parts.metadata.erase("training." + std::string(key)); });
    }
  }
}

TEST_CASE("an old checkpoint's place within an epoch is not trusted") {
  const Place place;
  for (const char* batch : {"1", "4000000000", "9223372036854775807"}) {
    write_checkpoint(place.path, true);
    make_old(place.path);
    rewrite(place.path, [&](Parts& parts) { parts.metadata.at("training.batch") = batch; });
    Model model(plain());
    el::Trainer trainer(model, fast, run(3, {}), el::NoStages());
    trainer.resume(place.path);
    const auto result = trainer.fit(cycles(1), [&](const el::EpochReport& report) {
      CHECK(report.losses.total < 5);
      CHECK(report.users_per_second > 0);
    });
    CHECK(result.epochs == 3);
    CHECK(result.note.find("epoch 3 begins anew") != std::string::npos);
  }
}

TEST_CASE("an old checkpoint of whole epochs goes on to the same bits") {
  const Place place;
  const auto split = cycles(1);
  Model whole(plain());
  const auto expected = el::Trainer(whole, fast, run(5, {}), el::NoStages()).fit(split);
  write_checkpoint(place.path);
  make_old(place.path);
  Model model(plain());
  el::Trainer trainer(model, fast, run(5, {}), el::NoStages());
  trainer.resume(place.path);
  const auto result = trainer.fit(split);
  CHECK(result.best_ndcg == expected.best_ndcg);
  CHECK(result.best_epoch == expected.best_epoch);
  CHECK(weights(model) == weights(whole));
}

TEST_CASE("options at the ends of their types train or are refused") {
  constexpr Index most = std::numeric_limits<Index>::max();
  const auto split = cycles(1, 40);
  const auto trained = [&](Index batch_size, Index epochs, int patience) {
    Model model(plain());
    auto options = run(epochs, {});
    options.batch_size = batch_size;
    options.patience = patience;
    options.schedule = {.shape = el::Schedule::Shape::cosine};
    std::atomic<bool> stop{false};
    options.stop = &stop;
    Index users = 0;
    el::Trainer(model, fast, options, el::NoStages()).fit(split, [&](const el::EpochReport& report) {
      users = std::lround(report.users_per_second * report.train_seconds);
      stop = report.epoch == 2;
    });
    CHECK(users == 40);
    return weights(model);
  };
  CHECK(trained(most, 2, 9) == trained(40, 2, 9));
  CHECK(trained(most - 7, 2, 9) == trained(40, 2, 9));
  CHECK(trained(16, most, std::numeric_limits<int>::max()) == trained(16, most / 3, 9));

  Model model(plain());
  const auto refusal = [&](const std::function<void(el::TrainerOptions&)>& change) {
    auto options = run(2, {});
    change(options);
    return error_of([&] { el::Trainer trainer(model, fast, options, el::NoStages()); });
  };
  CHECK(refusal([](auto& o) { o.batch_size = std::numeric_limits<Index>::min(); }).find("batch size: found -") == 0);
  CHECK(refusal([](auto& o) { o.metric_cutoff = 0; }) == "metric cutoff: found 0, expected at least 1");
  CHECK(refusal([](auto& o) {
          o.schedule.warmup_steps = std::numeric_limits<long>::min();
        }).find("warm-up steps: found -") == 0);
  CHECK(error_of([] { el::KMeansEnd({.restarts = 0}); }) == "k-means: found 0 restarts, expected at least 1");
  CHECK(error_of([] {
          el::KMeansStart({.iterations = std::numeric_limits<int>::min()});
        }).find("k-means: found -2147483648 iterations") == 0);
}
