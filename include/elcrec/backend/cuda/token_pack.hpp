#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// The arrays and columns of a TokenView as one, so that one copy brings a batch to a device. Each starts at a multiple
/// of 64 bytes.
class TokenPack {
 public:
  /// Bytes that the arrays of a batch take.
  [[nodiscard]] static Index size(const TokenView& tokens) {
    Index total = 0;
    TokenView copy = tokens;
    for_each_array(copy, [&](const std::byte*&, Index bytes) { total += padded(bytes); });
    return total;
  }

  /// Writes them to `to` (size).
  static void pack(const TokenView& tokens, std::span<std::byte> to) {
    TokenView copy = tokens;
    std::byte* at = to.data();
    for_each_array(copy, [&](const std::byte*& data, Index bytes) {
      std::copy_n(data, bytes, at);
      at += padded(bytes);
    });
  }

  /// The batch with the arrays that pack() wrote, wherever they are now. `host_offsets` stay the caller's.
  [[nodiscard]] static TokenView unpack(const TokenView& tokens, std::span<const std::byte> from) {
    TokenView moved = tokens;
    const std::byte* at = from.data();
    for_each_array(moved, [&](const std::byte*& data, Index bytes) {
      data = at;
      at += padded(bytes);
    });
    return moved;
  }

 private:
  /// f(address, bytes) for every array; what f makes of the address is the view's from then on.
  template <class F>
  static void for_each_array(TokenView& v, F f) {
    for (auto* array : {&v.offsets, &v.items, &v.positions}) {
      const std::byte* data = std::as_bytes(*array).data();
      f(data, static_cast<Index>(array->size_bytes()));
      *array = {reinterpret_cast<const std::int32_t*>(data), array->size()};
    }
    for (ColumnView& column : v.columns) {
      f(column.data, column.size * column_value_bytes);
    }
  }
  static Index padded(Index bytes) {
    constexpr Index unit = 64;
    return (bytes + unit - 1) / unit * unit;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
