#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/json.hpp"
#include "elcrec/io/tensor_info.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// A tensor of a file: type, shape and the range of its bytes, counted from the end of the header.
struct StoredTensor {
  TensorInfo info;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

/// Takes the JSON header of a safetensors file apart while nlohmann/json reads it, so that memory and time are in
/// proportion to what the format allows to stand there. Every fault is a FileError with the file's name.
class SafetensorsHeader final : private JsonEvents {
 public:
  /// `name` stands for the file in messages; `data_size` bytes follow the header.
  SafetensorsHeader(std::string_view name, std::uint64_t data_size) : name_(name), data_size_(data_size) {}

  void parse(std::string_view text) {
    // nlohmann/json would skip a byte order mark and take a NUL for the end.
    expect(text.starts_with('{') && text.find('\0') == std::string_view::npos,
           "header is not a JSON object in plain text");
    read_json(text, message(name_, ": header is not valid JSON"), *this);
    check_layout();
  }

  std::map<std::string, std::string> metadata;
  std::map<std::string, StoredTensor, std::less<>> tensors;

 private:
  void null() override { value("null", "null"); }
  void boolean() override { value("boolean", "boolean"); }
  void other_number(std::string_view text) override { value("number", text); }

  void number_unsigned(std::uint64_t v) override {
    if (place_ == Place::shape && std::in_range<Index>(v)) {
      expect(tensor_.info.shape.size() < safetensors_rank_limit, "tensor \"", shown(key_), "\" has more than ",
             safetensors_rank_limit, " extents");
      tensor_.info.shape.push_back(static_cast<Index>(v));
    } else if (place_ == Place::offsets) {
      expect(offsets_.size() < 2, malformed_offsets());
      offsets_.push_back(v);
    } else {
      value("number", std::to_string(v));
    }
  }

  void string(std::string&& text) override {
    if (place_ == Place::metadata) {
      metadata[key_] = std::move(text);
    } else if (place_ == Place::tensor && member_ == Member::dtype) {
      const std::optional<DType> dtype = dtype_named(text);
      expect(dtype.has_value(), "tensor \"", shown(key_), "\" has the unknown dtype \"", shown(text),
             "\"; expected one of the format's, such as F32");
      tensor_.info.dtype = *dtype;
    } else {
      value("string", "string");
    }
  }

  void start_object() override {
    enter();
    switch (place_) {
      case Place::outside:
        place_ = Place::file;
        break;
      case Place::file:
        place_ = key_ == metadata_key ? Place::metadata : Place::tensor;
        seen_.clear();
        tensor_ = {};
        break;
      default:
        if (!skips()) {
          value("object", "object");
        }
        place_ = Place::skipped;
    }
    open_.push_back(place_);
  }

  void end_object() override {
    if (place_ == Place::tensor) {
      add_tensor();
    }
    leave();
  }

  void start_array() override {
    enter();
    if (place_ == Place::tensor && member_ == Member::shape) {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && member_ == Member::data_offsets) {
      place_ = Place::offsets;
      offsets_.clear();
    } else {
      if (!skips()) {
        value("array", "array");
      }
      place_ = Place::skipped;
    }
    open_.push_back(place_);
  }

  void end_array() override {
    if (place_ == Place::offsets) {
      expect(offsets_.size() == 2, malformed_offsets());
      tensor_.begin = offsets_[0];
      tensor_.end = offsets_[1];
    }
    leave();
  }

  void key(std::string&& text) override {
    const auto once = [&](bool first) {
      expect(first, "header has the key \"", shown(text), "\" twice; expected it once");
    };
    if (place_ == Place::file) {
      once(!tensors.contains(text) && (text != metadata_key || !std::exchange(has_metadata_, true)));
      expect(tensors.size() < safetensors_entry_limit, "header has more than ", safetensors_entry_limit, " tensors");
      key_ = std::move(text);
    } else if (place_ == Place::metadata) {
      once(!metadata.contains(text));
      expect(metadata.size() < safetensors_entry_limit, "__metadata__ has more than ", safetensors_entry_limit,
             " entries");
      key_ = std::move(text);
    } else if (place_ == Place::tensor) {
      member_ = text == "dtype"          ? Member::dtype
                : text == "shape"        ? Member::shape
                : text == "data_offsets" ? Member::data_offsets
                                         : Member::other;
      if (member_ != Member::other) {
        once(seen_.insert(member_).second);
      }
    }
  }

  enum class Place { outside, file, metadata, tensor, shape, offsets, skipped };
  enum class Member { dtype, shape, data_offsets, other };

  [[nodiscard]] static Excerpt shown(std::string_view name) { return excerpt(name, 120); }

