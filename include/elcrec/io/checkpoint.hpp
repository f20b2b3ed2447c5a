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

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/fingerprint.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/checkpoint_keys.hpp"
#include "elcrec/io/safetensors.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

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

/// Throws FileError for a key of the metadata that is neither among `options` nor one of the others that a checkpoint
/// may have.
template <class Options>
void check_keys(const SafetensorsFile& file, const Options& options) {
  for (const auto& [key, value] : file.metadata()) {
    const bool known = options.contains(key) || key == format_key || key == model_key || key == tensors_checksum ||
                       key == metadata_checksum || key.starts_with(training_prefix) ||
                       key.starts_with(run_metadata_prefix) || key.starts_with(host_metadata_prefix);
    require<FileError>(
        known, file.name(), ": metadata: found unknown key '", detail::excerpt(key),
        "', expected an option of the model. Written by a newer version? What is a host's own begins with '",
        host_metadata_prefix, '\'');
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
