// Every value and gradient that the authors' released implementation gives in float64 on small inputs.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/io/safetensors.hpp"
#include "elcrec/model/elcrec.hpp"
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
#define EVERY_BACKEND el::BasicCuda<double>, el::BasicCuda<float>
#else
#define EVERY_BACKEND                                                                                     \
  el::BasicReference<double>, el::BasicCpu<double>, el::BasicEigenCpu<double>, el::BasicReference<float>, \
      el::BasicCpu<float>, el::BasicEigenCpu<float>
#endif

namespace {

std::vector<std::filesystem::path> golden_files() {
  const char* chosen = std::getenv("ELCREC_GOLDEN_DIR");
  const std::filesystem::path folder = chosen != nullptr
                                           ? std::filesystem::path(chosen)
                                           : std::filesystem::path(el::test::source_folder) / "tests/golden";
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A golden file and the model that its metadata describes, with its parameters.
template <class B>
struct Golden {
  using T = typename B::Scalar;
  using Model = el::ELCRec<B>;

  el::SafetensorsFile file;
  Model model;
  el::StepBatches<Model> batches;
  double tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-4;

  Golden(const std::filesystem::path& path, const B& backend)
      : file(el::SafetensorsFile::read(path)), model(options(file), backend) {
    load();
    const Index batch = std::stol(text("batch"));
    auto& input = batches.template of<el::InputView>();
    auto& pair = batches.template of<el::AugmentedPair<>>();
    input.start(model.max_length(), el::Padding::paper);
    pair.start(model.max_length(), el::Padding::paper);
    const auto ids = file.read<el::ItemId>("input_ids");
    const auto targets = file.read<el::ItemId>("target_pos");
    const auto negatives = file.read<el::ItemId>("target_neg");
    for (Index b = 0; b < batch; ++b) {
      const auto row = [&](const std::vector<el::ItemId>& m) {
        return el::slice(std::span<const el::ItemId>(m), b * model.max_length(), (b + 1) * model.max_length());
      };
      input.add(row(ids), {el::with<el::Targets>(row(targets)), el::with<el::Negatives>(row(negatives))});
    }
    for (const char* name : {"view1", "view2"}) {
      const auto view = file.read<el::ItemId>(name);
      for (Index b = 0; b < batch; ++b) {
        pair.add(el::slice(std::span<const el::ItemId>(view), b * model.max_length(), (b + 1) * model.max_length()));
      }
    }
    el::index_positions(pair);
  }

  std::string text(const std::string& key) const { return file.metadata().at(key); }
  double number(const std::string& key) const { return std::stod(text(key)); }

  static el::ELCRecOptions options(const el::SafetensorsFile& f) {
    const auto& m = f.metadata();
    el::ELCRecOptions o;
    o.items = std::stol(m.at("items"));
    o.max_length = std::stol(m.at("max_length"));
    o.hidden = std::stol(m.at("hidden"));
    o.layers = std::stol(m.at("layers"));
    o.heads = std::stol(m.at("heads"));
    o.intents = std::stol(m.at("intents"));
    o.padding = el::Padding::paper;
    o.prototype = m.at("prototype") == "shift" ? el::Prototype::shift : el::Prototype::concat;
    o.sequence_weight = std::stod(m.at("instance_weight"));
    o.intent_weight = std::stod(m.at("intent_weight"));
    o.trade_off = std::stod(m.at("trade_off"));
    o.temperature = std::stod(m.at("temperature"));
    o.dropout = 0;
    o.attention_dropout = 0;
    return o;
  }

  void load() {
    for (auto& p : el::parameters(model)) {
      const auto values = file.template read<T>("param." + p.name);
      model.backend().template copy<T>(values, p.values.flat());
    }
  }

  void set_weights(double next_item, double sequence, double cluster, double intent) {
    std::get<0>(model.objectives).weight = next_item;
    std::get<1>(model.objectives).weight = sequence;
    std::get<2>(model.objectives).weight = cluster;
    std::get<3>(model.objectives).weight = intent;
  }

  void check(const std::string& name, el::MatrixView<const T> matrix) const {
    const auto expected = file.template read<double>(name);
    const auto found = to_host(model.backend(), matrix);
    REQUIRE(expected.size() == found.size());
    double largest = 0;
    for (const double v : expected) {
      largest = std::max(largest, std::abs(v));
    }
    // A key bias moves all scores of a query alike, so its gradient is 0 and the file holds rounding noise (1e-16):
    // compared with 1, the size of the gradients around it.
    largest = largest < 1e-12 ? 1 : largest;
    double worst = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double difference = std::abs(found[i] - expected[i]);
      worst = std::isfinite(difference) ? std::max(worst, difference / largest) : INFINITY;
    }
    INFO(name << ": largest value " << largest << ", worst relative difference " << worst);
    CHECK(worst < tolerance);
  }

  void check_loss(const std::string& name, double found) const {
    INFO(name);
    CHECK(std::abs(found / file.template read<double>(name).at(0) - 1) < tolerance);
  }

  void check_gradients(const std::string& prefix, el::TrainingPass<Model>& pass) const {
    for (const auto& p : pass.gradients()) {
      check("grad." + prefix + "." + p.name, p.values);
    }
  }
};

template <class B>
void check_file(const std::filesystem::path& path, const B& backend) {
  using T = typename B::Scalar;
  CAPTURE(path.filename().string());
  Golden<B> golden(path, backend);
  auto& model = golden.model;

  const el::test::Staged<B> staged_input(backend, golden.batches.template of<el::InputView>());
  const el::test::Staged<B> staged_pair(backend, golden.batches.template of<el::AugmentedPair<>>());
  const auto input = staged_input.view();
  const auto pair = staged_pair.view();
  el::Matrix<B> users(backend, input.sequences(), model.hidden());
  el::Matrix<B> norms(backend, 1, input.sequences());
  el::Matrix<B> scores(backend, input.sequences(), model.items().rows());
  auto ids = backend.template allocate<std::int32_t>(pair.tokens());
  const auto nearest = [&](auto& lane, el::MatrixView<const T> x, const std::string& name) {
    const std::span<std::int32_t> found(ids.data(), static_cast<std::size_t>(x.rows()));
    model.clusters().nearest(lane, x, found);
    CHECK(to_host<std::int32_t>(backend, std::span<const std::int32_t>(found)) ==
          golden.file.template read<std::int32_t>(name));
  };
  backend.parallel_for(1, [&](auto& lane, Index) {
    model.encode(lane, input, [&](auto y) { golden.check("out.sequence_output", y); });
    model.encode(lane, pair, [&](auto y) {
      golden.check("out.view_output", y);
      nearest(lane, y, "out.token_intent");
    });
    model.encode_user(lane, input, users.view());
    normalize_rows(lane, users.view(), norms.view(), users.view());
    golden.check("out.user_embedding", users.view());
    nearest(lane, users.view(), "out.intent");
    model.encode_last(lane, input, users.view());
    lane.multiply_nt(users.view(), model.items(), scores.view(), el::Write::replace);
    golden.check("out.last_scores", scores.view());
  });

  el::TrainingPass<el::ELCRec<B>> pass(model);
  const auto run = [&](double next_item, double sequence, double cluster, double intent) {
    golden.set_weights(next_item, sequence, cluster, intent);
    return pass.run(golden.batches, 0, 0, false);
  };
  golden.check_loss("loss.rec", run(1, 0, 0, 0).total);
  golden.check_gradients("rec", pass);
  golden.check_loss("loss.instance_cl", run(0, 1, 0, 0).total);
  golden.check_gradients("instance_cl", pass);
  const double cluster = golden.file.template read<double>("loss.cluster_sample").at(0) +
                         golden.file.template read<double>("loss.cluster_center").at(0);
  CHECK(std::abs(run(0, 0, 1, 0).total - cluster) < golden.tolerance * std::abs(cluster));
  golden.check_gradients("cluster", pass);
  for (const bool share_views : {true, false}) {  // without dropout the same
    std::get<3>(model.objectives).share_views = share_views;
    golden.check_loss("loss.intent_cl", run(0, 0, 0, 1).total);
    golden.check_gradients("intent_cl", pass);
  }

  const auto joint = [&] {
    return run(1, golden.number("instance_weight"), golden.number("trade_off"), golden.number("intent_weight"));
  };
  golden.check_loss("loss.joint", joint().total);
  golden.check_gradients("joint", pass);

  auto parameters = el::parameters(model);
  el::Adam::State<B> adam(el::Adam{.learning_rate = golden.number("lr")}, backend, parameters);
  for (int step = 0; step < 3; ++step) {
    golden.check_loss("adam.loss." + std::to_string(step), joint().total);
    const auto gradients = pass.gradients();
    adam.step(backend, parameters, gradients, 1.0);
  }
  if (std::is_same_v<T, double>) {  // Adam turns a float gradient that cancels to noise into a step of full size
    for (const auto& p : parameters) {
      golden.check("adam.param." + p.name, p.values);
    }
  }
}

}  // namespace

TEST_CASE("there are golden files") { CHECK_FALSE(golden_files().empty()); }

TEST_CASE_TEMPLATE("golden values", B, EVERY_BACKEND) {
  for (const auto& path : golden_files()) {
    check_file(path, B());
  }
}
