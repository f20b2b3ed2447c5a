#pragma once

#include <array>
#include <cstdint>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// Element i of entry b: bit i of b.
template <class T>
inline constexpr auto bit_rows = [] {
  std::array<std::array<T, 8>, 256> rows{};
  for (std::size_t byte = 0; byte < rows.size(); ++byte) {
    for (std::size_t i = 0; i < 8; ++i) {
      rows[byte][i] = static_cast<T>(byte >> i & 1U);
    }
  }
  return rows;
}();

/// Words of eight Philox blocks side by side: word w of block i in words[w][i].
using EightBlocks = std::array<std::array<std::uint32_t, 8>, 4>;

/// Blocks index .. index + 7 of a stream, the same bits as RandomStream::block: loops over the eight, of which a
/// compiler makes vector instructions.
inline void eight_blocks(const RandomStream& stream, std::uint64_t index, EightBlocks& words) {
  auto& [c0, c1, c2, c3] = words;
  for (std::size_t i = 0; i < 8; ++i) {
    c0[i] = static_cast<std::uint32_t>(index + i);
    c1[i] = static_cast<std::uint32_t>((index + i) >> 32);
    c2[i] = stream.tensor;
    c3[i] = stream.step;
  }
  auto key0 = static_cast<std::uint32_t>(stream.seed);
  auto key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int round = 0; round < elcrec::detail::philox_rounds; ++round) {
    for (std::size_t i = 0; i < 8; ++i) {
      const std::uint64_t p0 = std::uint64_t{elcrec::detail::philox_multiplier0} * c0[i];
      const std::uint64_t p1 = std::uint64_t{elcrec::detail::philox_multiplier1} * c2[i];
      c0[i] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ key0;
      c1[i] = static_cast<std::uint32_t>(p1);
      c2[i] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ key1;
      c3[i] = static_cast<std::uint32_t>(p0);
    }
    key0 += elcrec::detail::philox_weyl0;
    key1 += elcrec::detail::philox_weyl1;
  }
}

/// What the elements of a mask's rows are multiplied by: 0 or mask.scale().
template <class T>
class DropoutFactors {
 public:
  explicit DropoutFactors(const DropoutMask& mask) : mask_(mask), scale_(static_cast<T>(mask.scale())) {}

  /// Elements [first, first + count) of row `row` of a matrix with `columns` columns. `first` is a multiple of 64;
  /// there is room for count rounded up to a multiple of 64.
  void row(std::uint64_t row, Index columns, Index first, Index count, T* factors) {
    for (Index c = 0; c < count; c += DropoutMask::group_columns) {
      const auto group = DropoutMask::group(row, (first + c) / DropoutMask::group_columns, columns);
      if (mask_.half()) {
        half_group(group, factors + c);
      } else {
        whole_group(group, factors + c);
      }
    }
  }

 private:
  static constexpr std::uint64_t groups_of_blocks = 16;  // at rate 1/2; neighbouring rows share them

  void half_group(std::uint64_t group, T* to) {
    if (group / groups_of_blocks != batch_) {
      batch_ = group / groups_of_blocks;
      eight_blocks(mask_.stream, batch_ * (groups_of_blocks / 2), words_);
    }
    const auto within = static_cast<std::uint32_t>(group % groups_of_blocks);
    for (std::size_t w = 0; w < 2; ++w) {
      const std::uint32_t bits = words_[2 * std::size_t{within % 2} + w][within / 2];
      for (std::size_t byte = 0; byte < 4; ++byte) {
        elements<8>(to + 32 * w + 8 * byte) = scale_ * elements<8>(bit_rows<T>[bits >> (8 * byte) & 0xFFU].data());
      }
    }
  }

  void whole_group(std::uint64_t group, T* to) {
    eight_blocks(mask_.stream, group * DropoutMask::group_blocks, words_);
    for (std::size_t w = 0; w < 4; ++w) {
      for (std::size_t i = 0; i < 8; ++i) {
        to[8 * w + i] = (words_[w][i] & 0xFFFFU) >= mask_.threshold ? scale_ : T(0);
        to[8 * w + i + 32] = words_[w][i] >> 16 >= mask_.threshold ? scale_ : T(0);
      }
    }
  }

  DropoutMask mask_;
  T scale_;
  std::uint64_t batch_ = ~std::uint64_t{0};
  EightBlocks words_;
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
