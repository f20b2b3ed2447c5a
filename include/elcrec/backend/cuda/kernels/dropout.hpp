#pragma once

#include <cstdint>

#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"

/// x = mask ∘ x / (1 - rate) in place on (T, D), by the bits of core/dropout_mask.hpp.
///
/// Bytes an element (float): 8; one Philox block (about 80 integer operations) for 8 elements. Eight neighbouring lanes
/// take a group of 64 columns: lane i computes the group's block i and the elements in the columns 8 j + i that look at
/// it, so that every access of a warp is four whole sectors of 32 bytes. A block of threads takes one sequence.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// DropoutMask for kernels.
struct DropoutBits {
  RandomStream stream;
  std::uint32_t threshold;
  bool half;
  double scale;

  explicit DropoutBits(const DropoutMask& mask)
      : stream(mask.stream), threshold(mask.threshold), half(mask.half()), scale(mask.scale()) {}

  [[nodiscard]] __device__ bool active() const { return threshold != 0; }

  /// Word i of a block, without an address, so that the block stays in registers.
  [[nodiscard]] __device__ static std::uint32_t word(const PhiloxBlock& block, int i) {
    const auto [a, b, c, d] = block;
    const std::uint32_t low = (i & 1) != 0 ? b : a;
    const std::uint32_t high = (i & 1) != 0 ? d : c;
    return (i & 2) != 0 ? high : low;
  }

  /// The block that column c of group g looks at, c in [0, 64).
  [[nodiscard]] __device__ PhiloxBlock block_of(std::uint64_t g, int c) const {
    return stream.block(half ? g / 2 : g * DropoutMask::group_blocks + static_cast<std::uint64_t>(c % 8));
  }

  /// Whether column c of group g stays, given that block.
  [[nodiscard]] __device__ bool keeps(const PhiloxBlock& block, std::uint64_t g, int c) const {
    if (half) {
      return ((word(block, static_cast<int>(2 * (g % 2)) + c / 32) >> (c % 32)) & 1U) != 0;
    }
    const std::uint32_t bits = word(block, c % 32 / 8);
    return ((c < 32 ? bits : bits >> 16) & 0xFFFFU) >= threshold;
  }

  /// DropoutMask::keeps
  [[nodiscard]] __device__ bool keeps(std::uint64_t row, int column, int columns) const {
    const std::uint64_t g = DropoutMask::group(row, column / DropoutMask::group_columns, columns);
    const int c = column % static_cast<int>(DropoutMask::group_columns);
    return keeps(block_of(g, c), g, c);
  }
};

template <class T>
struct DropoutKernel {
  static constexpr int max_threads = 128;
  DeviceTokens tokens;
  DropoutBits mask;
  MatrixView<T> x;

  __device__ void operator()() const {
    constexpr int group_lanes = 8;
    constexpr int group_columns = static_cast<int>(DropoutMask::group_columns);
    const int s = block_x();
    const int begin = tokens.begin(s);
    const int columns = static_cast<int>(x.cols());
    const int groups = static_cast<int>(DropoutMask::groups(columns));
    const int units = tokens.length(s) * groups;
    const int first = thread_x() % group_lanes;
    const auto factor = static_cast<T>(mask.scale);
    for (int unit = thread_x() / group_lanes; unit < units; unit += threads_x() / group_lanes) {
      const int t = begin + unit / groups;
      const int group_of_row = unit % groups;
      const std::uint64_t g = DropoutMask::group(tokens.random_row(s, t), group_of_row, columns);
      const auto block = mask.block_of(g, first);
      T* const row = x.row(t) + group_of_row * group_columns;
      const int width = columns - group_of_row * group_columns;
      ELCREC_UNROLL()
      for (int c = first; c < group_columns; c += group_lanes) {
        if (c < width) {
          row[c] = mask.keeps(block, g, c) ? row[c] * factor : T(0);
        }
      }
    }
  }
};

template <class T>
void dropout(const Stream& stream, const TokenView& tokens, const DropoutMask& mask, MatrixView<T> x) {
  if (mask.active()) {
    constexpr Index threads = DropoutKernel<T>::max_threads;
    launch(stream, {.x = tokens.sequences()}, {.x = threads}, 0,
           DropoutKernel<T>{DeviceTokens(tokens), DropoutBits(mask), x});
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
