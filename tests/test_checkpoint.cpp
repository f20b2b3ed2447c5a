#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <sys/resource.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/serve/recommender.hpp"
#include "model_files.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;
using el::test::TemporaryFile;

namespace {

using Backend = el::BasicReference<float>;
using Model = el::ELCRec<Backend>;
using Metadata = std::map<std::string, std::string>;

el::ELCRecOptions small_options() {
  el::ELCRecOptions o;
  o.items = 5;
  o.max_length = 3;
  o.hidden = 4;
  o.heads = 4;
  o.intents = 2;
  o.padding = el::Padding::paper;
  return o;
}

std::vector<float> weights(const Model& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    const auto values = el::test::to_host<float>(model.backend(), std::span<const float>(p.values.flat()));
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// Tensors of a file that a test writes by hand, as it likes.
struct Tensors {
  std::map<std::string, std::vector<Index>> shapes;

  explicit Tensors(const Model& model) {
    for (const auto& p : el::parameters(model)) {
      shapes[p.name] = p.shape();
    }
  }

  /// Writes them, all ones, and the metadata.
  void write(const fs::path& path, const Metadata& metadata, Index ids = 0) const {
    el::SafetensorsWriter writer;
    for (const auto& [key, value] : metadata) {
      writer.metadata(key, value);
    }
    std::vector<std::vector<float>> values;
    for (const auto& [name, shape] : shapes) {
      std::size_t n = 1;
      for (const Index extent : shape) {
        n *= static_cast<std::size_t>(extent);
      }
      values.emplace_back(n, 1.0F);
      writer.add<float>(name, shape, values.back());
    }
    std::vector<std::int64_t> names;
    for (Index i = 1; i <= ids; ++i) {
      names.push_back(i);
    }
    if (ids > 0) {
      writer.add<std::int64_t>("item_ids", {ids}, names);
    }
    writer.write(path);
  }
};

/// What loading an ELCRec says, without the path, or "loaded".
std::string load_error(const fs::path& path) {
  return el::test::load_error(path, [](const fs::path& from) { (void)el::load_elcrec<Backend>(from); });
}

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_content(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc).write(text.data(), static_cast<std::streamsize>(text.size()));
}

}  // namespace

TEST_CASE("checkpoint: no flipped byte changes a model unnoticed") {
  const TemporaryFile file;
  const Model model(small_options());
  const el::ItemMap items(std::vector<std::int64_t>{11, 12, 13, 14, 15});
  el::CheckpointWriter writer;
  for (const auto& [key, value] : model.metadata()) {
    writer.metadata(key, value);
  }
  writer.metadata("training.epoch", "7");
  writer.metadata("run.epochs", "40");
  writer.metadata("host.note", "mine");
  writer.add_parameters(model.backend(), model);
  writer.add(items);
  writer.write(file.path);
  const std::string good = content(file.path);
  const auto metadata = el::SafetensorsFile::read(file.path).metadata();
  const auto expected = weights(model);
  REQUIRE(load_error(file.path) == "loaded");

  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), sizeof(header));
  std::size_t unnoticed = 0;
  std::size_t accepted_data = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int flip : {1, 2, 8, 32, 128, 255}) {
      std::string damaged = good;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      try {
        const auto read = el::SafetensorsFile::parse(std::as_bytes(std::span(damaged)), "damaged");
        el::verify_checksums(read);
        const auto loaded = el::load_elcrec<Backend>(read);
        const bool same = weights(loaded.model) == expected && loaded.model.metadata() == model.metadata() &&
                          loaded.items == items && read.metadata() == metadata;
        unnoticed += same ? 0 : 1;
        accepted_data += at >= sizeof(header) + header ? 1 : 0;
      } catch (const el::FileError&) {
      }
    }
  }
  CHECK(unnoticed == 0);
  CHECK(accepted_data == 0);
}

TEST_CASE("checkpoint: the checksums are of names, types, shapes, keys and bytes") {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const auto of = [](const std::string& name, const std::vector<Index>& shape, const auto& data) {
    el::SafetensorsWriter writer;
    writer.add(name, shape, std::span(data));
    return el::detail::checksum_of_tensors(writer);
  };
  const auto digest = of("a", {2, 3}, values);
  CHECK(digest == of("a", {2, 3}, std::vector<float>(values)));
  CHECK(digest != of("b", {2, 3}, values));
  CHECK(digest != of("a", {3, 2}, values));
  CHECK(digest != of("a", {2, 3}, std::vector<float>{1, 2, 3, 4, 5, 7}));
  CHECK(of("a", {2}, std::vector<std::int32_t>{1, 2}) != of("a", {2}, std::vector<std::uint32_t>{1, 2}));
  CHECK(el::detail::checksum_of({{"heads", "2"}}) != el::detail::checksum_of({{"layers", "2"}}));
  CHECK(el::detail::checksum_of({{"heads", "2"}}) != el::detail::checksum_of({{"heads", "4"}}));
}

