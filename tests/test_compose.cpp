// The models of examples/compose, written outside the library, against golden values and through all that the library
// does.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "compose/bpr_mf.hpp"
#include "compose/gru4rec.hpp"
#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/io/safetensors.hpp"
#include "elcrec/model/training_pass.hpp"
#include "elcrec/optim/adam.hpp"
#include "paths.hpp"
#include "support.hpp"
#ifdef ELCREC_TEST_CUDA
#include "elcrec/backend/cuda.hpp"
#else
#include "elcrec/backend/eigen_cpu.hpp"
#endif

namespace el = elcrec;
using el::Index;
using el::test::to_host;

/// Compiled once more against the CUDA backend.
#ifdef ELCREC_TEST_CUDA
#define EVERY_BACKEND el::BasicCuda<double>
#else
#define EVERY_BACKEND el::BasicReference<double>, el::BasicCpu<double>, el::BasicEigenCpu<double>
#endif

namespace {

/// A golden file of ../shared/golden/baselines (its README has equations and tolerances) and a model to hold against
/// it.
template <class Model>
struct Baseline {
  using B = typename Model::Backend;

  el::SafetensorsFile file;
  Model model;
  el::StepBatches<Model> batches{};

  [[nodiscard]] Index number(const std::string& key) const { return std::stol(file.metadata().at(key)); }
  [[nodiscard]] std::vector<el::ItemId> ids(const std::string& name) const {
    const auto read = file.read<std::int64_t>(name);
    return {read.begin(), read.end()};
  }

  /// Where a parameter stands in the file: its name there, and which of our rows the file's first is.
  struct Place {
    std::string name;
    Index first = 0;
  };
  static Place place(const std::string& name) {
    return name == "item_embeddings.weight"  ? Place{"item_embedding.weight"}
           : name == "user_embedding.weight" ? Place{name, 1}
                                             : Place{name};
  }

  /// The rows of a parameter or its gradient that the file has.
  template <class T>
  el::MatrixView<T> rows_of(const el::Parameter<T>& p) const {
    const auto [name, first] = place(p.name);
    const auto& shape = file.info("param." + name).shape;
    return p.values.slice_rows(first, first + (shape.size() == 1 ? 1 : shape[0]));
  }

  void load() {
    for (auto& p : el::parameters(model)) {
      const auto values = file.read<double>("param." + place(p.name).name);
      model.backend().template copy<double>(values, rows_of(p).flat());
    }
  }

  void compare(const std::string& name, const std::vector<double>& found, double tolerance) const {
    const auto expected = file.read<double>(name);
    REQUIRE(expected.size() == found.size());
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      worst = std::max(worst, std::abs(found[i] - expected[i]));
    }
    CAPTURE(name);
    CHECK(worst <= tolerance);
  }

  /// Loss, gradients and three steps of Adam.
  void check_training(const std::string& loss) {
    load();
    el::TrainingPass<Model> pass(model);
    const auto parameters = el::parameters(model);
    typename el::Adam::State<B> adam(el::Adam{.learning_rate = 1e-3}, model.backend(), parameters);
    for (int step = 0; step < 3; ++step) {
      const double found = pass.run(batches, 0, 0).total;
      const auto gradients = pass.gradients();
      if (step == 0) {
        const double expected = file.read<double>("loss." + loss).at(0);
        CHECK(found == doctest::Approx(expected).epsilon(1e-10));
        for (const auto& p : gradients) {
          compare("grad." + loss + "." + place(p.name).name, to_host(model.backend(), rows_of(p)),
                  1e-10 * std::max(1.0, expected));
        }
      }
      const std::string run = loss == "bpr" && file.contains("adam_bpr.loss.0") ? "adam_bpr" : "adam";
      CHECK(found == doctest::Approx(file.read<double>(run + ".loss." + std::to_string(step)).at(0)).epsilon(1e-7));
      adam.step(model.backend(), parameters, gradients, 1.0);
    }
    if (!(loss == "bpr" && file.contains("adam_bpr.loss.0"))) {
      for (const auto& p : parameters) {
        compare("adam.param." + place(p.name).name, to_host(model.backend(), rows_of(p)), 1e-7);
      }
    }
  }
};

