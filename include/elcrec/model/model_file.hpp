#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/io/loaded_model.hpp"
#include "elcrec/model/model_options.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Whether a file's metadata describe a model as ModelOptions does, in this version's format or another.
[[nodiscard]] inline bool is_described(const SafetensorsFile& file) {
  const auto format = file.metadata().find(std::string(format_key));
  return format != file.metadata().end() && format->second != "pt";
}

namespace detail {

/// Throws FileError unless the file is in model_format and its model is called `composition`.
inline void check_format(const SafetensorsFile& file, const std::string& composition) {
  const auto text = [&](std::string_view key) -> const std::string& {
    const auto found = file.metadata().find(std::string(key));
    require<FileError>(
        found != file.metadata().end(), file.name(), ": ", key, ": found none, expected '",
        key == format_key ? model_format : std::string_view(composition), '\'',
        key == format_key ? ": no file of save_model's. ELCRec's of any origin are for load_elcrec" : "");
    return found->second;
  };
  const std::string& format = text(format_key);
  require<FileError>(format == model_format, file.name(), ": format: found '", excerpt(format), "', expected '",
                     model_format, '\'',
                     format.starts_with("elcrec ") ? ": the file was written by another version of elcrec"
                                                   : ": no file of save_model's. ELCRec's of any origin are for "
                                                     "load_elcrec");
  const std::string& model = text(model_key);
  require<FileError>(model == composition, file.name(), ": model: found '", excerpt(model, 200), "', expected '",
                     composition, '\'');
}

/// f(); what it says of arguments is the file's fault.
template <class F>
decltype(auto) in_file(const SafetensorsFile& file, F f) {
  try {
    return f();
  } catch (const ArgumentError& error) {
    throw FileError(message(file.name(), ": ", error.what()));
  }
}

}  // namespace detail

/// Compares a file's tensors with what a model of these options holds. Throws FileError, or ArgumentError for sizes
/// that are none.
template <class Model>
void check_tensors(const SafetensorsFile& file, const ModelOptions<Model>& options) {
  const auto& table = file.info(item_table_tensor);
  require<FileError>(table.shape.size() == 2 && table.shape[1] >= 1, file.name(), ": tensor '", item_table_tensor,
                     "': found ", table, ", expected a matrix with columns");
  require(options.items >= 1 && options.items == table.shape[0] - 2, "items: found ", options.items,
          " in an item table of ", table.shape[0],
          " rows, expected two rows more: the first for padding, the last for the mask");
  detail::ExpectedTensors tensors(file, file.name());
  options.visit_shapes(table.shape[1],
                       [&](const std::string& name, const std::vector<Index>& shape) { tensors.expect(name, shape); });
  tensors.nothing_else();
  options.check_unsaved(*table.elements());
}

/// What the metadata of a file that save_model wrote say of its model. The tensors have been compared with it: nothing
/// that such a model allocates is out of proportion to the file. Throws FileError for another format or composition,
/// for keys that are unknown, missing or out of range, and for what contradicts itself.
template <DescribedModel Model>
[[nodiscard]] ModelOptions<Model> read_model_options(const SafetensorsFile& file) {
  detail::check_format(file, composition_name<Model>());
  return detail::in_file(file, [&] {
    ModelOptions<Model> options;
    OptionReader reader(file.metadata());
    ModelOptions<Model>::visit_options(options, reader);
    options.check();
    check_keys(file, reader.names());
    check_tensors(file, options);
    return options;
  });
}

/// A model of these options, its parameters anything.
template <class Model>
[[nodiscard]] Model make_model(const ModelOptions<typename Model::Composition>& options,
                               const typename Model::Backend& backend) {
  using Composition = typename Model::Composition;
  auto made = std::apply(
      [&](const auto&... part) {
        return [&]<class... Ps>(TypeList<Ps...>) {
          return Composition(backend, {options.items, options.seed},
                             typename Composition::EncoderType(backend, options.encoder), Ps(backend, part)...);
        }(typename Composition::PartList());
      },
      options.parts);
  set_options(made, options);
  return Model(std::move(made));
}

/// The model of these options whose parameters and item ids a file holds. Throws FileError.
template <class Model>
[[nodiscard]] LoadedModel<Model> load_model(const SafetensorsFile& file,
                                            const ModelOptions<typename Model::Composition>& options,
                                            const typename Model::Backend& backend) {
  ItemMap items = read_item_map(file, options.items);
  return detail::in_file(file, [&] {
    LoadedModel<Model> loaded{make_model<Model>(options, backend), std::move(items)};
    check_pooling(loaded.model);
    read_parameters(file, file.name(), backend, loaded.model);
    return loaded;
  });
}

/// The model in a file that was read and that save_model, or a Trainer, wrote from a model of this type, on any
/// backend. Throws FileError for anything that does not fit, before it builds anything that the file does not hold.
template <class Model>
[[nodiscard]] LoadedModel<Model> load_model(const SafetensorsFile& file,
                                            const typename Model::Backend& backend = typename Model::Backend()) {
  static_assert(check_described<Model>());
  return load_model<Model>(file, read_model_options<typename Model::Composition>(file), backend);
}

/// The same from a path; the file is compared with its checksums.
template <class Model>
[[nodiscard]] LoadedModel<Model> load_model(const std::filesystem::path& path,
                                            const typename Model::Backend& backend = typename Model::Backend()) {
  return load_model<Model>(read_checkpoint(path), backend);
}

/// Writes a model alone (no training state): its parameters, every setting of its components, and the item ids. Throws
/// ArgumentError if there is not one id for each item, or if a part's visit_shapes does not say what it has.
template <class Model>
void save_model(const std::filesystem::path& path, const Model& model, const ItemMap& items) {
  static_assert(check_described<Model>());
  CheckpointWriter writer;
  for (const auto& [key, value] : model.metadata()) {
    writer.metadata(key, value);
  }
  writer.add_parameters(model.backend(), model);
  writer.add(items);
  writer.write(path);
}

}  // namespace elcrec::inline ELCREC_TARGET