TEST_CASE("checkpoint: numbers that are not finite are not saved") {
  const TemporaryFile file;
  Model model(small_options());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    model.items()(2, 1) = bad;
    CHECK_THROWS_WITH_AS(
        el::save_model(file.path, model, el::ItemMap::identity(5)),
        "checkpoint: tensor 'item_embeddings.weight' holds numbers that are not finite; expected finite ones",
        el::DivergenceError);
    CHECK_FALSE(fs::exists(file.path));
  }
}

TEST_CASE("checkpoint: what was edited by hand is told, and how to load it all the same") {
  const TemporaryFile file;
  const Model model(small_options());
  el::save_model(file.path, model, el::ItemMap::identity(5));
  const std::string good = content(file.path);

  std::string edited = good;
  const auto heads = edited.find(R"("encoder.heads":"4")");
  REQUIRE(heads != std::string::npos);
  edited.replace(heads, 19, R"("encoder.heads":"2")");
  write_content(file.path, edited);
  const std::string what = load_error(file.path);
  CHECK(what.find("metadata: found checksum ") == 0);
  CHECK(what.find("its metadata were edited. To load it as it is, remove 'checksum.metadata' and 'checksum.tensors'") !=
        std::string::npos);

  std::string one = good;
  const auto key = one.find("checksum.tensors");
  REQUIRE(key != std::string::npos);
  one.replace(key, 16, "host.xxx.tensors");
  write_content(file.path, one);
  CHECK(load_error(file.path) ==
        "metadata: found one of 'checksum.metadata' and 'checksum.tensors', expected both or none");

  std::string last = good;
  last.back() = static_cast<char>(last.back() ^ 1);
  write_content(file.path, last);
  CHECK(load_error(file.path).find("tensors: found checksum ") == 0);
}

TEST_CASE("checkpoint: metadata go over what the shapes tell, and contradictions are refused") {
  const TemporaryFile file;
  auto o = small_options();
  const Tensors tensors{Model(o)};
  const auto loaded_with = [&](const Metadata& metadata) {
    tensors.write(file.path, metadata);
    return el::to_metadata(el::load_elcrec<Backend>(file.path).model.options());
  };

  auto expected = el::to_metadata(o);
  expected["heads"] = "2";
  CHECK(loaded_with({}) == expected);
  CHECK(loaded_with({{"format", "pt"}}) == expected);
  CHECK(loaded_with({{"host.anything", "x"}, {"run.epochs", "3"}, {"training.epoch", "2"}}) == expected);
  CHECK(loaded_with({{"heads", "4"}})["heads"] == "4");
  CHECK(loaded_with({{"padding", "masked"}})["padding"] == "masked");
  CHECK(loaded_with({{"pooling", "last"}})["pooling"] == "last");
  CHECK(loaded_with({{"hidden", "4"}, {"heads", "1"}})["heads"] == "1");
  CHECK(loaded_with(el::to_metadata(o)) == el::to_metadata(o));

  o.pooling = el::Pooling::concat;  // as the width of the centers tells
  expected["pooling"] = "concat";
  Tensors{Model(o)}.write(file.path, {});
  CHECK(el::to_metadata(el::load_elcrec<Backend>(file.path).model.options()) == expected);

  const auto refused = [&](const char* key, const char* value, const char* part) {
    tensors.write(file.path, {{key, value}});
    const std::string what = load_error(file.path);
    CAPTURE(what);
    CHECK(what.find(part) != std::string::npos);
  };
  refused("heads", "3", "heads: found 3, expected a divisor of the hidden size 4");
  refused("heads", "0", "heads: found 0");
  refused("hidden", "8", "tensor 'cluster_centers': found F32 [2, 4], expected shape F32 [2, 8]");
  refused("max_length", "4", "tensor 'position_embeddings.weight': found F32 [3, 4], expected shape F32 [4, 4]");
  refused("intents", "3", "tensor 'cluster_centers': found F32 [2, 4], expected shape F32 [3, 4]");
  refused("pooling", "concat", "tensor 'cluster_centers': found F32 [2, 4], expected shape F32 [2, 12]");
  refused("layers", "2", "tensor \"item_encoder.layer.1.attention.query.weight\" is missing");
  refused("layers", "0", "found tensor 'item_encoder.layer.0.attention");
  refused("filter_share", "0.5", "samples: found positions with a filter");
  refused("items", "4", "items: found 4 in an item table of 7 rows");
  refused("temperature", "nan", "temperature: found nan");
  refused("attention_heads", "4", "metadata: found unknown key 'attention_heads'");
  refused("Heads", "4", "metadata: found unknown key 'Heads'");
  refused("", "4", "metadata: found unknown key ''");
}

