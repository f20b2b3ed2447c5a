#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "elcrec/backend/reference.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/io/loaded_model.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/model_file.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// What the shapes of a file's tensors tell. An item table has two rows besides the items, for padding and mask; how
/// many the items are is known where the file has ids for them.
[[nodiscard]] inline ELCRecOptions options_from_shapes(const SafetensorsFile& file) {
  const auto shape = [&](std::string_view name) {
    const auto& info = file.info(name);
    require<FileError>(info.shape.size() == 2, file.name(), ": tensor '", name, "': found ", info,
                       ", expected a matrix");
    return info.shape;
  };
  ELCRecOptions o;
  const auto table = shape(item_table_tensor);
  require<FileError>(table[0] >= 3, file.name(), ": tensor '", item_table_tensor, "': found ", table[0],
                     " rows, expected at least 3: padding, items, mask");
  o.items = file.contains(item_ids_tensor) ? *file.info(item_ids_tensor).elements() : table[0] - 2;
  o.hidden = table[1];
  require<FileError>(o.hidden >= 1, file.name(), ": hidden size: found 0, expected at least 1");
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

}  // namespace detail

/// The configuration of the ELCRec model in a file: one of save_model or a Trainer, one of a version before
/// model_format, whose metadata are ELCRecOptions by their own names, or a foreign one with PyTorch's parameter names.
/// Where the metadata of these are silent it is what the shapes of the tensors tell, with `heads` attention heads and
/// Padding::paper; without item ids and an `items` in the metadata the last row of the item table is taken for the
/// mask's. Every shape has been compared with it. Throws FileError for what contradicts itself and for metadata that
/// are not known.
[[nodiscard]] inline ELCRecOptions read_options(const SafetensorsFile& file, Index heads = 2) {
  using Composition = ELCRec<Reference>::Composition;
  return detail::in_file(file, [&] {
    if (is_described(file)) {
      const auto options = elcrec_options(read_model_options<Composition>(file));
      check(options);
      return options;
    }
    check_keys(file, to_metadata(ELCRecOptions()));
    ELCRecOptions o = detail::options_from_shapes(file);
    o.heads = heads;
    o.padding = Padding::paper;
    o = options_from_metadata(file.metadata(), o);
    check(o);
    check_tensors(file, composition_of<Composition>(o));
    return o;
  });
}

/// The ELCRec model in a file that was read (see read_options). Throws FileError for anything that does not fit, before
/// it builds anything that the file does not hold.
template <Backend B>
[[nodiscard]] LoadedModel<ELCRec<B>> load_elcrec(const SafetensorsFile& file, const B& backend = B(), Index heads = 2) {
  using Model = ELCRec<B>;
  if (is_described(file)) {
    return load_model<Model>(file, backend);
  }
  return load_model<Model>(file, composition_of<typename Model::Composition>(read_options(file, heads)), backend);
}

/// The same from a path; the file is compared with its checksums.
template <Backend B>
[[nodiscard]] LoadedModel<ELCRec<B>> load_elcrec(const std::filesystem::path& path, const B& backend = B(),
                                                 Index heads = 2) {
  return load_elcrec<B>(read_checkpoint(path), backend, heads);
}

}  // namespace elcrec::inline ELCREC_TARGET