  template <class... Parts>
  void expect(bool holds, Parts&&... parts) const {
    require<FileError>(holds, name_, ": ", std::forward<Parts>(parts)...);
  }

  // Members that the format does not know are left to newer ones.
  [[nodiscard]] bool skips() const {
    return place_ == Place::skipped || (place_ == Place::tensor && member_ == Member::other);
  }

  /// A value that nothing waits for: what there is of it in the format has been taken before.
  void value(std::string_view type, std::string_view text) const {
    switch (place_) {
      case Place::outside:
      case Place::skipped:
        break;
      case Place::file:
        expect(key_ != metadata_key, "__metadata__ is of type ", type, "; expected an object of strings");
        expect(false, "tensor \"", shown(key_), "\" is of type ", type,
               "; expected an object with dtype, shape and data_offsets");
        break;
      case Place::metadata:
        expect(false, "__metadata__ \"", shown(key_), "\" is of type ", type, "; expected a string");
        break;
      case Place::tensor:
        expect(member_ == Member::other, "tensor \"", shown(key_), "\" has ", name_of(member_), " of type ", type,
               "; expected ", expected_of(member_));
        break;
      case Place::shape:
        expect(false, "tensor \"", shown(key_), "\" has the extent ", excerpt(text),
               "; expected a whole number from 0 to ", (std::numeric_limits<Index>::max)());
        break;
      case Place::offsets:
        expect(false, malformed_offsets());
    }
  }

  static std::string_view name_of(Member member) {
    return member == Member::dtype ? "dtype" : member == Member::shape ? "shape" : "data_offsets";
  }
  static std::string_view expected_of(Member member) {
    return member == Member::dtype   ? "a string"
           : member == Member::shape ? "an array of extents"
                                     : "an array of two offsets";
  }
  [[nodiscard]] std::string malformed_offsets() const {
    return message("tensor \"", shown(key_), "\" has malformed data_offsets; expected two whole numbers [begin, end]");
  }

  void enter() const { expect(open_.size() < max_depth, "header nests deeper than ", max_depth, " levels"); }

  void leave() {
    open_.pop_back();
    place_ = open_.empty() ? Place::outside : open_.back();
  }

  void add_tensor() {
    for (const Member member : {Member::dtype, Member::shape, Member::data_offsets}) {
      expect(seen_.contains(member), "tensor \"", shown(key_), "\" has no ", name_of(member), "; expected ",
             expected_of(member));
    }
    const auto& [info, begin, end] = tensor_;
    const std::optional<Index> elements = info.elements();
    expect(elements.has_value(), "tensor \"", shown(key_), "\" is ", info, "; expected fewer than 2^63 bytes");
    expect(begin <= end && end <= data_size_, "tensor \"", shown(key_), "\" has data_offsets [", begin, ", ", end,
           "]; expected a range within the ", data_size_, " bytes of data");
    const Index size = *elements * size_of(info.dtype);
    expect(std::cmp_equal(end - begin, size), "tensor \"", shown(key_), "\" has data_offsets [", begin, ", ", end,
           "], ", end - begin, " bytes; expected ", size, " bytes for ", info);
    tensors.emplace(key_, std::move(tensor_));
  }

  // The tensors, in the order of their offsets, must cover the data exactly.
  void check_layout() const {
    using Entry = std::pair<const std::string, StoredTensor>;
    std::vector<const Entry*> entries;
    for (const Entry& entry : tensors) {
      entries.push_back(&entry);
    }
    std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) {
      return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
    });
    std::uint64_t end = 0;
    for (const Entry* entry : entries) {
      expect(entry->second.begin == end, "tensor \"", shown(entry->first), "\" begins at byte ", entry->second.begin,
             "; expected ", end, ", where the tensor before it ends (an ",
             entry->second.begin < end ? "overlap)" : "unused range)");
      end = entry->second.end;
    }
    expect(end == data_size_, "the tensors end at byte ", end, "; expected ", data_size_,
           ", the end of the file's data");
  }

  static constexpr std::string_view metadata_key = "__metadata__";
  static constexpr std::size_t max_depth = 8;

  std::string_view name_;
  std::uint64_t data_size_;
  Place place_ = Place::outside;
  std::vector<Place> open_;  // the objects and arrays around the place
  std::string key_;          // of the tensor, or of the metadata
  Member member_ = Member::other;
  std::set<Member> seen_;
  bool has_metadata_ = false;
  StoredTensor tensor_;
  std::vector<std::uint64_t> offsets_;
};

}  // namespace detail

}  // namespace elcrec::inline ELCREC_TARGET
