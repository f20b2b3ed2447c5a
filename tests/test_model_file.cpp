// Any composition is saved with every setting of its components, and loads by its type alone.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/resource.h>

#include "elcrec/backend/reference.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/synthetic.hpp"
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/head/cosine.hpp"
#include "elcrec/head/dot_bias.hpp"
#include "elcrec/loss/intent_contrastive_loss.hpp"
#include "elcrec/model/cl4srec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/model/model_file.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/serve/snapshot.hpp"
#include "elcrec/train/trainer.hpp"
#include "model_files.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;
using el::test::TemporaryFile;

namespace {

using B = el::BasicReference<float>;
using Encoder = el::TransformerEncoder<el::Dynamic, B>;
using Metadata = std::map<std::string, std::string>;

using Intents = el::SequentialModel<Encoder, el::LearnableClusters<el::Dynamic, el::Dynamic, B>, el::CosineHead<B>,
                                    el::NextItemBy<el::NextItemLoss::softmax, el::PrefixView>, el::ProjectCenters,
                                    el::ClusterLoss, el::IntentContrastiveLoss<>>;
using Biased = el::SequentialModel<Encoder, el::DotBiasHead<B>, el::NextItemBpr,
                                   el::NextItemBy<el::NextItemLoss::softmax, el::ClozeView>, el::MaskQuery>;

const el::LeaveOneOut& split() {
  static const auto data = el::leave_one_out(el::make_synthetic({.users = 60, .items = 60}).data);
  return data;
}

el::TransformerOptions encoder_options() {
  return {.hidden = 8,
          .layers = 2,
          .heads = 4,
          .max_length = 6,
          .dropout = 0.1,
          .attention_dropout = 0.30000000000000004,
          .epsilon = 1e-7};
}

template <class Model, class... Parts>
Model make(Parts... parts) {
  Model model(B(), {split().item_count(), 5}, Encoder(B(), encoder_options(), 4), std::move(parts)...);
  model.padding = el::Padding::paper;
  return model;
}

el::CL4SRec<B> make_cl4srec() {
  auto model = make<el::CL4SRec<B>>();
  model.objective<el::SequenceContrast<>>() = {.weight = 0.25, .temperature = 2, .mask_false_negatives = true};
  model.view<el::AugmentedPair<>>().augmentation = el::CropMaskReorder(el::Crop{0.6}, el::Mask{0.3}, el::Reorder{0.5});
  return model;
}

Intents make_intents() {
  auto model =
      make<Intents>(el::LearnableClusters<el::Dynamic, el::Dynamic, B>(B(), 3, 48, 1), el::CosineHead<B>(0.25));
  model.pooling = el::Pooling::concat;
  model.objective<el::ClusterLoss>() = {.weight = 0.5,
                                        .pairs = el::CenterPairs::distinct,
                                        .assignment = el::Assignment::nearest,
                                        .pooling = el::Pooling::concat};
  auto& contrast = model.objective<el::IntentContrastiveLoss<>>();
  contrast.sequence.pooling = contrast.intent.pooling = el::Pooling::concat;
  contrast.intent.share_views = false;
  return model;
}

Biased make_biased() {
  auto model = make<Biased>(el::DotBiasHead<B>(B(), split().item_count() + 2));
  model.view<el::ClozeView>().mask_item = model.mask_item();
  model.view<el::ClozeView>().mask_ratio = 0.3;
  return model;
}

std::vector<float> weights(const auto& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    const auto values = el::test::to_host<float>(model.backend(), std::span<const float>(p.values.flat()));
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// The weights after another epoch.
std::vector<float> trained(auto& model) {
  el::Trainer trainer(model, el::Adam{.learning_rate = 1e-2}, {.epochs = 1, .batch_size = 32, .seed = 9});
  trainer.fit(split());
  return weights(model);
}

template <class Model>
void check_round_trip(Model model) {
  const TemporaryFile file;
  const auto ids = split().dataset().item_map();
  const auto before = weights(model);
  static_cast<void>(trained(model));
  REQUIRE(weights(model) != before);
  el::save_model(file.path, model, ids);
  auto loaded = el::load_model<Model>(file.path);
  CHECK(loaded.items == ids);
  CHECK(loaded.model.metadata() == model.metadata());
  CHECK(weights(loaded.model) == weights(model));
  const auto metrics = [](const Model& m) { return el::evaluate(m, split(), el::Split::test).ndcg(10); };
  CHECK(metrics(loaded.model) == metrics(model));
  const auto saved_weights = weights(model);
  const auto went_on = trained(model);
  CHECK(went_on != saved_weights);
  CHECK(trained(loaded.model) == went_on);
}

/// The file that save_model makes of a model, with other metadata and no checksums.
template <class Model>
void write_changed(const fs::path& path, const Model& model, const std::function<void(Metadata&)>& change) {
  Metadata metadata = model.metadata();
  change(metadata);
  el::SafetensorsWriter writer;
  for (const auto& [key, value] : metadata) {
    writer.metadata(key, value);
  }
  for (const auto& p : el::parameters(model)) {
    writer.add<float>(p.name, p.shape(), p.values.flat());
  }
  writer.write(path);
}

/// What loading a Model says, without the path, or "loaded".
template <class Model>
std::string load_error(const fs::path& path) {
  return el::test::load_error(path, [](const fs::path& from) { (void)el::load_model<Model>(from); });
}

/// A value of the same kind as an option's, and not the same.
std::string other_value(const std::string& value) {
  static const Metadata others{
      {"true", "false"},    {"false", "true"},   {"paper", "masked"}, {"causal", "bidirectional"}, {"mean", "last"},
      {"concat", "last"},   {"shift", "concat"}, {"all", "distinct"}, {"distinct", "all"},         {"every", "nearest"},
      {"nearest", "every"}, {"bce", "bpr"},      {"bpr", "softmax"},  {"softmax", "bce"}};
  const auto found = others.find(value);
  return found != others.end()                                           ? found->second
         : value.find_first_not_of("0123456789.e-") == std::string::npos ? (value == "0.125" ? "0.25" : "0.125")
                                                                         : "something else";
}

template <class Model>
void check_every_option(const Model& model) {
  const TemporaryFile file;
  Index accepted = 0;
  for (const auto& option : model.metadata()) {
    const std::string& key = option.first;  // Clang 14 lets no lambda use a structured binding
    const std::string& value = option.second;
    CAPTURE(key);
    write_changed(file.path, model, [&](Metadata& metadata) { metadata.erase(key); });
    const std::string missing = load_error<Model>(file.path);
    CHECK(missing.starts_with(key + ": found none, expected "));

    for (const std::string& other : {other_value(value), std::string("2"), std::string("-1"), std::string("nan")}) {
      CAPTURE(other);
      write_changed(file.path, model, [&](Metadata& metadata) { metadata[key] = other; });
      const std::string what = load_error<Model>(file.path);
      CAPTURE(what);
      CHECK(what.find("not a FileError") == std::string::npos);
      if (what == "loaded") {
        auto expected = model.metadata();
        expected[key] = other;
        CHECK(el::load_model<Model>(file.path).model.metadata() == expected);
        accepted += other == value ? 0 : 1;
      }
      CHECK((what != "loaded" || (other != "nan" && (other != "-1" || key == "seed"))));
    }
  }
  CHECK(accepted > 5);
}

}  // namespace

TEST_CASE("a composition loads by its type, with its metrics, and trains on as the saved one") {
  SUBCASE("SASRec") { check_round_trip(make<el::SasRec<B>>()); }
  SUBCASE("CL4SRec") { check_round_trip(make_cl4srec()); }
  SUBCASE("intents, a head, prefixes, a nested objective") { check_round_trip(make_intents()); }
  SUBCASE("a head with parameters, two objectives of one name") { check_round_trip(make_biased()); }
  SUBCASE("ELCRec") {
    el::ELCRecOptions o;
    o.items = split().item_count();
    o.max_length = 6;
    o.hidden = 8;
    o.intents = 4;
    o.samples = el::NextItemSamples::prefixes;
    o.filter_share = 0.5;
    o.filter_frequencies = 2;
    o.mask = 0.45;
    check_round_trip(el::ELCRec<B>(o));
  }
}

TEST_CASE("what a file says of a composition") {
  const auto metadata = make_cl4srec().metadata();
  const Metadata expected{{"format", "elcrec 2"},
                          {"model", "transformer + next_item + sequence_contrast"},
                          {"items", el::to_text(split().item_count())},
                          {"seed", "5"},
                          {"padding", "paper"},
                          {"pooling", "mean"},
                          {"encoder.hidden", "8"},
                          {"encoder.layers", "2"},
                          {"encoder.heads", "4"},
                          {"encoder.max_length", "6"},
                          {"encoder.dropout", "0.1"},
                          {"encoder.attention_dropout", "0.30000000000000004"},
                          {"encoder.epsilon", "1e-07"},
                          {"encoder.mask", "causal"},
                          {"encoder.filter_share", "0"},
                          {"encoder.filter_frequencies", "3"},
                          {"objective.next_item.weight", "1"},
                          {"objective.next_item.labels.smoothing", "0"},
                          {"objective.next_item.labels.agreement", "0"},
                          {"objective.next_item.labels.padding_competes", "false"},
                          {"objective.next_item.loss", "softmax"},
                          {"objective.next_item.view", "InputView"},
                          {"objective.sequence_contrast.weight", "0.25"},
                          {"objective.sequence_contrast.temperature", "2"},
                          {"objective.sequence_contrast.prototype", "shift"},
                          {"objective.sequence_contrast.pooling", "mean"},
                          {"objective.sequence_contrast.mask_false_negatives", "true"},
                          {"objective.sequence_contrast.view", "AugmentedPair"},
                          {"view.AugmentedPair.augmentation", "random"},
                          {"view.AugmentedPair.random.one_of", "crop, mask, reorder"},
                          {"view.AugmentedPair.random.crop.ratio", "0.6"},
                          {"view.AugmentedPair.random.mask.ratio", "0.3"},
                          {"view.AugmentedPair.random.reorder.ratio", "0.5"}};
  CHECK(metadata == expected);
  CHECK(make_biased().metadata().at("objective.next_item_2.loss") == "softmax");
}

TEST_CASE("every option of a file is read, and none may be missing or out of range") {
  SUBCASE("CL4SRec") { check_every_option(make_cl4srec()); }
  SUBCASE("intents") { check_every_option(make_intents()); }
  SUBCASE("a head with parameters") { check_every_option(make_biased()); }
}

TEST_CASE("another format, composition or option is refused by name") {
  const TemporaryFile file;
  const auto model = make_cl4srec();
  const auto refused = [&]<class Model>(std::type_identity<Model>, const std::string& key, const std::string& value,
                                        const std::string& expected) {
    write_changed(file.path, model, [&](Metadata& metadata) { metadata[key] = value; });
    CHECK(load_error<Model>(file.path) == expected);
  };
  const std::type_identity<el::CL4SRec<B>> same;
  refused(same, "format", "elcrec 3",
          "format: found 'elcrec 3', expected 'elcrec 2': the file was written by another version of elcrec");
  refused(
      same, "format", "pt",
      "format: found 'pt', expected 'elcrec 2': no file of save_model's. ELCRec's of any origin are for load_elcrec");
  refused(same, "model", "transformer",
          "model: found 'transformer', expected 'transformer + next_item + "
          "sequence_contrast'");
  refused(std::type_identity<el::SasRec<B>>(), "seed", "5",
          "model: found 'transformer + next_item + sequence_contrast', expected 'transformer + next_item'");
  refused(std::type_identity<el::CL4SRec<B, el::NextItemBce>>(), "seed", "5",
          "objective.next_item.loss: found 'softmax', expected 'bce', which the type fixes");
  refused(std::type_identity<
              el::SequentialModel<el::TransformerEncoder<16, B>, el::NextItemSoftmax, el::SequenceContrast<>>>(),
          "seed", "5", "hidden size: found 8, expected 16, the size that the encoder's type fixes");
  refused(same, "encoder.width", "8",
          "metadata: found unknown key 'encoder.width', expected an option of the model. Written by a newer version? "
          "What is a host's own begins with 'host.'");
  refused(same, "view.AugmentedPair.random.crop.ratio", "1.5",
          "view.AugmentedPair.random.crop.ratio: found 1.5, expected a share in [0, 1]");
  refused(same, "objective.sequence_contrast.weight", "-1",
          "objective.sequence_contrast.weight: found -1, expected 0 or more");
  refused(same, "host.note", "mine", "loaded");
  CHECK(error_of([&] { static_cast<void>(el::load_elcrec<B>(file.path)); }).find("model: found") != std::string::npos);
}

TEST_CASE("poolings of another width than the intents' are refused") {
  const TemporaryFile file;
  const auto model = make_intents();
  for (const char* key : {"pooling", "objective.cluster.pooling", "objective.intent_contrastive.sequence.pooling",
                          "objective.intent_contrastive.intent.pooling"}) {
    write_changed(file.path, model, [&](Metadata& metadata) { metadata[key] = "mean"; });
    const std::string what = load_error<Intents>(file.path);
    CAPTURE(what);
    CHECK(what.ends_with("pooling: found mean, which makes 8 columns, expected as many as the intents have, 48"));
  }
}

TEST_CASE("sizes that a file does not hold are refused before anything is built") {
  const TemporaryFile file;
  const auto model = make_intents();
  const auto biased = make_biased();
  const auto peak = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const auto before = peak();
  for (const char* value : {"4611686018427387904", "9223372036854775807", "-4611686018427387904", "-1", "0",
                            "1000000000", "30000000", "9223372036854775808"}) {
    CAPTURE(value);
    for (const char* key : {"items", "encoder.max_length", "encoder.hidden", "encoder.layers", "encoder.heads",
                            "clusters.count", "clusters.hidden"}) {
      CAPTURE(key);
      write_changed(file.path, model, [&](Metadata& metadata) { metadata[key] = value; });
      const std::string what = load_error<Intents>(file.path);
      CHECK(what != "loaded");
      CHECK(what.find("not a FileError") == std::string::npos);
    }
    write_changed(file.path, biased, [&](Metadata& metadata) { metadata["dot_bias_head.table_rows"] = value; });
    const std::string what = load_error<Biased>(file.path);
    CHECK(what != "loaded");
    CHECK(what.find("not a FileError") == std::string::npos);
  }
  CHECK(peak() - before < 100'000);  // KB
}

TEST_CASE("a checkpoint of the trainer loads by its type, and is served from a snapshot") {
  const TemporaryFile file;
  using Model = el::CL4SRec<B>;
  Model model = make_cl4srec();
  el::Trainer trainer(model, el::Adam{}, {.epochs = 2, .batch_size = 32, .checkpoint = file.path});
  trainer.fit(split());
  const el::Snapshot snapshot(el::load_model<Model>(file.path), el::ScoreTable::model);
  CHECK(snapshot.model().metadata() == model.metadata());
  const el::Recommender recommender(model, el::ScoreTable::model);
  auto rows = recommender.make_scratch();
  auto scratch = snapshot.make_scratch();
  const auto history = split().input(3, el::Split::test);
  std::vector<std::int64_t> names;
  for (const auto item : history) {
    names.push_back(snapshot.items().name(item));
  }
  const auto expected = recommender.recommend(history, 5, rows);
  const auto found = snapshot.recommend(names, 5, scratch, el::UnknownItems::refuse);
  REQUIRE(found.size() == 5);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(found[i].name == snapshot.items().name(expected[i].item));
    CHECK(found[i].score == expected[i].score);
  }
}

TEST_CASE("ELCRec is a composition among others") {
  const TemporaryFile file;
  el::ELCRecOptions o;
  o.items = 9;
  o.max_length = 6;
  o.hidden = 8;
  o.intents = 4;
  o.seed = 11;
  o.temperature = 0.5;
  el::ELCRec<B> model(o);
  CHECK(el::to_metadata(model.options()) == el::to_metadata(o));
  model.objective<el::ClusterLoss>().weight = 0.75;  // saved as it is now, not as it was made
  el::save_model(file.path, model, el::ItemMap::identity(9));
  o.trade_off = 0.75;
  CHECK(el::to_metadata(el::load_elcrec<B>(file.path).model.options()) == el::to_metadata(o));
  CHECK(el::to_metadata(el::load_model<el::ELCRec<B>>(file.path).model.options()) == el::to_metadata(o));
  CHECK(el::load_model<el::ELCRec<B>::Composition>(file.path).model.metadata() == model.metadata());
  CHECK(el::load_model<el::ELCRec<el::Reference>>(file.path).model.metadata() == model.metadata());

  // As before there were formats: the options by ELCRec's own names.
  write_changed(file.path, model, [&](Metadata& metadata) { metadata = el::to_metadata(o); });
  const auto old = el::load_elcrec<B>(file.path);
  CHECK(old.model.metadata() == model.metadata());
  CHECK(weights(old.model) == weights(model));
  CHECK(load_error<el::ELCRec<B>>(file.path) ==
        "format: found none, expected 'elcrec 2': no file of save_model's. ELCRec's of any origin are for load_elcrec");
}

namespace {

/// An encoder that leaves a parameter out of its shapes.
struct Forgetful : Encoder {
  using Encoder::Encoder;
  static void visit_shapes(const Options& o, auto&& visitor) {
    visitor("position_embeddings.weight", std::vector<Index>{o.max_length, o.hidden});
  }
};

}  // namespace

TEST_CASE("a part whose visit_shapes is not what it has is not saved") {
  const TemporaryFile file;
  auto o = encoder_options();
  o.layers = 0;
  const el::SequentialModel<Forgetful, el::NextItemBce> model(B(), 9, Forgetful(B(), o));
  CHECK(error_of([&] { el::save_model(file.path, model, el::ItemMap::identity(9)); }) ==
        "options: found no shape for 'LayerNorm.weight' (1 x 8), expected what visit_parameters shows");
  CHECK_FALSE(fs::exists(file.path));
}
