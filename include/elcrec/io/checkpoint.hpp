#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/fingerprint.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/loaded_model.hpp"
#include "elcrec/io/safetensors.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A model file: safetensors whose tensors have PyTorch's parameter names, with the configuration in the metadata, the
/// item ids that the data set used (`item_ids`), and under `training.` what a resumed run needs. Other metadata: `run.`
/// is what the program elcrec was told, `host.` is free for hosts, `format` is PyTorch's, and the checksums. Any other
/// key is refused, since what it says may matter.
inline constexpr std::string_view training_prefix = "training.";
inline constexpr std::string_view run_metadata_prefix = "run.";
inline constexpr std::string_view host_metadata_prefix = "host.";
inline constexpr std::string_view item_ids_tensor = "item_ids";
inline constexpr const char* item_table_tensor = "item_embeddings.weight";
/// Digests of the tensors' names, types, shapes and bytes, and of all metadata but the digest itself.
inline constexpr std::string_view tensors_checksum = "checksum.tensors";
inline constexpr std::string_view metadata_checksum = "checksum.metadata";

namespace detail {

/// Of a SafetensorsFile or a SafetensorsWriter.
template <class Tensors>
[[nodiscard]] std::string checksum_of_tensors(const Tensors& tensors) {
  Fingerprint digest;
  tensors.visit_tensors([&](std::string_view name, const TensorInfo& info, std::span<const std::byte> bytes) {
    digest.add(name).add(name_of(info.dtype)).add(std::span<const Index>(info.shape)).add_bytes(bytes);
  });
  return digest.text();
}

[[nodiscard]] inline std::string checksum_of(const std::map<std::string, std::string>& metadata) {
  Fingerprint digest;
  for (const auto& [key, value] : metadata) {
    if (key != metadata_checksum) {
      digest.add(key).add(value);
    }
  }
  return digest.text();
}

}  // namespace detail

/// Compares a file with its checksums, where it has some: files from elsewhere and old checkpoints have none. Throws
/// FileError.
inline void verify_checksums(const SafetensorsFile& file) {
  const auto& metadata = file.metadata();
  const auto of_metadata = metadata.find(std::string(metadata_checksum));
  const auto of_tensors = metadata.find(std::string(tensors_checksum));
  if (of_metadata == metadata.end() && of_tensors == metadata.end()) {
    return;
  }
  require<FileError>(of_metadata != metadata.end() && of_tensors != metadata.end(), file.name(),
                     ": metadata: found one of '", metadata_checksum, "' and '", tensors_checksum,
                     "', expected both or none");
  const std::string metadata_now = detail::checksum_of(metadata);
  require<FileError>(metadata_now == of_metadata->second, file.name(), ": metadata: found checksum ", metadata_now,
                     ", expected '", metadata_checksum, "' ", detail::excerpt(of_metadata->second),
                     ": the file is damaged, or its metadata were edited. To load it as it is, remove '",
                     metadata_checksum, "' and '", tensors_checksum, "' from the metadata");
  const std::string tensors_now = detail::checksum_of_tensors(file);
  require<FileError>(tensors_now == of_tensors->second, file.name(), ": tensors: found checksum ", tensors_now,
                     ", expected '", tensors_checksum, "' ", detail::excerpt(of_tensors->second),
                     ": the file is damaged, or its tensors were changed");
}

/// Reads a file and compares it with its checksums. Throws FileError.
[[nodiscard]] inline SafetensorsFile read_checkpoint(const std::filesystem::path& path) {
  SafetensorsFile file = SafetensorsFile::read(path);
  verify_checksums(file);
  return file;
}

/// Collects a checkpoint. Values are copied, so the model may change before `write`.
class CheckpointWriter {
 public:
  void metadata(const std::string& key, const std::string& value) { writer_.metadata(key, value); }

