#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "elcrec/core/bfloat16.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET::simd {

#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
inline constexpr int register_count = 32;
#elif defined(__AVX__)
inline constexpr int register_bytes = 32;
inline constexpr int register_count = 16;
#else
inline constexpr int register_bytes = 16;
inline constexpr int register_count = 16;
#endif

template <class T>
inline constexpr Index width = register_bytes / static_cast<int>(sizeof(T));

namespace detail {
template <class T>
struct PackOf;
template <>
struct PackOf<float> {
  typedef float Type __attribute__((vector_size(register_bytes)));
};
template <>
struct PackOf<double> {
  typedef double Type __attribute__((vector_size(register_bytes)));
};
template <>
struct PackOf<std::int32_t> {
  typedef std::int32_t Type __attribute__((vector_size(register_bytes)));
};
}  // namespace detail

/// One vector register of T: the compiler's own vector type, so arithmetic operators work lane by lane and the code is
/// the same for SSE, AVX and AVX-512, whatever the optimisation level vectorises by itself.
template <class T>
using Pack = typename detail::PackOf<T>::Type;

template <class T>
inline Pack<T> load(const T* p) {
  Pack<T> v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
inline void store(T* p, Pack<T> v) {
  std::memcpy(p, &v, sizeof(v));
}

template <class T>
inline Pack<T> broadcast(T a) {
  return a - Pack<T>{};
}

/// Lane i of the result is lane Lanes[i] of x and y side by side.
template <std::size_t... Lanes, class V>
inline V shuffle(V x, V y) {
#ifdef __CUDACC__  // whose front end cannot pass an expanded pack on to the builtin
  constexpr std::size_t n = sizeof...(Lanes);
  V result{};
  std::size_t i = 0;
  ((result[i++] = Lanes < n ? x[Lanes % n] : y[Lanes % n]), ...);
  return result;
#elif defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
  return __builtin_shuffle(x, y, decltype(x < y){Lanes...});
#else
  return __builtin_shufflevector(x, y, Lanes...);
#endif
}

namespace detail {

template <Index Step, class V, std::size_t... I>
inline V rotate(V v, std::index_sequence<I...>) {
  return shuffle<((I + Step) % sizeof...(I))...>(v, v);
}

/// combine over the lanes, in a tree of halves; every lane of the result holds it.
template <class T, Index Step = width<T> / 2, class F>
inline Pack<T> fold(Pack<T> v, F combine) {
  if constexpr (Step == 0) {
    return v;
  } else {
    v = combine(v, rotate<Step>(v, std::make_index_sequence<static_cast<std::size_t>(width<T>)>{}));
    return fold<T, Step / 2>(v, combine);
  }
}

}  // namespace detail

/// One register of T from elements of another type.
template <class T, class E>
inline Pack<T> load_as(const E* p) {
  if constexpr (std::is_same_v<T, E>) {
    return load(p);
  } else if constexpr (std::is_same_v<E, BFloat16> && std::is_same_v<T, float>) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFF, _mm512_maskz_cvtepu16_epi32(0xFFFF, halves), 16));
#elif defined(__AVX2__)
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
#else
    typedef std::uint16_t Halves __attribute__((vector_size(register_bytes / 2)));
    typedef std::uint32_t Words __attribute__((vector_size(register_bytes)));
    Halves halves;
    std::memcpy(&halves, p, sizeof(halves));
    const Words words = __builtin_convertvector(halves, Words) << 16;
    Pack<float> v;
    std::memcpy(&v, &words, sizeof(v));
    return v;
#endif
  } else {
    Pack<T> v{};
    for (Index i = 0; i < width<T>; ++i) {
      v[i] = static_cast<T>(p[i]);
    }
    return v;
  }
}

/// `value` in the lanes i whose bit i is set, 0 in the others.
template <class T>
inline Pack<T> where_set(std::uint32_t bits, T value) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_maskz_mov_ps(static_cast<__mmask16>(bits), _mm512_set1_ps(value));
  } else {
    return _mm512_maskz_mov_pd(static_cast<__mmask8>(bits), _mm512_set1_pd(value));
  }
