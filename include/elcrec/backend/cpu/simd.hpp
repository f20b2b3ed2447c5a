#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
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

/// Calls pack(i) for whole registers of [0, n) and single(i) for the rest.
template <class T, class OnPack, class OnSingle>
inline void each(Index n, OnPack pack, OnSingle single) {
  Index i = 0;
  for (; i + width<T> <= n; i += width<T>) {
    pack(i);
  }
  for (; i < n; ++i) {
    single(i);
  }
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
  const Pack<T> factor = broadcast(a);
  each<T>(
      n, [&](Index i) { store<T>(y + i, load(y + i) + factor * load(x + i)); }, [&](Index i) { y[i] += a * x[i]; });
}

/// sqrt(x) lane by lane. By the processor's own instruction, since std::sqrt may have to set errno and then does not
/// vectorise.
inline Pack<float> sqrt(Pack<float> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_ps(0xFFFF, x);  // the unmasked one makes GCC 12 warn of an uninitialised value
#elif defined(__AVX__)
  return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
  return _mm_sqrt_ps(x);
#else
  for (Index i = 0; i < width<float>; ++i) {
    x[i] = std::sqrt(x[i]);
  }
  return x;
#endif
}

inline Pack<double> sqrt(Pack<double> x) {
#if defined(__AVX512F__)
  return _mm512_maskz_sqrt_pd(0xFF, x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#elif defined(__SSE2__)
  return _mm_sqrt_pd(x);
#else
  for (Index i = 0; i < width<double>; ++i) {
    x[i] = std::sqrt(x[i]);
  }
  return x;
#endif
}

/// 1/x, rounded as a division is but for one in a few hundred results, for x neither tiny nor huge. With AVX-512 an
/// estimate and a step of Newton's method, since a division of 512 bits keeps the vector unit for 16 cycles.
inline Pack<float> reciprocal(Pack<float> x) {
#if defined(__AVX512F__)
  const __m512 one = _mm512_set1_ps(1.0F);
  const __m512 r = _mm512_maskz_rcp14_ps(0xFFFF, x);
  return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, one), r);
#else
  return 1.0F / x;
#endif
}

/// Has v computed as it is written up to here: under a host's -ffast-math a compiler would take (x + a) - a for x. No
/// instruction.
template <class V>
inline void settle(V& v) {
#if defined(__SSE2__) && defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__SSE2__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  asm("" : "+m"(v));
#endif
}

/// The nearest whole numbers, for |x| < 2^22 or 2^51: by adding and taking away a number so large that its neighbours
/// are whole numbers.
inline Pack<float> round(Pack<float> x) {
  const Pack<float> magic = broadcast(12582912.0F);  // 1.5 * 2^23
  Pack<float> sum = x + magic;
  settle(sum);
  return sum - magic;
}
inline Pack<double> round(Pack<double> x) {
  const Pack<double> magic = broadcast(6755399441055744.0);  // 1.5 * 2^52
  Pack<double> sum = x + magic;
  settle(sum);
  return sum - magic;
}

/// Each lane within [low, high]; a NaN stays one. Two instructions, where selections by `?:` take four.
inline Pack<float> clamp(Pack<float> x, float low, float high) {
#if defined(__AVX512F__)
  return _mm512_maskz_min_ps(0xFFFF, broadcast(high), _mm512_maskz_max_ps(0xFFFF, broadcast(low), x));
#elif defined(__AVX__)
  return _mm256_min_ps(broadcast(high), _mm256_max_ps(broadcast(low), x));
#elif defined(__SSE2__)
  return _mm_min_ps(broadcast(high), _mm_max_ps(broadcast(low), x));
#else
  x = x < low ? broadcast(low) : x;
  return x > high ? broadcast(high) : x;
#endif
}

/// e^x within 2 units in the last place for x in [-87.3, 88.3]; x is clamped to that range (so e^-inf is 1.2e-38, not
/// 0), a NaN stays one. x = n ln2 + r with |r| <= ln2/2 (Cody and Waite), e^r = 1 + r + r² q(r), where q is the
/// polynomial of degree 4 whose largest relative error is least (3e-9). Its terms are summed in pairs, a shorter chain
/// than Horner's.
inline Pack<float> exp(Pack<float> x) {
  using V = Pack<float>;
  using I = Pack<std::int32_t>;
  x = clamp(x, -87.3F, 88.3F);  // beyond 88.37, 2^n alone would overflow
  const V n = round(x * 1.44269504F);
  V r = x - n * 0.693359375F;
  settle(r);
  r -= n * -2.12194440e-4F;
  const V r2 = r * r;
  const V q = (r2 * 0.00138145173F + (r * 0.00836875569F + 0.0416683927F)) * r2 + (r * 0.166665196F + 0.49999994F);
  const V p = q * r2 + (r + 1.0F);
  I bits;
  std::memcpy(&bits, &p, sizeof(bits));
  bits += __builtin_convertvector(n, I) << 23;  // 2^n p; of a NaN the conversion's low bits are 0
  V result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

/// e^x lane by lane with the standard library's accuracy.
inline Pack<double> exp(Pack<double> x) {
  for (Index i = 0; i < width<double>; ++i) {
    x[i] = std::exp(x[i]);
  }
  return x;
}

/// Φ(x) and e^(-x²/2) together, since the derivative of GELU needs both.
/// Abramowitz & Stegun 7.1.26: the absolute error of Φ is below 3e-7 (3e-8 root mean square), mostly rounding.
inline void normal_cdf(Pack<float> x, Pack<float>& cdf, Pack<float>& bell) {
  using V = Pack<float>;
  Pack<std::int32_t> bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits &= 0x7FFFFFFF;  // |x|; a selection takes three instructions
  V magnitude;
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  bell = exp(x * x * -0.5F);
  const V t = reciprocal(magnitude * (0.3275911F * 0.707106781F) + 1.0F);
  V p = broadcast(0.5F * 1.061405429F);
  p = p * t - 0.5F * 1.453152027F;
  p = p * t + 0.5F * 1.421413741F;
  p = p * t - 0.5F * 0.284496736F;
  p = p * t + 0.5F * 0.254829592F;
  const V tail = p * t * bell;
  cdf = x < 0.0F ? tail : 1.0F - tail;
}

inline void normal_cdf(Pack<double> x, Pack<double>& cdf, Pack<double>& bell) {
  for (Index i = 0; i < width<double>; ++i) {
    cdf[i] = 0.5 * std::erfc(-x[i] * 0.70710678118654752440);
    bell[i] = std::exp(-0.5 * x[i] * x[i]);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::simd
