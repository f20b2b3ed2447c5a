#pragma once

#include <cmath>
#include <cstdint>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec {

/// Which elements a dropout keeps, as a pure function of (stream, row, column): a backward pass asks again instead of
/// storing a mask, and every backend gives the same answer. 16 random bits decide an element, eight elements share a
/// Philox block; kept elements are scaled by the inverse of the exact probability of being kept.
struct DropoutMask {
  static constexpr std::uint32_t resolution = 1U << 16;
  static constexpr Index columns_per_block = 8;

  RandomStream stream;
  std::uint32_t threshold = 0;  ///< elements whose bits are below are dropped; 0 keeps everything

  DropoutMask() = default;
  DropoutMask(RandomStream s, double rate) : stream(s) {
    require(rate >= 0.0 && rate < 1.0, "dropout rate: found ", rate, ", expected a value in [0, 1)");
    threshold = static_cast<std::uint32_t>(std::lround(rate * resolution));
  }

  [[nodiscard]] bool active() const { return threshold != 0; }
  [[nodiscard]] double scale() const { return static_cast<double>(resolution) / (resolution - threshold); }

  /// Philox blocks that a row of `columns` elements takes.
  [[nodiscard]] static constexpr Index blocks(Index columns) {
    return (columns + columns_per_block - 1) / columns_per_block;
  }

  /// Whether element (row, column) of a matrix with `columns` columns stays. `row` is TokenView::random_row.
  [[nodiscard]] bool keeps(std::uint64_t row, Index column, Index columns) const {
    const auto index = row * static_cast<std::uint64_t>(blocks(columns)) +
                       static_cast<std::uint64_t>(column / columns_per_block);
    const auto lane = static_cast<std::size_t>(column % columns_per_block);
    const std::uint32_t word = stream.block(index)[lane / 2];
    return ((word >> (16 * (lane % 2))) & 0xFFFFU) >= threshold;
  }

  /// Columns of the mask over attention probabilities: head h, key at position p is column h * head_columns(L) + p.
  [[nodiscard]] static constexpr Index head_columns(Index max_length) {
    return blocks(max_length) * columns_per_block;
  }
};

}  // namespace elcrec