el::SafetensorsFile baseline(const std::string& name) {
  return el::SafetensorsFile::read(std::filesystem::path(el::test::source_folder) / "tests/golden/baselines" /
                                   (name + ".safetensors"));
}

/// The scores of every history against the file's (S, items).
template <class Model>
std::vector<double> last_scores(const Model& model, const el::TokenBatch& batch, Index items) {
  using B = typename Model::Backend;
  const auto& backend = model.backend();
  el::Matrix<B> scores(backend, batch.sequences(), items);
  backend.parallel_for(1, [&](auto& lane, Index) {
    const auto frame = lane.workspace().frame();
    const auto q = lane.workspace().template matrix<double>(batch.sequences(), model.query_columns());
    model.encode_query(lane, lane.stage(batch.view()), q);
    lane.multiply_nt(q, model.scored_items().view().slice_rows(0, items), scores.view(), el::Write::replace);
  });
  return to_host(backend, scores.view());
}

}  // namespace

TEST_CASE_TEMPLATE("matrix factorisation by BPR equals RecBole's", B, EVERY_BACKEND) {
  const B backend;
  using Model = compose::BprMf<B>;
  const auto file = baseline("bpr_mf");
  const Index items = std::stol(file.metadata().at("items"));
  const Index users = std::stol(file.metadata().at("users"));
  Baseline<Model> golden{file, Model(backend, items - 1, compose::UserTable<B>(backend, {users, 16, 1}))};
  auto& batch = golden.batches.template of<el::InputView>();
  batch.start(1, el::Padding::masked);
  const auto positives = golden.ids("pos_items");
  const auto negatives = golden.ids("neg_items");
  const auto user_ids = golden.ids("user_ids");
  for (std::size_t i = 0; i < positives.size(); ++i) {
    const std::vector<el::ItemId> any{1};
    batch.add(any, {el::with<el::Targets>(positives[i]), el::with<el::Negatives>(negatives[i]),
                    el::with<el::Users>(el::user_row(user_ids[i]))});
  }
  golden.load();
  golden.compare("out.last_scores", last_scores(golden.model, batch, items), 1e-10);
  golden.check_training("bpr");
}

TEST_CASE_TEMPLATE("GRU4Rec equals RecBole's", B, EVERY_BACKEND) {
  const B backend;
  using Model = compose::Gru4Rec<B>;
  const auto file = baseline("gru4rec");
  const Index items = std::stol(file.metadata().at("items"));
  const Index length = std::stol(file.metadata().at("max_length"));
  Baseline<Model> golden{file, Model(backend, items - 1, compose::GruEncoder<B>(backend, {16, 24, length}))};
  golden.model.template objective<el::NextItemSoftmax>().labels.padding_competes = true;
  auto& batch = golden.batches.template of<el::InputView>();
  batch.start(length, el::Padding::masked);
  const auto ids = golden.ids("input_ids");
  const auto lengths = golden.ids("lengths");
  const auto positives = golden.ids("pos_items");
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto history = el::slice(std::span<const el::ItemId>(ids), static_cast<Index>(i) * length,
                                   static_cast<Index>(i) * length + lengths[i]);
    std::vector<el::ItemId> targets(history.size(), el::padding_item);
    targets.back() = positives[i];
    batch.add(history, {el::with<el::Targets>(targets)});
  }
  golden.load();
  golden.compare("out.last_scores", last_scores(golden.model, batch, items), 1e-10);
  golden.check_training("ce");
}

namespace {

/// The loss as one that needs the whole batch's encodings: in little memory each sequence is encoded again by itself.
struct WholeBatchBpr {
  using Views = el::TypeList<el::InputView>;
  static constexpr std::string_view name = "bpr";
  double weight = 1.0;

  void evaluate(el::TrainingStep auto& step) const {
    auto& users = step.template encoding<el::InputView>();
    el::pairwise_loss(step, users, el::PairwiseLoss::bpr, weight, step.loss(*this));
  }
};

}  // namespace

