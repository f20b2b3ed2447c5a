#pragma once

#include <algorithm>
#include <cstdint>

#include "elcrec/backend/cuda/kernels/thread.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// What kernels read of a staged TokenView, with its meanings.
struct DeviceTokens {
  const std::int32_t* offsets;
  const ItemId* items;
  const std::int32_t* positions;
  Index first_sample;
  Index max_length;
  int first_token;

  explicit DeviceTokens(const TokenView& view)
      : offsets(view.offsets.data()),
        items(view.items.data()),
        positions(view.positions.data()),
        first_sample(view.first_sample),
        max_length(view.max_length),
        first_token(static_cast<int>(view.first_token)) {}

  [[nodiscard]] __device__ int begin(int s) const { return offsets[s] - first_token; }
  [[nodiscard]] __device__ int end(int s) const { return begin(s + 1); }
  [[nodiscard]] __device__ int length(int s) const { return end(s) - begin(s); }
  [[nodiscard]] __device__ std::uint64_t random_row(int s, int t) const {
    return static_cast<std::uint64_t>((first_sample + s) * max_length + positions[t]);
  }
};

/// First place in [begin, end) of an ascending array whose value is at least `value`; `end` if there is none.
[[nodiscard]] __device__ inline int lower_bound(const std::int32_t* values, int begin, int end, Index value) {
  while (begin < end) {
    const int middle = begin + (end - begin) / 2;
    if (values[middle] < value) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

/// f(sequence) in a block of threads for each sequence, with as many threads as pay for `columns`.
template <class Kernel>
void launch_sequences(const Stream& stream, const TokenView& tokens, Index columns, const Kernel& kernel) {
  const Index threads = std::clamp<Index>(blocks_for(columns, warp_size), 1, 8) * warp_size;
  launch(stream, {.x = tokens.sequences()}, {.x = threads}, 0, kernel);
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
