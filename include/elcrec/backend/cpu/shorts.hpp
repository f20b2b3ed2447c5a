#pragma once

#include <cstdint>
#include <cstring>

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"

/// Registers of 16-bit integers, for scores in integers: sums wrap around, as unsigned arithmetic does.
namespace elcrec::inline ELCREC_TARGET::simd {

inline constexpr Index shorts = register_bytes / 2;
/// Scores are compared so many at a time: one bit each in a word.
inline constexpr Index shorts_of_word = 64;

#if defined(__AVX512BW__)

using Shorts = __m512i;
using Bytes = __m512i;

inline Shorts broadcast_short(std::int16_t a) { return _mm512_set1_epi16(a); }
inline Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
inline Shorts load_shorts(const std::int16_t* p) { return _mm512_loadu_si512(p); }
inline void store_shorts(std::int16_t* p, Shorts v) { _mm512_storeu_si512(p, v); }
inline void hold(Bytes& v) { settle(v); }
inline Shorts add_pair_products(Shorts sum, Bytes u, Bytes s) {
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(u, s));
}
inline Shorts larger(Shorts a, Shorts b) { return _mm512_max_epi16(a, b); }
inline std::uint64_t shorts_above(const std::int16_t* p, std::int16_t threshold) {
  const auto above = [&](Index i) {
    return std::uint64_t{_mm512_cmpgt_epi16_mask(_mm512_loadu_si512(p + i), _mm512_set1_epi16(threshold))};
  };
  return above(0) | above(32) << 32;
}

#elif defined(__AVX2__) && !defined(__AVX512F__)

using Shorts = __m256i;
using Bytes = __m256i;

inline Shorts broadcast_short(std::int16_t a) { return _mm256_set1_epi16(a); }
inline Bytes load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Shorts load_shorts(const std::int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_shorts(std::int16_t* p, Shorts v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
/// Has v in a register from here on: compilers would read it from memory again for each of its uses.
inline void hold(Bytes& v) { settle(v); }
/// sum_i + u_2i s_2i + u_2i+1 s_2i+1, u unsigned and s signed. The two products together must fit 16 bits.
inline Shorts add_pair_products(Shorts sum, Bytes u, Bytes s) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s));
}
/// max(a_i, b_i), both signed
inline Shorts larger(Shorts a, Shorts b) { return _mm256_max_epi16(a, b); }
/// Bit i: whether short i is above the threshold, for shorts_of_word of them.
inline std::uint64_t shorts_above(const std::int16_t* p, std::int16_t threshold) {
  const __m256i limit = _mm256_set1_epi16(threshold);
  const auto above = [&](Index i) { return _mm256_cmpgt_epi16(load_shorts(p + i), limit); };
  const auto half = [&](Index i) {  // packing works within 128 bits: the quarters come out as 0, 2, 1, 3
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(above(i), above(i + 16)), 0b11'01'10'00);
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(_mm256_movemask_epi8(packed)));
  };
  return half(0) | half(32) << 32;
}

#else

struct Shorts {
  std::uint16_t lanes[shorts];
};
struct Bytes {
  std::uint8_t lanes[register_bytes];
};

inline Shorts broadcast_short(std::int16_t a) {
  Shorts v;
  for (auto& lane : v.lanes) {
    lane = static_cast<std::uint16_t>(a);
  }
  return v;
}
inline Bytes load_bytes(const void* p) {
  Bytes v;
  std::memcpy(v.lanes, p, sizeof(v));
  return v;
}
inline Shorts load_shorts(const std::int16_t* p) {
  Shorts v;
  std::memcpy(v.lanes, p, sizeof(v));
  return v;
}
inline void store_shorts(std::int16_t* p, const Shorts& v) { std::memcpy(p, v.lanes, sizeof(v)); }
inline void hold(Bytes&) {}
inline Shorts add_pair_products(Shorts sum, const Bytes& u, const Bytes& s) {
  const auto product = [&](Index i) { return u.lanes[i] * static_cast<std::int8_t>(s.lanes[i]); };
  for (Index i = 0; i < shorts; ++i) {
    sum.lanes[i] = static_cast<std::uint16_t>(sum.lanes[i] + product(2 * i) + product(2 * i + 1));
  }
  return sum;
}
inline Shorts larger(Shorts a, const Shorts& b) {
  for (Index i = 0; i < shorts; ++i) {
    const bool other = static_cast<std::int16_t>(b.lanes[i]) > static_cast<std::int16_t>(a.lanes[i]);
    a.lanes[i] = other ? b.lanes[i] : a.lanes[i];
  }
  return a;
}
inline std::uint64_t shorts_above(const std::int16_t* p, std::int16_t threshold) {
  std::uint64_t bits = 0;
  for (Index i = 0; i < shorts_of_word; ++i) {
    bits |= static_cast<std::uint64_t>(p[i] > threshold) << i;
  }
  return bits;
}

#endif

}  // namespace elcrec::inline ELCREC_TARGET::simd