TEST_CASE_TEMPLATE("rows that an encoder adds live until they are added up, however a slice is cut", B, EVERY_BACKEND) {
  const B backend;
  using Model = el::SequentialModel<compose::UserTable<B>, WholeBatchBpr>;
  Model model(backend, 60, compose::UserTable<B>(backend, {60, 8, 5}, 3));
  const auto split = el::leave_one_out(el::make_synthetic({.users = 60, .items = 60}).data);
  const el::UniformNegativeSampler negatives(split.dataset());
  el::StepBatches<Model> batches;
  std::vector<Index> users(60);
  std::iota(users.begin(), users.end(), Index{0});
  batches.build(model, {&split, &negatives, 1, 2}, users);
  el::TrainingPass<Model> whole(model);
  el::TrainingPass<Model> little(model, 1);
  whole.run(batches, 0, 0);
  little.run(batches, 0, 0);
  const auto expected = to_host(backend, whole.gradients().back().values);
  const auto found = to_host(backend, little.gradients().back().values);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-12));
  }
}

TEST_CASE_TEMPLATE("a user table's gradient is rows, under any memory", B, EVERY_BACKEND) {
  const B backend;
  using Model = compose::BprMf<B>;
  Model model(backend, 60, compose::UserTable<B>(backend, {20, 8, 5}));
  const auto split = el::leave_one_out(el::make_synthetic({.users = 20, .items = 60}).data);
  const el::UniformNegativeSampler negatives(split.dataset());
  el::StepBatches<Model> batches;
  const std::vector<Index> users{3, 7, 12};
  batches.build(model, {&split, &negatives, 1, 2}, users);
  el::TrainingPass<Model> whole(model);
  el::TrainingPass<Model> little(model, 1);
  const double loss = whole.run(batches, 0, 0).total;
  CHECK(little.run(batches, 0, 0).total == doctest::Approx(loss).epsilon(1e-12));
  const auto a = whole.gradients();
  const auto b = little.gradients();
  REQUIRE(a.back().name == "user_embedding.weight");
  REQUIRE(a.back().rows.has_value());
  auto touched = to_host(backend, *a.back().rows);
  std::ranges::sort(touched);
  CHECK(touched == std::vector<std::int32_t>{4, 8, 13});
  const auto expected = to_host(backend, a.back().values);
  const auto found = to_host(backend, b.back().values);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(found[i] == doctest::Approx(expected[i]).epsilon(1e-12));
  }
}

namespace {

/// What a model serves to every user, with its scores.
template <class Model>
std::vector<std::pair<el::ItemId, float>> served(const Model& model, const el::LeaveOneOut& split) {
  std::vector<std::pair<el::ItemId, float>> all;
  const el::Recommender recommender(model);
  auto scratch = recommender.make_scratch();
  for (Index user = 0; user < split.user_count(); ++user) {
    const auto history = split.input(user, el::Split::test);
    for (const auto& [item, score] : recommender.recommend(history, 5, scratch, false, el::user_row(user))) {
      all.emplace_back(item, score);
    }
  }
  return all;
}

template <class Model>
void check_saved(Model model) {
  const auto split = el::leave_one_out(el::make_synthetic({.users = 20, .items = 60}).data);
  el::Trainer(model, el::Adam{}, {.epochs = 2, .batch_size = 8}).fit(split);
  const auto path = std::filesystem::temp_directory_path() / el::message("elcrec_compose_", getpid(), ".safetensors");
  el::save_model(path, model, split.dataset().item_map());
  const auto loaded = el::load_model<Model>(path, model.backend());
  std::filesystem::remove(path);
  CHECK(served(loaded.model, split) == served(model, split));
  CHECK(el::evaluate(loaded.model, split, el::Split::test).ndcg(20) ==
        el::evaluate(model, split, el::Split::test).ndcg(20));
}

}  // namespace

TEST_CASE_TEMPLATE("models of one's own are trained, saved, loaded, evaluated and served", B, EVERY_BACKEND) {
  const B backend;
  check_saved(compose::BprMf<B>(backend, 60, compose::UserTable<B>(backend, {20, 8, 5})));
  check_saved(compose::Gru4Rec<B>(backend, 60, compose::GruEncoder<B>(backend, {8, 6, 5})));
}
