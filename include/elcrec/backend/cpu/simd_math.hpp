#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "elcrec/backend/cpu/simd.hpp"

/// Functions of a register of numbers, and of a single number where a formula is written once for both.
namespace elcrec::inline ELCREC_TARGET::simd {

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

inline float sqrt(float x) { return std::sqrt(x); }
inline double sqrt(double x) { return std::sqrt(x); }

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

inline float exp(float x) { return std::exp(x); }
inline double exp(double x) { return std::exp(x); }

/// 1 / (1 + e^-x)
template <class V>
inline V logistic(V x) {
  return 1.0F / (1.0F + exp(-x));
}

/// tanh x within 3e-7 of it, relative to it: near 0 by an odd polynomial of degree 11 whose largest relative error is
/// least, elsewhere as 1 - 2 / (e^2x + 1), which would cancel there.
inline Pack<float> tanh(Pack<float> x) {
  using V = Pack<float>;
  const V z = x * x;
  const V p = (((z * -0.00551516048F + 0.0204694163F) * z - 0.0536880218F) * z + 0.133308303F) * z - 0.333332598F;
  const V near_zero = x + x * z * p;
  const V elsewhere = 1.0F - 2.0F / (exp(x + x) + 1.0F);
  return z < 0.4F ? near_zero : elsewhere;
}

/// tanh x lane by lane with the standard library's accuracy.
inline Pack<double> tanh(Pack<double> x) {
  for (Index i = 0; i < width<double>; ++i) {
    x[i] = std::tanh(x[i]);
  }
  return x;
}

inline float tanh(float x) { return std::tanh(x); }
inline double tanh(double x) { return std::tanh(x); }

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
