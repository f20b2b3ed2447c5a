#pragma once

#include <array>
#include <bit>
#include <concepts>
#include <limits>
#include <optional>
#include <ostream>
#include <string_view>
#include <vector>

#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Element types of the safetensors format. F8 and BOOL tensors may lie in a file but cannot be read as numbers.
enum class DType { boolean, u8, i8, f8_e5m2, f8_e4m3, i16, u16, f16, bf16, i32, u32, f32, i64, u64, f64 };

namespace detail {

struct DTypeRow {
  std::string_view name;
  Index size;
};

// In the order of DType.
inline constexpr std::array<DTypeRow, 15> dtype_rows = {{{"BOOL", 1},
                                                         {"U8", 1},
                                                         {"I8", 1},
                                                         {"F8_E5M2", 1},
                                                         {"F8_E4M3", 1},
                                                         {"I16", 2},
                                                         {"U16", 2},
                                                         {"F16", 2},
                                                         {"BF16", 2},
                                                         {"I32", 4},
                                                         {"U32", 4},
                                                         {"F32", 4},
                                                         {"I64", 8},
                                                         {"U64", 8},
                                                         {"F64", 8}}};

template <class T, class... Types>
inline constexpr bool is_any_of = (std::same_as<T, Types> || ...);

// An item-id map in the metadata can grow; the format's own limit keeps a reader from allocating without bound.
inline constexpr std::size_t safetensors_header_limit = 100'000'000;
// Tensors, metadata entries and extents of a tensor: far above what models have, and a header of 100 MB could list
// enough to fill gigabytes.
inline constexpr std::size_t safetensors_entry_limit = 100'000;
inline constexpr std::size_t safetensors_rank_limit = 64;

}  // namespace detail

/// Bytes of one element.
[[nodiscard]] constexpr Index size_of(DType dtype) { return detail::dtype_rows[static_cast<std::size_t>(dtype)].size; }

/// The format's name, such as "F32".
[[nodiscard]] constexpr std::string_view name_of(DType dtype) {
  return detail::dtype_rows[static_cast<std::size_t>(dtype)].name;
}

/// The type that the format calls `name`, if there is one.
[[nodiscard]] constexpr std::optional<DType> dtype_named(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_rows.size(); ++i) {
    if (detail::dtype_rows[i].name == name) {
      return static_cast<DType>(i);
    }
  }
  return std::nullopt;
}

/// What host code reads tensors into and writes them from.
template <class T>
concept TensorElement = detail::is_any_of<T, float, double, signed char, unsigned char, short, unsigned short, int,
                                          unsigned, long, unsigned long, long long, unsigned long long>;

namespace detail {

template <TensorElement T>
[[nodiscard]] constexpr DType find_dtype() {
  if constexpr (std::floating_point<T>) {
    return sizeof(T) == 4 ? DType::f32 : DType::f64;
  } else {
    constexpr std::array<DType, 4> with_sign = {DType::i8, DType::i16, DType::i32, DType::i64};
    constexpr std::array<DType, 4> without_sign = {DType::u8, DType::u16, DType::u32, DType::u64};
    constexpr auto log2_size = static_cast<std::size_t>(std::countr_zero(sizeof(T)));
    return std::signed_integral<T> ? with_sign[log2_size] : without_sign[log2_size];
  }
}

}  // namespace detail

/// The format's type that holds a `T` exactly.
template <TensorElement T>
inline constexpr DType dtype_of = detail::find_dtype<T>();

/// Type and extents of a stored tensor; no extents mean a scalar.
struct TensorInfo {
  DType dtype{};
  std::vector<Index> shape;

  /// Number of elements. Nothing if an extent is negative or the size in bytes exceeds Index.
  [[nodiscard]] std::optional<Index> elements() const {
    const Index limit = (std::numeric_limits<Index>::max)() / size_of(dtype);
    Index product = 1;
    for (const Index extent : shape) {
      if (extent < 0 || (extent > 0 && product > limit / extent)) {
        return std::nullopt;
      }
      product *= extent;
    }
    return product;
  }

  /// As in "F32 [12101, 64]".
  friend std::ostream& operator<<(std::ostream& out, const TensorInfo& info) {
    out << name_of(info.dtype) << " [";
    constexpr std::size_t most = 8;  // a file may give any number of extents
    for (std::size_t i = 0; i < info.shape.size() && i < most; ++i) {
      out << (i == 0 ? "" : ", ") << info.shape[i];
    }
    return out << (info.shape.size() > most ? ", ...]" : "]");
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
