#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <utility>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/thread.hpp"

/// Stable sort of pairs of 32 bits by an unsigned key, lowest 8 bits first, three launches for every 8 bits. A block
/// takes 1024 neighbouring pairs, a warp 128 of them in four rounds of 32; equal digits of a round find each other by
/// ballots, so the order is that of the input and depends on nothing else.
///
/// 20 bytes a pair and pass; 8 KB of shared memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

struct KeyValue {
  std::uint32_t key;
  std::int32_t value;
};

namespace detail {

inline constexpr int digit_bits = 8;
inline constexpr int digits = 1 << digit_bits;
inline constexpr int sort_warps = 8;
inline constexpr int sort_rounds = 4;
inline constexpr int sort_block = sort_warps * warp_size * sort_rounds;  // pairs

}  // namespace detail

/// Exclusive prefix sums in place, by one block; the sum of all goes to *total unless that is null.
struct ScanKernel {
  static constexpr int max_threads = 1024;
  std::int32_t* values;
  Index count;
  std::int32_t* total;

  __device__ void operator()() const {
    __shared__ std::int32_t warp_sums[warp_size];
    const Index run = (count + threads_x() - 1) / threads_x();  // neighbours that are one thread's
    const Index first = thread_x() * run;
    const Index last = first + run < count ? first + run : count;
    std::int32_t own = 0;
    for (Index i = first; i < last; ++i) {
      own += values[i];
    }
    std::int32_t before = prefix(own);
    if (lane() == warp_size - 1) {
      warp_sums[warp()] = before + own;
    }
    __syncthreads();
    const std::int32_t of_warp = lane() < warps() ? warp_sums[lane()] : 0;
    const std::int32_t before_warp = prefix(of_warp);
    before += __shfl_sync(whole_warp, before_warp, warp());
    for (Index i = first; i < last; ++i) {
      const std::int32_t value = values[i];
      values[i] = before;
      before += value;
    }
    if (total != nullptr && thread_x() == threads_x() - 1) {
      *total = before;
    }
  }

  /// Σ of the values of lower lanes.
  __device__ static std::int32_t prefix(std::int32_t value) {
    std::int32_t sum = value;
    for (unsigned reach = 1; reach < warp_size; reach *= 2) {
      const std::int32_t other = __shfl_up_sync(whole_warp, sum, reach);
      sum += lane() >= static_cast<int>(reach) ? other : 0;
    }
    return sum - value;
  }
};

inline void scan(const Stream& stream, std::int32_t* values, Index count, std::int32_t* total = nullptr) {
  launch(stream, {}, {.x = ScanKernel::max_threads}, 0, ScanKernel{values, count, total});
}

/// What both kernels of a pass share: the counts of digits in the warps' pairs, and the places of pairs among equal
/// digits of their warp.
struct DigitCounts {
  using Row = std::int32_t[detail::digits];

  /// f(round, pairs of the same digit before the lane's pair in the warp's part) for the lane's pairs. `counts` has a
  /// row of zeros for each warp, and holds the warps' counts afterwards.
  template <class F>
  __device__ static void visit(const KeyValue* pairs, Index count, int shift, Row* counts, F f) {
    ELCREC_UNROLL()
    for (int round = 0; round < detail::sort_rounds; ++round) {
      const Index i = pair_of(round);
      const bool valid = i < count;
      const auto digit = static_cast<int>(valid ? pairs[i].key >> shift & (detail::digits - 1) : 0);
      unsigned equal = __ballot_sync(whole_warp, valid);
      for (int bit = 0; bit < detail::digit_bits; ++bit) {
        const bool set = (digit >> bit & 1) != 0;
        const unsigned having = __ballot_sync(whole_warp, set);
        equal &= set ? having : ~having;
      }
      const int before = __popc(equal & ((1U << lane()) - 1));
      const int in_warp = counts[warp()][digit];
      __syncwarp();
      if (valid) {
        f(round, in_warp + before);
        if (before == 0) {
          counts[warp()][digit] = in_warp + __popc(equal);
        }
      }
      __syncwarp();
    }
  }