  /// Copies backend memory. Throws DivergenceError, naming the tensor, for a number that is not finite: no such file
  /// could be loaded.
  template <class B, class T>
  void add(const B& backend, std::string name, std::vector<Index> shape, std::span<const T> values) {
    auto host = std::make_shared<std::vector<T>>(values.size());
    backend.template copy<T>(values, std::span<T>(*host));
    if constexpr (std::is_floating_point_v<T>) {
      require<DivergenceError>(std::all_of(host->begin(), host->end(), [](T value) { return is_finite(value); }),
                               "checkpoint: tensor '", name,
                               "' holds numbers that are not finite; expected finite ones");
    }
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

  /// Replaces the file at `path` atomically; on failure the old one stays. Adds the checksums. Throws ArgumentError if
  /// the item ids are not as many as the item table has items.
  void write(const std::filesystem::path& path) const {
    std::optional<Index> ids;
    std::optional<Index> rows;
    writer_.visit_tensors([&](std::string_view name, const TensorInfo& info, std::span<const std::byte>) {
      if (name == item_ids_tensor) {
        ids = info.elements();
      } else if (name == item_table_tensor && info.shape.size() == 2) {
        rows = info.shape[0];
      }
    });
    require(!ids || !rows || *ids + 2 == *rows, path.string(), ": found ", ids.value_or(0),
            " item ids, expected one for each of the model's ", rows.value_or(0) - 2, " items");
    SafetensorsWriter writer = writer_;
    writer.metadata(std::string(tensors_checksum), detail::checksum_of_tensors(writer));
    writer.metadata(std::string(metadata_checksum), detail::checksum_of(writer.metadata()));
    writer.write(path);
  }

 private:
  SafetensorsWriter writer_;
  std::vector<std::shared_ptr<void>> kept_;
};

namespace detail {

/// Compares a file's tensors with those of a model: expect() each of these, then nothing_else().
class ExpectedTensors {
 public:
  ExpectedTensors(const SafetensorsFile& file, std::string_view path) : file_(file), path_(path) {}

  void expect(const std::string& name, const std::vector<Index>& shape) {
    const auto& info = file_.info(name);
    require<FileError>(info.shape == shape, path_, ": tensor '", name, "': found ", info, ", expected shape ",
                       TensorInfo{info.dtype, shape});
    names_.insert(name);
  }

  void nothing_else() const {
    for (const auto& name : file_.names()) {
      require<FileError>(name == item_ids_tensor || name.starts_with(training_prefix) || names_.contains(name), path_,
                         ": found tensor '", excerpt(name, 120), "', expected only the model's parameters (",
                         names_.size(), " of them)");
    }
  }

