#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::detail {

/// Philox blocks index .. index + 7 of a stream at once: word w of block i in words[w][i]. The same bits as
/// RandomStream::block; eight counters fill a vector register.
inline void philox8(const RandomStream& stream, std::uint64_t index, std::uint32_t (&words)[4][8]) {
  typedef std::uint32_t V __attribute__((vector_size(32)));
  typedef std::uint64_t Wide __attribute__((vector_size(32)));
  const auto multiply = [](V a, std::uint32_t m, V& high, V& low) {
    // Even and odd lanes as 64-bit products: the one widening multiplication that vector units have.
    Wide even;
    std::memcpy(&even, &a, sizeof(a));
    const Wide odd = (even >> 32) * m;
    even = (even & 0xFFFFFFFFULL) * m;
    V e;
    V o;
    std::memcpy(&e, &even, sizeof(e));
    std::memcpy(&o, &odd, sizeof(o));
    low = __builtin_shufflevector(e, o, 0, 8, 2, 10, 4, 12, 6, 14);
    high = __builtin_shufflevector(e, o, 1, 9, 3, 11, 5, 13, 7, 15);
  };
  V c0;
  V c1;
  for (int i = 0; i < 8; ++i) {
    const std::uint64_t at = index + static_cast<std::uint64_t>(i);
    c0[i] = static_cast<std::uint32_t>(at);
    c1[i] = static_cast<std::uint32_t>(at >> 32);
  }
  V c2 = V{} + stream.tensor;
  V c3 = V{} + stream.step;
  auto key0 = static_cast<std::uint32_t>(stream.seed);
  auto key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int round = 0; round < philox_rounds; ++round) {
    V high0;
    V low0;
    V high1;
    V low1;
    multiply(c0, philox_multiplier0, high0, low0);
    multiply(c2, philox_multiplier1, high1, low1);
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += philox_weyl0;
    key1 += philox_weyl1;
  }
  std::memcpy(words[0], &c0, sizeof(c0));
  std::memcpy(words[1], &c1, sizeof(c1));
  std::memcpy(words[2], &c2, sizeof(c2));
  std::memcpy(words[3], &c3, sizeof(c3));
}

/// What elements [first, first + count) of row `row` of a matrix with `columns` columns are multiplied by: 0 or
/// mask.scale(). `first` is a multiple of 8; `factors` has room for count rounded up to a multiple of 64.
template <class T>
inline void dropout_factors(const DropoutMask& mask, std::uint64_t row, Index columns, Index first, Index count,
                            T* factors) {
  const T scale = static_cast<T>(mask.scale());
  std::uint64_t block = row * static_cast<std::uint64_t>(DropoutMask::blocks(columns)) +
                        static_cast<std::uint64_t>(first / DropoutMask::columns_per_block);
  for (Index c = 0; c < count; c += 64, block += 8, factors += 64) {
    std::uint32_t words[4][8];
    philox8(mask.stream, block, words);
    for (int i = 0; i < 8; ++i) {
      for (int w = 0; w < 4; ++w) {
        factors[8 * i + 2 * w] = (words[w][i] & 0xFFFFU) >= mask.threshold ? scale : T(0);
        factors[8 * i + 2 * w + 1] = (words[w][i] >> 16) >= mask.threshold ? scale : T(0);
      }
    }
  }
}

}  // namespace elcrec::detail
