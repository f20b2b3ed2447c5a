#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/safetensors.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A model file: safetensors whose tensors have PyTorch's parameter names, with the configuration in the metadata, the
/// item ids that the data set used (`item_ids`), and under `training.` what a resumed run needs.
inline constexpr std::string_view training_prefix = "training.";
inline constexpr std::string_view item_ids_tensor = "item_ids";

/// Collects a checkpoint. Values are copied, so the model may change before `write`.
class CheckpointWriter {
 public:
  void metadata(const std::string& key, const std::string& value) { writer_.metadata(key, value); }

  /// Copies backend memory.
  template <class B, class T>
  void add(const B& backend, std::string name, std::vector<Index> shape, std::span<const T> values) {
    auto host = std::make_shared<std::vector<T>>(values.size());
    backend.template copy<T>(values, std::span<T>(*host));
    writer_.add<T>(std::move(name), std::move(shape), std::span<const T>(*host));
    kept_.push_back(std::move(host));
  }

  /// The parameters of a component, `prefix` before their names.
  template <class Component, class B>
  void add_parameters(const B& backend, const Component& component, const std::string& prefix = "") {
    for (const auto& p : parameters(component)) {
      add<B, typename B::Scalar>(backend, prefix + p.name, p.shape(), p.values.flat());
    }
  }

  void add(const ItemMap& items) {
    auto names = std::make_shared<std::vector<std::int64_t>>();
    for (Index row = 1; row <= items.size(); ++row) {
      names->push_back(items.name(static_cast<ItemId>(row)));
    }
    writer_.add<std::int64_t>(std::string(item_ids_tensor), {items.size()}, *names);
    kept_.push_back(std::move(names));
  }

  /// Replaces the file at `path` atomically; on failure the old one stays.
  void write(const std::filesystem::path& path) const { writer_.write(path); }

 private:
  SafetensorsWriter writer_;
  std::vector<std::shared_ptr<void>> kept_;
};

/// Reads the parameters of a component. Every one must be there with its shape and finite values; a tensor that is
/// neither one of them nor under `training.` nor the item ids is an error too. Throws FileError naming the tensor.
template <class Component, class B>
void read_parameters(const SafetensorsFile& file, std::string_view path, const B& backend, Component& component) {
  using T = typename B::Scalar;
  const auto list = parameters(component);
  for (const auto& p : list) {
    const auto& info = file.info(p.name);
    const TensorInfo expected{dtype_of<T>, p.shape()};
    require<FileError>(info.shape == expected.shape, path, ": tensor '", p.name, "': found ", info, ", expected shape ",
                       expected);
    backend.template copy<T>(file.read<T>(p.name), p.values.flat());
  }
  for (const auto& name : file.names()) {
    const bool known = name == item_ids_tensor || name.starts_with(training_prefix) ||
                       std::any_of(list.begin(), list.end(), [&](const auto& p) { return p.name == name; });
    require<FileError>(known, path, ": found tensor '", detail::excerpt(name, 120),
                       "', expected only the model's parameters (", list.size(), " of them)");
  }
}

/// The item ids of a checkpoint; each item is its own row where the file has none.
[[nodiscard]] inline ItemMap read_item_map(const SafetensorsFile& file, Index items) {
  if (!file.contains(item_ids_tensor)) {
    return ItemMap::identity(items);
  }
  ItemMap map(file.read<std::int64_t>(std::string(item_ids_tensor)));
  require<FileError>(map.size() == items, "tensor '", item_ids_tensor, "': found ", map.size(),
                     " ids, expected one for each of the ", items, " items");
  return map;
}

/// The configuration of the ELCRec model in a file: its metadata, or for a foreign file with PyTorch's names and no
/// metadata what the shapes of the tensors tell, with `heads` attention heads.
[[nodiscard]] inline ELCRecOptions read_options(const SafetensorsFile& file, std::string_view path, Index heads = 2) {
  if (file.metadata().contains("hidden")) {
    return options_from_metadata(file.metadata());
  }
  const auto shape = [&](const char* name) {
    const auto& info = file.info(name);
    require<FileError>(info.shape.size() == 2, path, ": tensor '", name, "': found ", info, ", expected a matrix");
    return info.shape;
  };
  ELCRecOptions o;
  const auto table = shape("item_embeddings.weight");
  require<FileError>(table[0] >= 3, path, ": tensor 'item_embeddings.weight': found ", table[0],
                     " rows, expected at least 3: padding, items, mask");
  o.items = table[0] - 2;
  o.hidden = table[1];
  o.max_length = shape("position_embeddings.weight")[0];
  const auto centers = shape("cluster_centers");
  o.intents = centers[0];
  o.pooling = centers[1] == o.hidden ? Pooling::mean : Pooling::concat;
  o.heads = heads;
  o.padding = Padding::paper;
  o.layers = 0;
  while (file.contains("item_encoder.layer." + std::to_string(o.layers) + ".attention.query.weight")) {
    ++o.layers;
  }
  return o;
}

/// A model and the ids that its data set calls the items by.
template <class Model>
struct LoadedModel {
  Model model;
  ItemMap items;
};

/// Loads an ELCRec checkpoint, ours or a foreign one. Throws FileError for anything that does not fit.
template <Backend B>
[[nodiscard]] LoadedModel<ELCRec<B>> load_elcrec(const std::filesystem::path& path, const B& backend = B(),
                                                 Index heads = 2) {
  const auto file = SafetensorsFile::read(path);
  try {
    const ELCRecOptions options = read_options(file, path.string(), heads);
    LoadedModel<ELCRec<B>> loaded{ELCRec<B>(options, backend), read_item_map(file, options.items)};
    read_parameters(file, path.string(), backend, loaded.model);
    return loaded;
  } catch (const ArgumentError& error) {
    throw FileError(path.string() + ": " + error.what());
  }
}

/// Writes the model alone (no training state).
template <class Model>
void save_model(const std::filesystem::path& path, const Model& model, const ItemMap& items) {
  CheckpointWriter writer;
  for (const auto& [key, value] : model.metadata()) {
    writer.metadata(key, value);
  }
  writer.add_parameters(model.backend(), model);
  writer.add(items);
  writer.write(path);
}

}  // namespace elcrec::inline ELCREC_TARGET
