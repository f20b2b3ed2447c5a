#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <utility>

#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

using PhiloxBlock = std::array<std::uint32_t, 4>;

namespace detail {
inline constexpr std::uint32_t philox_multiplier0 = 0xD2511F53U;
inline constexpr std::uint32_t philox_multiplier1 = 0xCD9E8D57U;
inline constexpr std::uint32_t philox_weyl0 = 0x9E3779B9U;
inline constexpr std::uint32_t philox_weyl1 = 0xBB67AE85U;
inline constexpr int philox_rounds = 10;
}  // namespace detail

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a bijection of the counter
/// under the key. Equal inputs give equal bits on every backend, which is what makes runs repeatable for any number
/// of threads.
[[nodiscard]] constexpr PhiloxBlock philox(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < detail::philox_rounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{detail::philox_multiplier0} * counter[0];
    const std::uint64_t p1 = std::uint64_t{detail::philox_multiplier1} * counter[2];
    counter = {static_cast<std::uint32_t>(p1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(p1),
               static_cast<std::uint32_t>(p0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(p0)};
    key0 += detail::philox_weyl0;
    key1 += detail::philox_weyl1;
  }
  return counter;
}

/// A family of random blocks addressed by a 64-bit index: (seed, step, tensor) name the family. Drawing is pure.
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t tensor = 0;

  [[nodiscard]] constexpr PhiloxBlock block(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), tensor, step},
                  static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
  }
};

/// Sequential draws from one subsequence of a stream, for host code such as shuffling. A UniformRandomBitGenerator,
/// but prefer its members: the standard distributions differ between standard libraries.
class RandomEngine {
 public:
  using result_type = std::uint32_t;

  /// Engines of one stream with different `subsequence` never overlap (2^34 draws each).
  explicit constexpr RandomEngine(RandomStream stream, std::uint32_t subsequence = 0)
      : stream_(stream), subsequence_(subsequence) {}

  static constexpr result_type(min)() { return 0; }
  static constexpr result_type(max)() { return (std::numeric_limits<result_type>::max)(); }

  constexpr result_type operator()() {
    if (used_ == 4) {
      block_ = stream_.block((std::uint64_t{subsequence_} << 32) | next_++);
      used_ = 0;
    }
    return block_[used_++];
  }

  /// Uniform in [0, bound), unbiased (Lemire's multiply and reject). Requires bound > 0.
  constexpr std::uint32_t below(std::uint32_t bound) {
    std::uint64_t product = std::uint64_t{(*this)()} * bound;
    if (static_cast<std::uint32_t>(product) < bound) {
      const std::uint32_t threshold = (0U - bound) % bound;
      while (static_cast<std::uint32_t>(product) < threshold) {
        product = std::uint64_t{(*this)()} * bound;
      }
    }
    return static_cast<std::uint32_t>(product >> 32);
  }

  /// Uniform in [0, 1) with 53 bits.
  constexpr double uniform() {
    const std::uint64_t high = (*this)();
    const std::uint64_t bits = (high << 21) ^ ((*this)() >> 11);
    return static_cast<double>(bits) * 0x1p-53;
  }

  /// Standard normal (Box-Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// Fisher-Yates; the same permutation with every standard library.
  template <class T>
  constexpr void shuffle(std::span<T> values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[below(static_cast<std::uint32_t>(i))]);
    }
  }

 private:
  RandomStream stream_;
  std::uint32_t subsequence_;
  std::uint32_t next_ = 0;
  std::uint32_t used_ = 4;
  PhiloxBlock block_{};
};

/// Names of the tensors that draw random numbers, so that no two of them share a stream by accident.
enum class RandomTensor : std::uint32_t {
  initialisation = 1,
  user_order = 2,
  augmentation = 3,
  negatives = 4,
  k_means = 5,
  synthetic = 6,
  bootstrap = 7,
  cloze = 8,
  cloze_batch = 9,
  dropout = 0x1000,  // see DropoutBits
};

}  // namespace elcrec::inline ELCREC_TARGET