TEST_CASE("checkpoint: an item table without a mask row does not lose its last item") {
  const TemporaryFile file;
  Tensors tensors{Model(small_options())};
  tensors.shapes["item_embeddings.weight"] = {6, 4};
  const std::string expected =
      "items: found 5 in an item table of 6 rows, expected two rows more: the first for padding, the last for the mask";
  tensors.write(file.path, {{"items", "5"}});
  CHECK(load_error(file.path) == expected);
  tensors.write(file.path, {}, 5);  // known by the ids
  CHECK(load_error(file.path) == expected);
  tensors.shapes["item_embeddings.weight"] = {7, 4};
  tensors.write(file.path, {}, 5);
  CHECK(load_error(file.path) == "loaded");
  for (const Index ids : {4, 6}) {
    tensors.write(file.path, {{"items", "5"}}, ids);
    CHECK(load_error(file.path) ==
          el::message("tensor 'item_ids': found ", ids, " ids, expected one for each of the 5 items"));
  }
  tensors.shapes["item_embeddings.weight"] = {2, 4};
  tensors.write(file.path, {});
  CHECK(load_error(file.path) ==
        "tensor 'item_embeddings.weight': found 2 rows, expected at least 3: padding, items, mask");
}

TEST_CASE("checkpoint: sizes that the tensors do not have are refused before anything is built") {
  const TemporaryFile file;
  const auto peak = [] {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const auto before = peak();
  const Tensors tensors{Model(small_options())};
  SUBCASE("a whole model") {
    for (const char* key : {"items", "max_length", "hidden", "layers", "heads", "intents"}) {
      for (const char* value : {"4611686018427387904", "9223372036854775807", "-4611686018427387904", "-1", "0",
                                "1000000000", "30000000", "9223372036854775808"}) {
        CAPTURE(key);
        CAPTURE(value);
        auto metadata = el::to_metadata(small_options());
        metadata[key] = value;
        tensors.write(file.path, metadata);
        const std::string what = load_error(file.path);
        CHECK(what != "loaded");
        CHECK(what.find("not a FileError") == std::string::npos);
      }
    }
    auto o = small_options();
    o.samples = el::NextItemSamples::prefixes;
    o.filter_share = 0.5;
    o.filter_frequencies = 1;
    const Tensors filtered{Model(o)};
    for (const char* value : {"4611686018427387904", "9223372036854775807", "-1", "0", "3"}) {
      auto metadata = el::to_metadata(o);
      metadata["filter_frequencies"] = value;
      filtered.write(file.path, metadata);
      CHECK(load_error(file.path).find("filter") == 0);
    }
  }
  SUBCASE("hardly any tensor") {
    Tensors none = tensors;
    none.shapes.clear();
    none.write(file.path, {{"hidden", "4"}, {"items", "30000000"}, {"layers", "0"}});
    CHECK(load_error(file.path) == "tensor \"item_embeddings.weight\" is missing");
    none.write(file.path, {{"hidden", "4"}, {"items", "3"}, {"intents", "4611686018427387904"}});
    CHECK(load_error(file.path) == "tensor \"item_embeddings.weight\" is missing");
  }
  SUBCASE("extents of nothing") {
    Tensors empty = tensors;
    empty.shapes = {{"item_embeddings.weight", {2'000'000'000, 0}},
                    {"position_embeddings.weight", {2'000'000'000, 0}},
                    {"cluster_centers", {2'000'000'000, 0}},
                    {"LayerNorm.weight", {0}},
                    {"LayerNorm.bias", {0}}};
    empty.write(file.path, {});
    CHECK(load_error(file.path) == "hidden size: found 0, expected at least 1");
  }
  SUBCASE("a filter over many positions") {
    auto o = small_options();
    o.hidden = o.heads = 1;
    o.samples = el::NextItemSamples::prefixes;
    o.filter_share = 0.5;
    o.filter_frequencies = 1;
    Tensors filtered{Model(o)};
    filtered.shapes["position_embeddings.weight"] = {100'000, 1};
    auto metadata = el::to_metadata(o);
    metadata["max_length"] = "100000";
    metadata["filter_frequencies"] = "50000";
    filtered.write(file.path, metadata);
    CHECK(load_error(file.path).find("filter_frequencies: found 50000 for 100000 positions") == 0);
  }
  CHECK(peak() - before < 100'000);  // KB
}

TEST_CASE("visit_shapes names what the model has") {
  auto o = small_options();
  o.samples = el::NextItemSamples::prefixes;
  for (const Index layers : {0, 1, 3}) {
    for (const double share : {0.0, 0.5}) {
      for (const auto pooling : {el::Pooling::mean, el::Pooling::concat, el::Pooling::last}) {
        o.layers = layers;
        o.filter_share = share;
        o.filter_frequencies = 2;
        o.pooling = pooling;
        std::map<std::string, std::vector<Index>> named;
        el::composition_of<Model::Composition>(o).visit_shapes(
            o.hidden, [&](const std::string& name, const std::vector<Index>& shape) { named[name] = shape; });
        CHECK(named == Tensors(Model(o)).shapes);
      }
    }
  }
}

TEST_CASE("sizes that overflow are refused by name") {
  constexpr Index huge = Index{1} << 62;
  const auto refused = [](const std::function<void(el::ELCRecOptions&)>& change, const char* part) {
    auto o = small_options();
    change(o);
    for (const auto& what : {error_of([&] { Model{o}; }), error_of([&] { el::ELCRec<el::Cpu>{o}; })}) {
      CAPTURE(what);
      CHECK(what.find(part) != std::string::npos);
    }
  };
  refused([](auto& o) { o.intents = huge; }, "intents: centers (K, D): found 4611686018427387904 times 4");
  refused([](auto& o) { o.items = huge; }, "items: found 4611686018427387904");
  refused([](auto& o) { o.max_length = huge; }, "found 4611686018427387904 times 4");
  refused([](auto& o) { o.hidden = huge; }, "found ");
  refused([](auto& o) { o.hidden = Index{1} << 61; }, "found ");
  refused([](auto& o) { o.layers = huge; }, "layers: found 4611686018427387904");
  refused(
      [](auto& o) {
        o.pooling = el::Pooling::concat;
        o.max_length = huge;
      },
      "found 4611686018427387904 times 4");
  refused(
      [](auto& o) {
        o.samples = el::NextItemSamples::prefixes;
        o.filter_share = 0.5;
        o.filter_frequencies = huge;
      },
      "filter: found 4611686018427387904 frequencies");

  const el::Cpu cpu;
  const auto workspace_error = [](Index rows, Index cols) {
    return error_of([&] {
      auto workspace = el::Cpu::make_workspace();
      (void)workspace.matrix<float>(rows, cols);
    });
  };
  CHECK(error_of([&] { el::Matrix<el::Cpu>(cpu, huge, 4); }) ==
        "matrix: found 4611686018427387904 times 4, expected no negative size and less than 2^63");
  CHECK(error_of([&] { el::Matrix<el::Cpu>(cpu, huge, 1); }).find("buffer: found") == 0);
  CHECK(error_of([&] { el::HostBuffer<double>{huge}; }).find("buffer: found") == 0);
  CHECK(error_of([&] { el::HostBuffer<double>{-1}; }).find("buffer: found -1") == 0);
  CHECK(workspace_error(huge, 4).find("workspace: found") == 0);
  CHECK(workspace_error(huge, 1).find("workspace: found") == 0);
  CHECK(workspace_error(-1, 1).find("workspace: found -1") == 0);
}

TEST_CASE("checkpoint: a model is not saved with another number of item ids") {
  const TemporaryFile file;
  const Model model(small_options());
  for (const Index ids : {0, 4, 6}) {
    CHECK_THROWS_WITH_AS(
        el::save_model(file.path, model, el::ItemMap::identity(ids)),
        el::message(file.path.string(), ": found ", ids, " item ids, expected one for each of the model's 5 items")
            .c_str(),
        el::ArgumentError);
    CHECK_FALSE(fs::exists(file.path));
  }
}