#else
  using Word = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef Word Words __attribute__((vector_size(register_bytes)));
  Words lane_bit;
  for (Index i = 0; i < width<T>; ++i) {
    lane_bit[i] = Word{1} << i;
  }
  const Words all = Words{} + static_cast<Word>(bits);
  return (all & lane_bit) != 0 ? broadcast(value) : Pack<T>{};
#endif
}

/// Bit i: whether lane i is above the threshold; a NaN is not.
inline std::uint32_t above(Pack<float> v, float threshold) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(v, _mm512_set1_ps(threshold), _CMP_GT_OQ);
#elif defined(__AVX__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(threshold), _CMP_GT_OQ)));
#else
  std::uint32_t bits = 0;
  for (Index i = 0; i < width<float>; ++i) {
    bits |= static_cast<std::uint32_t>(v[i] > threshold) << i;
  }
  return bits;
#endif
}
inline std::uint32_t above(Pack<double> v, double threshold) {
  std::uint32_t bits = 0;
  for (Index i = 0; i < width<double>; ++i) {
    bits |= static_cast<std::uint32_t>(v[i] > threshold) << i;
  }
  return bits;
}

/// Four floats each from p, p + step, ...: one register of them.
inline Pack<float> load_quads(const float* p, [[maybe_unused]] Index step) {
#if defined(__AVX512F__)
  const auto quad = [&](Index i) { return _mm_loadu_ps(p + i * step); };
  __m512 v = _mm512_zextps128_ps512(quad(0));
  v = _mm512_insertf32x4(v, quad(1), 1);
  v = _mm512_insertf32x4(v, quad(2), 2);
  return _mm512_insertf32x4(v, quad(3), 3);
#elif defined(__AVX__)
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + step), 1);
#else
  return load(p);
#endif
}

/// Sum over the lanes.
template <class T>
inline T sum(Pack<T> v) {
  return detail::fold<T>(v, [](Pack<T> a, Pack<T> b) { return a + b; })[0];
}

namespace detail {

/// Segments of `Size` lanes of x and of y, each folded to half its size by addition, x's before y's.
template <std::size_t Size, class V, std::size_t... I>
inline V fold_segments(V x, V y, std::index_sequence<I...>) {
  constexpr std::size_t n = sizeof...(I);
  constexpr std::size_t half = Size / 2;
  // Lane l takes place l % half of segment l / Size, from x or y by turns of `half`.
  const V low = shuffle<(I / half % 2 * n + I / Size * Size + I % half)...>(x, y);
  const V high = shuffle<(I / half % 2 * n + I / Size * Size + I % half + half)...>(x, y);
  return low + high;
}

/// rows[0 .. Count) with Count · Size = lanes · 2: lane i of the result is the sum over the lanes of what was row i.
template <class T, std::size_t Size = static_cast<std::size_t>(width<T>)>
inline Pack<T> sum_each(Pack<T>* rows) {
  if constexpr (Size == 1) {
    return rows[0];
  } else {
    constexpr std::size_t pairs = Size / 2;
    for (std::size_t i = 0; i < pairs; ++i) {
      rows[i] =
          fold_segments<Size>(rows[i], rows[i + pairs], std::make_index_sequence<static_cast<std::size_t>(width<T>)>{});
    }
    return sum_each<T, Size / 2>(rows);
  }
}

}  // namespace detail

