#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Which elements a dropout keeps, as a pure function of (stream, row, column): a backward pass asks again instead of
/// storing a mask, and every backend gives the same answer. Kept elements are scaled by the inverse of the exact
/// probability of being kept. A row takes its bits in groups of 64 columns.
///
/// - At rate 1/2 one random bit decides an element. Group g of the matrix is half a Philox block: column c of it looks
/// at
///   bit c % 32 of word 2 (g % 2) + c / 32 of block g / 2.
/// - At other rates it is 16 bits, and a group takes 8 blocks. Column 32 h + 8 w + i of a group looks at half h of word
/// w
///   of block i: with eight blocks side by side in vector registers, eight neighbouring columns are one register.
struct DropoutMask {
  static constexpr std::uint32_t resolution = 1U << 16;
  static constexpr Index group_columns = 64;
  static constexpr Index group_blocks = 8;

  RandomStream stream;
  std::uint32_t threshold = 0;  ///< elements whose bits are below are dropped; 0 keeps everything

  DropoutMask() = default;
  DropoutMask(RandomStream s, double rate) : stream(s) {
    require(rate >= 0.0 && rate < 1.0, "dropout rate: found ", rate, ", expected a value in [0, 1)");
    threshold = static_cast<std::uint32_t>(std::min<long>(std::lround(rate * resolution), resolution - 1));
  }

  [[nodiscard]] constexpr bool active() const { return threshold != 0; }
  [[nodiscard]] constexpr bool half() const { return threshold == resolution / 2; }
  [[nodiscard]] constexpr double scale() const { return static_cast<double>(resolution) / (resolution - threshold); }

  /// Groups that a row of `columns` elements takes.
  [[nodiscard]] static constexpr Index groups(Index columns) { return (columns + group_columns - 1) / group_columns; }

  /// Number of a group in a matrix of `columns` columns. `row` is TokenView::random_row.
  [[nodiscard]] static constexpr std::uint64_t group(std::uint64_t row, Index group_of_row, Index columns) {
    return row * static_cast<std::uint64_t>(groups(columns)) + static_cast<std::uint64_t>(group_of_row);
  }

  /// Whether element (row, column) of a matrix with `columns` columns stays.
  [[nodiscard]] constexpr bool keeps(std::uint64_t row, Index column, Index columns) const {
    const auto g = group(row, column / group_columns, columns);
    const auto c = static_cast<std::uint64_t>(column % group_columns);
    if (half()) {
      return ((stream.block(g / 2)[2 * (g % 2) + c / 32] >> (c % 32)) & 1U) != 0;
    }
    const std::uint32_t word = stream.block(g * group_blocks + c % group_blocks)[c % 32 / 8];
    return ((c < 32 ? word : word >> 16) & 0xFFFFU) >= threshold;
  }

  /// Columns of the mask over attention probabilities: head h, key at position p is column h * head_columns(L) + p.
  [[nodiscard]] static constexpr Index head_columns(Index max_length) { return groups(max_length) * group_columns; }
};

}  // namespace elcrec::inline ELCREC_TARGET
