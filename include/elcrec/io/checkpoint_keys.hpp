#pragma once

#include <string_view>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A model file: safetensors whose tensors have PyTorch's parameter names, with the configuration in the metadata, the
/// item ids that the data set used (`item_ids`), and under `training.` what a resumed run needs. Other metadata: `run.`
/// is what the program elcrec was told, `host.` is free for hosts, `format`, `model`, and the checksums. Any other key
/// is refused, since what it says may matter. What the configuration of a model is: see model/model_file.hpp.
inline constexpr std::string_view training_prefix = "training.";
inline constexpr std::string_view run_metadata_prefix = "run.";
inline constexpr std::string_view host_metadata_prefix = "host.";
inline constexpr std::string_view item_ids_tensor = "item_ids";
/// The item table among the tensors.
inline constexpr std::string_view item_table_tensor = "item_embeddings.weight";
/// How the metadata describe the model: "elcrec N". Files from elsewhere have "pt" there, PyTorch's, or nothing.
inline constexpr std::string_view format_key = "format";
/// What the model is composed of.
inline constexpr std::string_view model_key = "model";
/// Digests of the tensors' names, types, shapes and bytes, and of all metadata but the digest itself.
inline constexpr std::string_view tensors_checksum = "checksum.tensors";
inline constexpr std::string_view metadata_checksum = "checksum.metadata";

}  // namespace elcrec::inline ELCREC_TARGET
