#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec {

/// Which elements a dropout keeps, as a pure function of (stream, row, column): a backward pass asks again instead of
/// storing a mask, and every backend gives the same answer. 16 random bits decide an element; kept elements are scaled
/// by the inverse of the exact probability of being kept.
///
/// A row takes its bits in groups of 64 columns and 8 Philox blocks. Column 32 h + 8 w + i of a group looks at half h
/// of word w of block i: with eight blocks side by side in vector registers, eight neighbouring columns are one
/// register.
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

  [[nodiscard]] bool active() const { return threshold != 0; }
  [[nodiscard]] double scale() const { return static_cast<double>(resolution) / (resolution - threshold); }

  /// Groups that a row of `columns` elements takes.
  [[nodiscard]] static constexpr Index groups(Index columns) { return (columns + group_columns - 1) / group_columns; }

  /// First Philox block of a group of a row of `columns` elements.
  [[nodiscard]] static constexpr std::uint64_t first_block(std::uint64_t row, Index group, Index columns) {
    return (row * static_cast<std::uint64_t>(groups(columns)) + static_cast<std::uint64_t>(group)) * group_blocks;
  }

  /// Whether element (row, column) of a matrix with `columns` columns stays. `row` is TokenView::random_row.
  [[nodiscard]] bool keeps(std::uint64_t row, Index column, Index columns) const {
    const Index c = column % group_columns;
    const auto block = first_block(row, column / group_columns, columns) + static_cast<std::uint64_t>(c % group_blocks);
    const std::uint32_t word = stream.block(block)[static_cast<std::size_t>(c % 32 / 8)];
    return ((c < 32 ? word : word >> 16) & 0xFFFFU) >= threshold;
  }

  /// Columns of the mask over attention probabilities: head h, key at position p is column h * head_columns(L) + p.
  [[nodiscard]] static constexpr Index head_columns(Index max_length) { return groups(max_length) * group_columns; }
};

}  // namespace elcrec
