// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/fuzz_model.cpp
// A small model's metadata and shapes, edited as the input says, must give a FileError or a model that recommends.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/head/dot_bias.hpp"
#include "elcrec/loss/intent_contrastive_loss.hpp"
#include "elcrec/model/cl4srec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/model/model_file.hpp"
#include "elcrec/serve/recommender.hpp"

namespace {

using elcrec::Index;
using elcrec::ItemId;

/// The input, read as decisions; 0 where it has ended.
class Decisions {
 public:
  Decisions(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  [[nodiscard]] bool ended() const { return rest_.empty(); }
  std::size_t below(std::size_t n) {
    if (ended() || n == 0) {
      return 0;
    }
    const std::size_t byte = rest_.front();
    rest_ = rest_.subspan(1);
    return byte % n;
  }
  std::string text() {
    std::string text;
    for (std::size_t n = below(24); text.size() < n && !ended();) {
      text += static_cast<char>(below(128));
    }
    return text;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

struct Content {
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::vector<Index>> shapes;
};

using B = elcrec::Cpu;
using ELCRec = elcrec::ELCRec<B>;
using CL4SRec = elcrec::CL4SRec<B>;
using WithHead = elcrec::SequentialModel<elcrec::TransformerEncoder<4, B>,
                                         elcrec::LearnableClusters<elcrec::Dynamic, elcrec::Dynamic, B>,
                                         elcrec::DotBiasHead<B>, elcrec::NextItemBpr, elcrec::NextItemSoftmax,
                                         elcrec::ProjectCenters, elcrec::IntentContrastiveLoss<>>;

const B& backend() {
  static const B cpu({.threads = 1});
  return cpu;
}

template <class Options>
Content content_of(const Options& options, std::map<std::string, std::string> metadata) {
  Content content{std::move(metadata), {}};
  options.visit_shapes(4,
                       [&](const std::string& name, const std::vector<Index>& shape) { content.shapes[name] = shape; });
  return content;
}

template <class Model>
Content content_of(const Model& model) {
  return content_of(elcrec::options_of(model), model.metadata());
}

/// How a file is read as its model, and what a good one holds.
enum class Kind { old_elcrec, old_elcrec_with_filter, foreign, elcrec, cl4srec, with_head };
constexpr std::size_t kinds = 6;

Content small_model(Kind kind) {
  elcrec::ELCRecOptions o;
  o.items = 5;
  o.max_length = 6;
  o.hidden = 4;
  o.intents = 2;
  if (kind == Kind::old_elcrec_with_filter) {
    o.samples = elcrec::NextItemSamples::prefixes;
    o.filter_share = 0.5;
  }
  const elcrec::TransformerOptions encoder{.hidden = 4, .layers = 1, .max_length = 6};
  switch (kind) {
    case Kind::elcrec:
      return content_of<ELCRec::Composition>(ELCRec(o, backend()));
    case Kind::cl4srec:
      return content_of(CL4SRec(backend(), 5, CL4SRec::EncoderType(backend(), encoder)));
    case Kind::with_head:
      return content_of(WithHead(backend(), 5, WithHead::EncoderType(backend(), encoder),
                                 elcrec::LearnableClusters<elcrec::Dynamic, elcrec::Dynamic, B>(backend(), 2, 4),
                                 elcrec::DotBiasHead<B>(backend(), 7)));
    case Kind::old_elcrec:
    case Kind::old_elcrec_with_filter:
    case Kind::foreign:
      break;
  }
  return content_of(elcrec::composition_of<ELCRec::Composition>(o),
                    kind == Kind::foreign ? std::map<std::string, std::string>{} : elcrec::to_metadata(o));
}

std::string value(Decisions& input) {
  static constexpr std::array<const char*, 22> values = {"0",
                                                         "1",
                                                         "2",
                                                         "3",
                                                         "4",
                                                         "8",
                                                         "-1",
                                                         "30000000",
                                                         "2147483647",
                                                         "4611686018427387904",
                                                         "9223372036854775807",
                                                         "18446744073709551615",
                                                         "0.5",
                                                         "nan",
                                                         "inf",
                                                         "1e308",
                                                         "true",
                                                         "masked",
                                                         "concat",
                                                         "last",
                                                         "prefixes",
                                                         "bidirectional"};
  const std::size_t which = input.below(values.size() + 1);
  return which < values.size() ? values[which] : input.text();
}

template <class Map>
auto pick(Map& map, Decisions& input) {
  return std::next(map.begin(), static_cast<std::ptrdiff_t>(input.below(map.size())));
}

void edit(Content& content, Decisions& input) {
  static constexpr std::array<Index, 8> extents = {0, 1, 2, 4, 7, 1000, 100'000, Index{1} << 40};
  switch (input.below(7)) {
    case 0:
    case 1:
      if (!content.metadata.empty()) {
        pick(content.metadata, input)->second = value(input);
      }
      break;
    case 2:
      if (!content.metadata.empty()) {
        content.metadata.erase(pick(content.metadata, input));
      }
      break;
    case 3:
      content.metadata[input.text()] = value(input);
      break;
    case 4:
      if (!content.shapes.empty()) {
        auto& shape = pick(content.shapes, input)->second;
        if (!shape.empty()) {
          shape[input.below(shape.size())] = extents[input.below(extents.size())];
        }
      }
      break;
    case 5:
      if (!content.shapes.empty()) {
        content.shapes.erase(pick(content.shapes, input));
      }
      break;
    default:
      content.shapes["item_ids"] = {static_cast<Index>(input.below(9))};
  }
}

/// The file; data are ones up to 1 MB, and what is claimed beyond them is not there.
std::string file_of(const Content& content) {
  nlohmann::json header = nlohmann::json::object();
  if (!content.metadata.empty()) {
    header["__metadata__"] = content.metadata;
  }
  std::string data;
  for (const auto& [name, shape] : content.shapes) {
    const bool ids = name == elcrec::item_ids_tensor;
    const auto elements = elcrec::TensorInfo{elcrec::DType::f32, shape}.elements();
    const std::size_t begin = data.size();
    for (Index i = 0; elements && i < *elements && data.size() < 1'000'000; ++i) {
      const std::int64_t id = i + 10;
      const float weight = 0.1F * static_cast<float>(i % 7) - 0.3F;
      ids ? data.append(reinterpret_cast<const char*>(&id), sizeof(id))
          : data.append(reinterpret_cast<const char*>(&weight), sizeof(weight));
    }
    header[name] = {{"dtype", ids ? "I64" : "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
}

template <class Model>
void check_recommendations(const elcrec::LoadedModel<Model>& loaded) {
  const Index items = loaded.model.item_count();
  const elcrec::Recommender recommender(loaded.model);
  auto scratch = recommender.make_scratch();
  const std::array<ItemId, 3> history = {1, static_cast<ItemId>(items), 1};
  const auto found = recommender.recommend(history, 4, scratch);
  if (std::cmp_not_equal(found.size(), std::min<Index>(4, std::max<Index>(items - 2, 0)))) {
    std::abort();
  }
  for (const auto& [item, score] : found) {
    if (item < 2 || item >= items || !elcrec::is_finite(score)) {
      std::abort();
    }
    (void)loaded.items.name(item);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Decisions input(data, size);
  const auto kind = static_cast<Kind>(input.below(kinds));
  Content content = small_model(kind);
  while (!input.ended()) {
    edit(content, input);
  }
  const std::string bytes = file_of(content);
  try {
    const auto file = elcrec::SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "fuzz");
    elcrec::verify_checksums(file);
    if (kind == Kind::cl4srec) {
      check_recommendations(elcrec::load_model<CL4SRec>(file, backend()));
    } else if (kind == Kind::with_head) {
      check_recommendations(elcrec::load_model<WithHead>(file, backend()));
    } else {
      check_recommendations(elcrec::load_elcrec<B>(file, backend()));
    }
  } catch (const elcrec::FileError&) {
  }
  return 0;
}
