#pragma once

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/tensor_info.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

static_assert(std::endian::native == std::endian::little, "safetensors are little endian and are copied as they are");

// IEEE binary16: sign 1, exponent 5 (bias 15), fraction 10.
[[nodiscard]] inline float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t exponent = (bits >> 10) & 0x1FU;
  const std::uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign == 0 ? magnitude : -magnitude;
  }
  const std::uint32_t wide_exponent = exponent == 0x1F ? 0xFFU : exponent + (127 - 15);
  return std::bit_cast<float>(sign | (wide_exponent << 23) | (fraction << 13));
}

[[nodiscard]] inline float bfloat16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

// On the bits: std::isfinite is constant under a host's -ffast-math.
template <std::floating_point T>
[[nodiscard]] bool is_finite(T value) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr auto exponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  return (std::bit_cast<Bits>(value) & exponent) != exponent;
}

}  // namespace detail

/// The verified content of one safetensors file (https://github.com/huggingface/safetensors): an 8-byte header length,
/// a JSON header, then the tensors' bytes without holes. Holds the whole file in memory; `const` calls are safe from
/// many threads. Every FileError names the file, the tensor, what was found and what was expected.
class SafetensorsFile {
 public:
  /// Reads and verifies a whole file; throws FileError.
  [[nodiscard]] static SafetensorsFile read(const std::filesystem::path& path) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    require<FileError>(!error, path.string(), ": cannot be read: ", error.message());
    std::ifstream in(path, std::ios::binary);
    require<FileError>(in.is_open(), path.string(), ": cannot be read: ", std::generic_category().message(errno));
    std::vector<std::byte> bytes(size);
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    require<FileError>(static_cast<std::uintmax_t>(in.gcount()) == size, path.string(), ": read ", in.gcount(),
                       " bytes; expected ", size);
    return parse(std::move(bytes), path.string());
  }

  /// Verifies a file's content; `name` stands for the file in messages. Throws FileError.
  [[nodiscard]] static SafetensorsFile parse(std::vector<std::byte> bytes, std::string name) {
    SafetensorsFile file(std::move(bytes), std::move(name));
    const nlohmann::json header = file.parse_header();
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        file.take_metadata(value);
      } else {
        file.take_tensor(key, value);
      }
    }
    file.check_layout();
    return file;
  }

  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// The tensors' names, sorted.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    names.reserve(tensors_.size());
    for (const auto& [name, tensor] : tensors_) {
      names.push_back(name);
    }
    return names;
  }

  [[nodiscard]] bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }

  /// Throws FileError if there is no such tensor.
  [[nodiscard]] const TensorInfo& info(std::string_view name) const { return find(name).info; }

  /// Copies a tensor, row-major, into `out`. float and double take F16, BF16, F32 and F64; integers take integers.
  /// Throws FileError if the tensor is missing, is of another kind or has another number of elements, or if a value is
  /// NaN, infinite or out of T's range. Does not allocate.
  template <TensorElement T>
  void read(std::string_view name, std::span<T> out) const {
    const Tensor& tensor = find(name);
    expect(std::cmp_equal(*tensor.info.elements(), out.size()), "tensor \"", shown(name), "\" is ", tensor.info, " (",
           *tensor.info.elements(), " elements); expected ", out.size(), " elements");
    if constexpr (std::floating_point<T>) {
      switch (tensor.info.dtype) {
        case DType::f16:
          return convert<std::uint16_t>(name, tensor, out, detail::half_to_float);
        case DType::bf16:
          return convert<std::uint16_t>(name, tensor, out, detail::bfloat16_to_float);
        case DType::f32:
          return convert<float>(name, tensor, out, std::identity{});
        case DType::f64:
          return convert<double>(name, tensor, out, std::identity{});
        default:
          expect(false, "tensor \"", shown(name), "\" is ", tensor.info, "; expected F16, BF16, F32 or F64");
      }
    } else {
      switch (tensor.info.dtype) {
        case DType::u8:
          return convert<std::uint8_t>(name, tensor, out, std::identity{});
        case DType::i8:
          return convert<std::int8_t>(name, tensor, out, std::identity{});
        case DType::u16:
          return convert<std::uint16_t>(name, tensor, out, std::identity{});
        case DType::i16:
          return convert<std::int16_t>(name, tensor, out, std::identity{});
        case DType::u32:
          return convert<std::uint32_t>(name, tensor, out, std::identity{});
        case DType::i32:
          return convert<std::int32_t>(name, tensor, out, std::identity{});
        case DType::u64:
          return convert<std::uint64_t>(name, tensor, out, std::identity{});
        case DType::i64:
          return convert<std::int64_t>(name, tensor, out, std::identity{});
        default:
          expect(false, "tensor \"", shown(name), "\" is ", tensor.info, "; expected an integer type");
      }
    }
  }

  /// The same into a new vector.
  template <TensorElement T>
  [[nodiscard]] std::vector<T> read(std::string_view name) const {
    std::vector<T> values(static_cast<std::size_t>(*info(name).elements()));
    read<T>(name, std::span<T>(values));
    return values;
  }

 private:
  struct Tensor {
    TensorInfo info;
    std::uint64_t begin = 0;  // bytes from the end of the header
    std::uint64_t end = 0;
  };

  SafetensorsFile(std::vector<std::byte> bytes, std::string name) : name_(std::move(name)), bytes_(std::move(bytes)) {}

  [[nodiscard]] static detail::Excerpt shown(std::string_view name) { return detail::excerpt(name, 120); }

  template <class... Parts>
  void expect(bool holds, Parts&&... parts) const {
    require<FileError>(holds, name_, ": ", std::forward<Parts>(parts)...);
  }

  [[nodiscard]] nlohmann::json parse_header() {
    std::uint64_t length = 0;
    expect(bytes_.size() >= sizeof(length), "has ", bytes_.size(),
           " bytes; expected a safetensors file, which begins with an 8-byte header length");
    std::memcpy(&length, bytes_.data(), sizeof(length));
    expect(length <= bytes_.size() - sizeof(length), "header length is ", length, " bytes; expected at most the ",
           bytes_.size() - sizeof(length), " bytes that follow it");
    expect(length <= detail::safetensors_header_limit, "header length is ", length, " bytes; expected at most ",
           detail::safetensors_header_limit);
    data_begin_ = sizeof(length) + static_cast<std::size_t>(length);

    const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + sizeof(length),
                                static_cast<std::size_t>(length));
    // nlohmann/json would skip a byte order mark and take a NUL for the end.
    expect(text.starts_with('{') && text.find('\0') == std::string_view::npos,
           "header is not a JSON object in plain text");

    // It also drops duplicate keys silently, and nests as deep as the text does.
    std::vector<std::set<std::string>> open_objects;
    const auto check = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
      using Event = nlohmann::json::parse_event_t;
      expect(depth <= max_header_depth, "header nests deeper than ", max_header_depth, " levels");
      if (event == Event::object_start) {
        open_objects.emplace_back();
      } else if (event == Event::object_end) {
        open_objects.pop_back();
      } else if (event == Event::key) {
        const auto& key = parsed.get_ref<const std::string&>();
        expect(open_objects.back().insert(key).second, "header has the key \"", shown(key),
               "\" twice; expected it once");
      }
      return true;
    };
    try {
      return nlohmann::json::parse(text.begin(), text.end(), check);
    } catch (const nlohmann::json::exception& e) {
      throw FileError(message(name_, ": header is not valid JSON: ", detail::excerpt(e.what(), 200)));
    }
  }

  void take_metadata(const nlohmann::json& metadata) {
    expect(metadata.is_object(), "__metadata__ is of type ", metadata.type_name(), "; expected an object of strings");
    for (const auto& [key, value] : metadata.items()) {
      expect(value.is_string(), "__metadata__ \"", shown(key), "\" is of type ", value.type_name(),
             "; expected a string");
      metadata_[key] = value.get<std::string>();
    }
  }

  void take_tensor(const std::string& name, const nlohmann::json& entry) {
    const auto member = [&](const char* key, nlohmann::json::value_t type, const char* expected) -> const auto& {
      const auto found = entry.find(key);
      expect(found != entry.end(), "tensor \"", shown(name), "\" has no ", key, "; expected ", expected);
      expect(found->type() == type, "tensor \"", shown(name), "\" has ", key, " of type ", found->type_name(),
             "; expected ", expected);
      return *found;
    };
    expect(entry.is_object(), "tensor \"", shown(name), "\" is of type ", entry.type_name(),
           "; expected an object with dtype, shape and data_offsets");

    Tensor tensor;
    const auto& dtype_name = member("dtype", nlohmann::json::value_t::string, "a string").get_ref<const std::string&>();
    const std::optional<DType> dtype = dtype_named(dtype_name);
    expect(dtype.has_value(), "tensor \"", shown(name), "\" has the unknown dtype \"", shown(dtype_name),
           "\"; expected one of the format's, such as F32");
    tensor.info.dtype = *dtype;

    for (const auto& extent : member("shape", nlohmann::json::value_t::array, "an array of extents")) {
      expect(extent.is_number_unsigned() && std::in_range<Index>(extent.get<std::uint64_t>()), "tensor \"", shown(name),
             "\" has the extent ", number_or_type(extent), "; expected a whole number from 0 to ",
             std::numeric_limits<Index>::max());
      tensor.info.shape.push_back(static_cast<Index>(extent.get<std::uint64_t>()));
    }
    const std::optional<Index> elements = tensor.info.elements();
    expect(elements.has_value(), "tensor \"", shown(name), "\" is ", tensor.info, "; expected fewer than 2^63 bytes");

    const auto& offsets = member("data_offsets", nlohmann::json::value_t::array, "an array of two offsets");
    expect(offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned(), "tensor \"",
           shown(name), "\" has malformed data_offsets; expected two whole numbers [begin, end]");
    tensor.begin = offsets[0].get<std::uint64_t>();
    tensor.end = offsets[1].get<std::uint64_t>();
    const std::size_t data_size = bytes_.size() - data_begin_;
    expect(tensor.begin <= tensor.end && tensor.end <= data_size, "tensor \"", shown(name), "\" has data_offsets [",
           tensor.begin, ", ", tensor.end, "]; expected a range within the ", data_size, " bytes of data");
    const Index size = *elements * size_of(*dtype);
    expect(std::cmp_equal(tensor.end - tensor.begin, size), "tensor \"", shown(name), "\" has data_offsets [",
           tensor.begin, ", ", tensor.end, "], ", tensor.end - tensor.begin, " bytes; expected ", size, " bytes for ",
           tensor.info);
    tensors_.emplace(name, std::move(tensor));
  }

  // The tensors, in the order of their offsets, must cover the data exactly.
  void check_layout() const {
    using Entry = std::pair<const std::string, Tensor>;
    std::vector<const Entry*> entries;
    for (const Entry& entry : tensors_) {
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
    expect(end == bytes_.size() - data_begin_, "the tensors end at byte ", end, "; expected ",
           bytes_.size() - data_begin_, ", the end of the file's data");
  }

  [[nodiscard]] static std::string number_or_type(const nlohmann::json& value) {
    return value.is_number() ? value.dump() : value.type_name();
  }

  [[nodiscard]] const Tensor& find(std::string_view name) const {
    const auto found = tensors_.find(name);
    expect(found != tensors_.end(), "tensor \"", shown(name), "\" is missing");
    return found->second;
  }

  // The tensors need not be aligned in memory, hence memcpy.
  template <class Stored, class T, class Decode>
  void convert(std::string_view name, const Tensor& tensor, std::span<T> out, Decode decode) const {
    const std::byte* source = bytes_.data() + data_begin_ + tensor.begin;
    for (std::size_t i = 0; i < out.size(); ++i, source += sizeof(Stored)) {
      Stored stored;
      std::memcpy(&stored, source, sizeof(Stored));
      const auto value = decode(stored);
      if constexpr (std::floating_point<T>) {
        expect(detail::is_finite(value), "tensor \"", shown(name), "\" element ", i, " is ", value,
               "; expected a finite number");
        expect(std::abs(value) <= std::numeric_limits<T>::max(), "tensor \"", shown(name), "\" element ", i, " is ",
               value, "; expected a magnitude of at most ", std::numeric_limits<T>::max());
      } else {
        expect(std::in_range<T>(value), "tensor \"", shown(name), "\" element ", i, " is ", +value, "; expected ",
               +std::numeric_limits<T>::min(), " to ", +std::numeric_limits<T>::max());
      }
      out[i] = static_cast<T>(value);
    }
  }

  static constexpr int max_header_depth = 8;

  std::string name_;
  std::vector<std::byte> bytes_;
  std::size_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace elcrec::inline ELCREC_TARGET