 private:
  const SafetensorsFile& file_;
  std::string_view path_;
  std::set<std::string> names_;
};

}  // namespace detail

/// Reads the parameters of a component. Every one must be there with its shape and finite values; a tensor that is
/// neither one of them nor under `training.` nor the item ids is an error too. Throws FileError naming the tensor.
template <class Component, class B>
void read_parameters(const SafetensorsFile& file, std::string_view path, const B& backend, Component& component) {
  using T = typename B::Scalar;
  detail::ExpectedTensors tensors(file, path);
  for (const auto& p : parameters(component)) {
    tensors.expect(p.name, p.shape());
    backend.template copy<T>(file.read<T>(p.name), p.values.flat());
  }
  tensors.nothing_else();
}

/// The item ids of a checkpoint; each item is its own row where the file has none. Throws FileError.
[[nodiscard]] inline ItemMap read_item_map(const SafetensorsFile& file, Index items) {
  try {
    if (!file.contains(item_ids_tensor)) {
      return ItemMap::identity(items);
    }
    ItemMap map(file.read<std::int64_t>(item_ids_tensor));
    require(map.size() == items, "found ", map.size(), " ids, expected one for each of the ", items, " items");
    return map;
  } catch (const ArgumentError& error) {
    throw FileError(message(file.name(), ": tensor '", item_ids_tensor, "': ", error.what()));
  }
}

namespace detail {

/// What the shapes of a file's tensors tell. An item table has two rows besides the items, for padding and mask; how
/// many the items are is known where the file has ids for them.
[[nodiscard]] inline ELCRecOptions options_from_shapes(const SafetensorsFile& file, std::string_view path) {
  const auto shape = [&](const char* name) {
    const auto& info = file.info(name);
    require<FileError>(info.shape.size() == 2, path, ": tensor '", name, "': found ", info, ", expected a matrix");
    return info.shape;
  };
  ELCRecOptions o;
  const auto table = shape(item_table_tensor);
  require<FileError>(table[0] >= 3, path, ": tensor '", item_table_tensor, "': found ", table[0],
                     " rows, expected at least 3: padding, items, mask");
  o.items = file.contains(item_ids_tensor) ? *file.info(item_ids_tensor).elements() : table[0] - 2;
  o.hidden = table[1];
  require<FileError>(o.hidden >= 1, path, ": hidden size: found 0, expected at least 1");
  o.max_length = shape("position_embeddings.weight")[0];
  const auto centers = shape("cluster_centers");
  o.intents = centers[0];
  o.pooling = centers[1] == o.hidden ? Pooling::mean : Pooling::concat;
  o.layers = 0;
  while (file.contains(message("item_encoder.layer.", o.layers, ".attention.query.weight"))) {
    ++o.layers;
  }
  return o;
}

/// Throws FileError for a key that is neither an option nor one of the others that a checkpoint may have.
inline void check_keys(const std::map<std::string, std::string>& metadata, std::string_view path) {
  const auto options = to_metadata(ELCRecOptions());
  for (const auto& [key, value] : metadata) {
    const bool known = options.contains(key) || key == "format" || key == tensors_checksum ||
                       key == metadata_checksum || key.starts_with(training_prefix) ||
                       key.starts_with(run_metadata_prefix) || key.starts_with(host_metadata_prefix);
    require<FileError>(
        known, path, ": metadata: found unknown key '", key,
        "', expected an option of the model. Written by a newer version? What is a host's own begins with '",
        host_metadata_prefix, '\'');
  }
}

}  // namespace detail

/// The configuration of the ELCRec model in a file, ours or a foreign one with PyTorch's names: what the metadata say
/// of it, and where they are silent what the shapes of the tensors tell, with `heads` attention heads and
/// Padding::paper. Every shape has been compared with it. Without item ids and an `items` in the metadata the last row
/// of the item table is taken for the mask's. Throws FileError for what contradicts itself and for metadata that are
/// not known.
[[nodiscard]] inline ELCRecOptions read_options(const SafetensorsFile& file, std::string_view path, Index heads = 2) {
  detail::check_keys(file.metadata(), path);
  ELCRecOptions o = detail::options_from_shapes(file, path);
  o.heads = heads;
  o.padding = Padding::paper;
  try {
    o = options_from_metadata(file.metadata(), o);
    check(o);
    const Index rows = file.info(item_table_tensor).shape[0];
    require(o.items == rows - 2, "items: found ", o.items, " in an item table of ", rows,
            " rows, expected two rows more: the first for padding, the last for the mask");
    detail::ExpectedTensors tensors(file, path);
    visit_shapes(o, [&](const std::string& name, const std::vector<Index>& shape) { tensors.expect(name, shape); });
    tensors.nothing_else();
    // The one matrix of a model that is no tensor of the file.
    constexpr Index usual = Index{1} << 20;
    require(o.filter_share == 0 ||
                checked_product("filter", o.max_length, o.filter_frequencies) <= (std::max)(usual, rows * o.hidden),
            "filter_frequencies: found ", o.filter_frequencies, " for ", o.max_length,
            " positions, expected fewer than make the filter larger than the item table");
  } catch (const ArgumentError& error) {
    throw FileError(message(path, ": ", error.what()));
  }
  return o;
}

/// The ELCRec model in a file that was read. Throws FileError for anything that does not fit, before it builds anything
/// that the file does not hold.
template <Backend B>
[[nodiscard]] LoadedModel<ELCRec<B>> load_elcrec(const SafetensorsFile& file, const B& backend = B(), Index heads = 2) {
  const ELCRecOptions options = read_options(file, file.name(), heads);
  ItemMap items = read_item_map(file, options.items);
  try {
    LoadedModel<ELCRec<B>> loaded{ELCRec<B>(options, backend), std::move(items)};
    read_parameters(file, file.name(), backend, loaded.model);
    return loaded;
  } catch (const ArgumentError& error) {
    throw FileError(message(file.name(), ": ", error.what()));
  }
}

/// Loads an ELCRec checkpoint, ours or a foreign one (see read_options), and compares it with its checksums.
template <Backend B>
[[nodiscard]] LoadedModel<ELCRec<B>> load_elcrec(const std::filesystem::path& path, const B& backend = B(),
                                                 Index heads = 2) {
  return load_elcrec<B>(read_checkpoint(path), backend, heads);
}

/// Writes the model alone (no training state). Throws ArgumentError if there is not one id for each item.
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
