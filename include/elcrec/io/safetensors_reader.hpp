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
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/io/safetensors_header.hpp"
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

}  // namespace detail

/// The verified content of one safetensors file (https://github.com/huggingface/safetensors): an 8-byte header length,
/// a JSON header, then the tensors' bytes without holes. Holds the tensors in memory; `const` calls are safe from many
/// threads. Every FileError names the file, the tensor, what was found and what was expected.
class SafetensorsFile {
 public:
  /// Reads and verifies a whole file: first the header, then, if it accounts for every byte that follows, the tensors.
  /// Throws FileError.
  [[nodiscard]] static SafetensorsFile read(const std::filesystem::path& path) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    require<FileError>(!error, path.string(), ": cannot be read: ", error.message());
    std::ifstream in(path, std::ios::binary);
    require<FileError>(in.is_open(), path.string(), ": cannot be read: ", std::generic_category().message(errno));
    std::uintmax_t done = 0;
    return SafetensorsFile(path.string(), size, [&](char* to, std::size_t count) {
      in.read(to, static_cast<std::streamsize>(count));
      done += static_cast<std::uintmax_t>(in.gcount());
      require<FileError>(in.good(), path.string(), ": read ", done, " bytes; expected ", size);
    });
  }

  /// Verifies a file's content; `name` stands for the file in messages. Throws FileError.
  [[nodiscard]] static SafetensorsFile parse(std::span<const std::byte> bytes, std::string name) {
    return SafetensorsFile(std::move(name), bytes.size(), [rest = bytes](char* to, std::size_t count) mutable {
      std::copy_n(rest.begin(), count, reinterpret_cast<std::byte*>(to));
      rest = rest.subspan(count);
    });
  }

  /// The file's path, or what `parse` was given for it.
  [[nodiscard]] const std::string& name() const { return name_; }
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

  /// visitor(name, info, bytes) for the tensors in the order of their names.
  void visit_tensors(auto&& visitor) const {
    for (const auto& [name, tensor] : tensors_) {
      visitor(name, tensor.info, std::span(data_.get() + tensor.begin, data_.get() + tensor.end));
    }
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
  using Tensor = detail::StoredTensor;

  /// read(to, count) brings the next `count` of the file's `size` bytes.
  template <class Read>
  SafetensorsFile(std::string name, std::uintmax_t size, Read read) : name_(std::move(name)) {
    std::uint64_t length = 0;
    expect(size >= sizeof(length), "has ", size,
           " bytes; expected a safetensors file, which begins with an 8-byte header length");
    read(reinterpret_cast<char*>(&length), sizeof(length));
    size -= sizeof(length);
    expect(length <= size, "header length is ", length, " bytes; expected at most the ", size, " bytes that follow it");
    expect(length <= detail::safetensors_header_limit, "header length is ", length, " bytes; expected at most ",
           detail::safetensors_header_limit);
    detail::SafetensorsHeader header(name_, size - length);
    {
      const std::size_t header_size = length;
      std::string text(header_size, '\0');
      read(text.data(), text.size());
      header.parse(text);
    }
    metadata_ = std::move(header.metadata);
    tensors_ = std::move(header.tensors);
    const std::size_t data_size = size - length;
    const auto data =
        in_memory_for(message("the tensors of ", name_, ", ", data_size, " bytes"), "a smaller model", [&] {
          return std::shared_ptr<std::byte[]>(new std::byte[data_size]);  // not initialised
        });
    read(reinterpret_cast<char*>(data.get()), data_size);
    data_ = data;
  }

  [[nodiscard]] static detail::Excerpt shown(std::string_view name) { return detail::excerpt(name, 120); }

  template <class... Parts>
  void expect(bool holds, Parts&&... parts) const {
    require<FileError>(holds, name_, ": ", std::forward<Parts>(parts)...);
  }

  [[nodiscard]] const Tensor& find(std::string_view name) const {
    const auto found = tensors_.find(name);
    expect(found != tensors_.end(), "tensor \"", shown(name), "\" is missing");
    return found->second;
  }

  // The tensors need not be aligned in memory, hence memcpy.
  template <class Stored, class T, class Decode>
  void convert(std::string_view name, const Tensor& tensor, std::span<T> out, Decode decode) const {
    const std::byte* source = data_.get() + tensor.begin;
    for (std::size_t i = 0; i < out.size(); ++i, source += sizeof(Stored)) {
      Stored stored;
      std::memcpy(&stored, source, sizeof(Stored));
      const auto value = decode(stored);
      if constexpr (std::floating_point<T>) {
        expect(is_finite(value), "tensor \"", shown(name), "\" element ", i, " is ", value,
               "; expected a finite number");
        expect(std::abs(value) <= (std::numeric_limits<T>::max)(), "tensor \"", shown(name), "\" element ", i, " is ",
               value, "; expected a magnitude of at most ", (std::numeric_limits<T>::max)());
      } else {
        expect(std::in_range<T>(value), "tensor \"", shown(name), "\" element ", i, " is ", +value, "; expected ",
               +(std::numeric_limits<T>::min)(), " to ", +(std::numeric_limits<T>::max)());
      }
      out[i] = static_cast<T>(value);  // NOLINT(bugprone-signed-char-misuse): a number
    }
  }

  std::string name_;
  std::shared_ptr<const std::byte[]> data_;  // of all copies
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace elcrec::inline ELCREC_TARGET