/// Lane i: Σ_c q_c row(i)_c over c in [0, n), for width<T> rows of a table at a time.
template <class T, class RowOf>
inline Pack<T> dot_rows(const T* q, RowOf row, Index n) {
  constexpr Index w = width<T>;
  const Index whole = n / w * w;
  Pack<T> sums[static_cast<std::size_t>(w)];
#pragma GCC unroll 16
  for (Index i = 0; i < w; ++i) {  // row by row: the order in which the memory is fastest
    const auto* from = row(i);
    Pack<T> sum{};
    for (Index c = 0; c < whole; c += w) {
      sum += load(q + c) * load_as<T>(from + c);
    }
    sums[i] = sum;
  }
  const Pack<T> total = detail::sum_each<T>(sums);
  if (whole == n) {
    return total;
  }
  T lanes[static_cast<std::size_t>(w)];
  store<T>(lanes, total);
  for (Index i = 0; i < w; ++i) {
    for (Index c = whole; c < n; ++c) {
      lanes[i] += q[c] * static_cast<T>(row(i)[c]);
    }
  }
  return load(lanes);
}

/// The largest lane.
template <class T>
inline T maximum(Pack<T> v) {
  return detail::fold<T>(v, [](Pack<T> a, Pack<T> b) { return a > b ? a : b; })[0];
}

/// The elements that a formula is about: a register of those from i on. at(p) are the array p's, at.put(p, v) writes
/// them.
template <class T>
struct AtRegister {
  Index i;
  Pack<T> operator()(const T* p) const { return load(p + i); }
  void put(T* p, Pack<T> v) const { store<T>(p + i, v); }
};
/// The same of a single element.
template <class T>
struct AtElement {
  Index i;
  T operator()(const T* p) const { return p[i]; }
  void put(T* p, T v) const { p[i] = v; }
};

/// f(at) for the whole registers of [0, n), then for the rest's elements, so that a formula is written once.
template <class T, class F>
inline void each(Index n, F f) {
  Index i = 0;
  for (; i + width<T> <= n; i += width<T>) {
    f(AtRegister<T>{i});
  }
  for (; i < n; ++i) {
    f(AtElement<T>{i});
  }
}

/// Σ over [0, n) of what f(at) gives.
template <class T, class F>
inline T sum_of(Index n, F f) {
  Pack<T> total{};
  Index i = 0;
  for (; i + width<T> <= n; i += width<T>) {
    total += f(AtRegister<T>{i});
  }
  T rest = 0;
  for (; i < n; ++i) {
    rest += f(AtElement<T>{i});
  }
  return sum<T>(total) + rest;
}

/// Below every score: what is no candidate has it. Not -infinity, with which -ffast-math compares as it likes.
template <class T>
inline constexpr T never = std::numeric_limits<T>::lowest();

/// The largest of n numbers; `never` of none.
template <class T>
inline T largest_of(const T* x, Index n) {
  Pack<T> most = broadcast(never<T>);
  Index i = 0;
  for (; i + width<T> <= n; i += width<T>) {
    const Pack<T> v = load(x + i);
    most = v > most ? v : most;
  }
  T single = never<T>;
  for (; i < n; ++i) {
    single = (std::max)(single, x[i]);
  }
  return (std::max)(single, maximum<T>(most));
}

/// Σ a_i b_i
template <class T>
inline T dot(const T* a, const T* b, Index n) {
  Pack<T> s0{};
  Pack<T> s1{};
  Index i = 0;
  for (; i + 2 * width<T> <= n; i += 2 * width<T>) {
    s0 += load(a + i) * load(b + i);
    s1 += load(a + i + width<T>) * load(b + i + width<T>);
  }
  if (i + width<T> <= n) {
    s0 += load(a + i) * load(b + i);
    i += width<T>;
  }
  T total = sum<T>(s0 + s1);
  for (; i < n; ++i) {
    total += a[i] * b[i];
  }
  return total;
}

/// y += a x
template <class T>
inline void add_scaled(T a, const T* x, T* y, Index n) {
  each<T>(n, [&](auto at) { at.put(y, at(y) + a * at(x)); });
}

/// x *= a
template <class T>
inline void scale(T a, T* x, Index n) {
  each<T>(n, [&](auto at) { at.put(x, a * at(x)); });
}

}  // namespace elcrec::inline ELCREC_TARGET::simd
