#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/atomic_file.hpp"
#include "elcrec/io/json_object.hpp"
#include "elcrec/io/tensor_info.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Collects tensors and writes them as one safetensors file. Equal content gives equal bytes, in whatever order it was
/// added: metadata sorted by key, tensors by falling element size (which aligns each of them) and then by name.
class SafetensorsWriter {
 public:
  /// Sets one entry of the file's `__metadata__`, in UTF-8.
  void metadata(std::string key, std::string value) { metadata_.insert_or_assign(std::move(key), std::move(value)); }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Adds a row-major tensor. Keeps a reference: `data` must live until `write` returns. Throws ArgumentError if the
  /// name is taken or reserved, or if the shape does not have `data.size()` elements.
  template <TensorElement T>
  void add(std::string name, std::vector<Index> shape, std::span<const T> data) {
    require(name != "__metadata__", "tensor name \"__metadata__\" is reserved by the safetensors format");
    TensorInfo info{dtype_of<T>, std::move(shape)};
    require(info.shape.size() <= detail::safetensors_rank_limit, "tensor \"", name, "\" has ", info.shape.size(),
            " extents; expected at most ", detail::safetensors_rank_limit);
    const std::optional<Index> elements = info.elements();
    require(elements && std::cmp_equal(*elements, data.size()), "tensor \"", name, "\" is to be ", info, " but has ",
            data.size(), " elements; expected as many as the shape says");
    const auto [place, added] = tensors_.try_emplace(std::move(name), Tensor{std::move(info), std::as_bytes(data)});
    require(added, "tensor \"", place->first, "\" was added twice; expected once");
  }

  /// visitor(name, info, bytes) for the tensors in the order of their names.
  void visit_tensors(auto&& visitor) const {
    for (const auto& [name, tensor] : tensors_) {
      visitor(name, tensor.info, tensor.data);
    }
  }

  /// Replaces `path` atomically (see write_file_atomically). Throws FileError if it cannot be written, ArgumentError if
  /// a name or metadata is not UTF-8, or if there is more than the reader takes.
  void write(const std::filesystem::path& path) const {
    for (const auto& [kind, count] : {std::pair{"tensors", tensors_.size()}, {"metadata entries", metadata_.size()}}) {
      require(count <= detail::safetensors_entry_limit, path.string(), ": found ", count, ' ', kind,
              ", expected at most ", detail::safetensors_entry_limit);
    }
    std::vector<const Entry*> entries;
    for (const Entry& entry : tensors_) {
      entries.push_back(&entry);
    }
    std::stable_sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
      return size_of(a->second.info.dtype) > size_of(b->second.info.dtype);
    });

    std::vector<std::span<const std::byte>> pieces(2);
    for (const Entry* entry : entries) {
      pieces.push_back(entry->second.data);
    }
    std::string text = header_of(entries, path);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    require(text.size() <= detail::safetensors_header_limit, path.string(), ": header would be ", text.size(),
            " bytes; expected at most ", detail::safetensors_header_limit);
    const std::uint64_t length = text.size();
    pieces[0] = std::as_bytes(std::span(&length, 1));
    pieces[1] = std::as_bytes(std::span(text));
    write_file_atomically(path, pieces);
  }

 private:
  struct Tensor {
    TensorInfo info;
    std::span<const std::byte> data;
  };
  using Entry = std::pair<const std::string, Tensor>;

  [[nodiscard]] std::string header_of(std::span<const Entry* const> entries, const std::filesystem::path& path) const {
    try {
      JsonObject header;
      if (!metadata_.empty()) {
        JsonObject metadata;
        for (const auto& [key, value] : metadata_) {
          metadata.add(key, value);
        }
        header.add("__metadata__", metadata);
      }
      std::uint64_t offset = 0;
      for (const Entry* entry : entries) {
        const auto& [name, tensor] = *entry;
        const std::array<std::uint64_t, 2> range{offset, offset + tensor.data.size()};
        JsonObject description;
        description.add("dtype", name_of(tensor.info.dtype));
        description.add("shape", std::span<const Index>(tensor.info.shape));
        description.add("data_offsets", std::span<const std::uint64_t>(range));
        header.add(name, description);
        offset = range[1];
      }
      return header.text();
    } catch (const ArgumentError& e) {
      throw ArgumentError(message(path.string(), ": tensor names and metadata must be UTF-8: ", e.what()));
    }
  }

  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace elcrec::inline ELCREC_TARGET
