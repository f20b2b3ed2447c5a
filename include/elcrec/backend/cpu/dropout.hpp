#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

typedef std::uint32_t Words __attribute__((vector_size(32)));
typedef std::uint64_t WideWords __attribute__((vector_size(32)));

/// product = low halves of four 64-bit lanes times m: the one widening multiplication that vector units have. By
/// reference, since without AVX a vector of 32 bytes has no settled way to be returned.
inline void multiply_low(const WideWords& a, std::uint32_t m, WideWords& product) {
#if defined(__AVX2__)
  __m256i lanes;
  std::memcpy(&lanes, &a, sizeof(a));
  lanes = _mm256_mul_epu32(lanes, _mm256_set1_epi64x(static_cast<long long>(m)));
  std::memcpy(&product, &lanes, sizeof(product));
#else
  product = (a & 0xFFFFFFFFULL) * static_cast<std::uint64_t>(m);
#endif
}

/// Philox blocks index .. index + 7 of a stream at once: word w of block i in words[w][i]. The same bits as
/// RandomStream::block. A word occupies a 64-bit lane, whose upper half may hold anything, so rounds need no shuffles.
inline void philox8(const RandomStream& stream, std::uint64_t index, Words (&words)[4]) {
  WideWords c[2][4];
  for (std::uint64_t half = 0; half < 2; ++half) {
    const WideWords at = WideWords{0, 1, 2, 3} + (index + 4 * half);
    c[half][0] = at;
    c[half][1] = at >> 32;
    c[half][2] = WideWords{} + stream.tensor;
    c[half][3] = WideWords{} + stream.step;
  }
  auto key0 = static_cast<std::uint32_t>(stream.seed);
  auto key1 = static_cast<std::uint32_t>(stream.seed >> 32);
  for (int round = 0; round < detail::philox_rounds; ++round) {
    for (auto& lanes : c) {
      WideWords p0;
      WideWords p1;
      multiply_low(lanes[0], detail::philox_multiplier0, p0);
      multiply_low(lanes[2], detail::philox_multiplier1, p1);
      lanes[0] = (p1 >> 32) ^ lanes[1] ^ static_cast<std::uint64_t>(key0);
      lanes[1] = p1;
      lanes[2] = (p0 >> 32) ^ lanes[3] ^ static_cast<std::uint64_t>(key1);
      lanes[3] = p0;
    }
    key0 += detail::philox_weyl0;
    key1 += detail::philox_weyl1;
  }
  for (int w = 0; w < 4; ++w) {
    Words low;
    Words high;
    std::memcpy(&low, &c[0][w], sizeof(low));
    std::memcpy(&high, &c[1][w], sizeof(high));
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
    words[w] = __builtin_shuffle(low, high, Words{0, 2, 4, 6, 8, 10, 12, 14});
#else
    words[w] = __builtin_shufflevector(low, high, 0, 2, 4, 6, 8, 10, 12, 14);
#endif
  }
}

/// The bits of a mask of rate 1/2, made for the 16 groups of eight Philox blocks at a time: neighbouring rows share
/// them.
class HalfBits {
 public:
  /// Bit c: whether column c of a group stays.
  std::uint64_t group(const RandomStream& stream, std::uint64_t g) {
    if (g / count != batch_) {
      batch_ = g / count;
      Words words[4];
      philox8(stream, batch_ * (count / 2), words);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t first = 2 * (i % 2);
        bits_[i] = words[first][i / 2] | std::uint64_t{words[first + 1][i / 2]} << 32;
      }
    }
    return bits_[g % count];
  }

 private:
  static constexpr std::uint64_t count = 16;
  std::uint64_t batch_ = ~std::uint64_t{0};
  std::uint64_t bits_[count];
};

/// What the elements of a mask's rows are multiplied by: 0 or mask.scale().
template <class T>
class DropoutFactors {
 public:
  explicit DropoutFactors(const DropoutMask& mask) : mask_(mask) {}

  /// Elements [first, first + count) of row `row` of a matrix with `columns` columns. `first` is a multiple of 64;
  /// there is room for count rounded up to a multiple of 64.
  void row(std::uint64_t row, Index columns, Index first, Index count, T* factors) {
    const T scale = static_cast<T>(mask_.scale());
    for (Index c = 0; c < count; c += DropoutMask::group_columns) {
      const auto group = DropoutMask::group(row, (first + c) / DropoutMask::group_columns, columns);
      if (mask_.half()) {
        const std::uint64_t bits = half_.group(mask_.stream, group);
        for (Index i = 0; i < DropoutMask::group_columns; i += simd::width<T>) {
          simd::store<T>(factors + c + i, simd::where_set<T>(static_cast<std::uint32_t>(bits >> i), scale));
        }
        continue;
      }
      Words words[4];
      philox8(mask_.stream, group * DropoutMask::group_blocks, words);
      for (Index w = 0; w < 4; ++w) {
        const Words low = words[w] & 0xFFFFU;
        const Words high = words[w] >> 16;
        T* to = factors + c + 8 * w;
        for (Index i = 0; i < 8; ++i) {
          to[i] = low[i] >= mask_.threshold ? scale : T(0);
          to[i + 32] = high[i] >= mask_.threshold ? scale : T(0);
        }
      }
    }
  }

 private:
  DropoutMask mask_;
  HalfBits half_;
};

}  // namespace elcrec::inline ELCREC_TARGET::cpu