  /// Number of the lane's pair of a round.
  [[nodiscard]] __device__ static Index pair_of(int round) {
    return (Index{block_x()} * detail::sort_warps + warp()) * static_cast<Index>(warp_size * detail::sort_rounds) +
           static_cast<Index>(round * warp_size) + lane();
  }

  __device__ static void clear(Row* counts) {
    for (int i = thread_x(); i < detail::sort_warps * detail::digits; i += threads_x()) {
      counts[i / detail::digits][i % detail::digits] = 0;
    }
    __syncthreads();
  }
};

/// counts (digits, blocks) of the digits of each block's pairs
struct CountDigitsKernel {
  static constexpr int max_threads = detail::sort_warps * warp_size;
  const KeyValue* pairs;
  Index count;
  int shift;
  std::int32_t* counts;

  __device__ void operator()() const {
    __shared__ DigitCounts::Row warp_counts[detail::sort_warps];
    DigitCounts::clear(warp_counts);
    DigitCounts::visit(pairs, count, shift, warp_counts, [](int, int) {});
    __syncthreads();
    for (int digit = thread_x(); digit < detail::digits; digit += threads_x()) {
      std::int32_t sum = 0;
      for (const auto& row : warp_counts) {
        sum += row[digit];
      }
      counts[Index{digit} * blocks_x() + block_x()] = sum;
    }
  }
};

/// Puts every pair in its place; offsets (digits, blocks) are the scanned counts.
struct PlacePairsKernel {
  static constexpr int max_threads = detail::sort_warps * warp_size;
  const KeyValue* pairs;
  Index count;
  int shift;
  const std::int32_t* offsets;
  KeyValue* sorted;

  __device__ void operator()() const {
    __shared__ DigitCounts::Row warp_counts[detail::sort_warps];
    DigitCounts::clear(warp_counts);
    std::int32_t rank[detail::sort_rounds];
    DigitCounts::visit(pairs, count, shift, warp_counts, [&](int round, int place) { rank[round] = place; });
    __syncthreads();
    // Counts become places: those of the block and of the warps before.
    for (int digit = thread_x(); digit < detail::digits; digit += threads_x()) {
      std::int32_t place = offsets[Index{digit} * blocks_x() + block_x()];
      for (auto& row : warp_counts) {
        place += std::exchange(row[digit], place);
      }
    }
    __syncthreads();
    ELCREC_UNROLL()
    for (int round = 0; round < detail::sort_rounds; ++round) {
      if (const Index i = DigitCounts::pair_of(round); i < count) {
        const KeyValue pair = pairs[i];
        sorted[warp_counts[warp()][pair.key >> shift & (detail::digits - 1)] + rank[round]] = pair;
      }
    }
  }
};

/// Sorts pairs with keys below `bound`, by `scratch` of the same size. Returns which of the two has the result.
inline std::span<KeyValue> sort_pairs(const Stream& stream, CudaWorkspace& memory, std::span<KeyValue> pairs,
                                      std::span<KeyValue> scratch, std::uint32_t bound) {
  const Index count = ssize(pairs);
  const Index blocks = blocks_for(count, detail::sort_block);
  const auto frame = memory.frame();
  std::int32_t* const counts = memory.array<std::int32_t>(blocks * detail::digits).data();
  const int bits = static_cast<int>(std::bit_width(bound == 0 ? 0 : bound - 1));
  for (int shift = 0; shift < bits; shift += detail::digit_bits) {
    launch(stream, {.x = blocks}, {.x = CountDigitsKernel::max_threads}, 0,
           CountDigitsKernel{pairs.data(), count, shift, counts});
    scan(stream, counts, blocks * detail::digits);
    launch(stream, {.x = blocks}, {.x = PlacePairsKernel::max_threads}, 0,
           PlacePairsKernel{pairs.data(), count, shift, counts, scratch.data()});
    std::swap(pairs, scratch);
  }
  return pairs;
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
