#pragma once

#if (defined(__i386__) || defined(__x86_64__)) && !defined(__SSE2_MATH__)
#error "elcrec: found x87 arithmetic, whose excess precision changes scores; expected -msse2 -mfpmath=sse"
#endif

/// The inline namespace of everything in elcrec: its name holds what of the compiler's flags changes code or layout,
/// such as the width of a vector register. So two sources of one program (or a plugin and its host) that were compiled
/// with different flags each keep their own elcrec, where one definition rule would have the linker pick either's
/// functions for both: wrong results, slow code or instructions that the processor lacks. Passing an elcrec type
/// between two such sources does not link. Exceptions are the same types everywhere (core/error.hpp), so that one
/// source can catch another's.
///
/// What stays shared is the standard library's: `std::vector<float>` and the like are merged by the linker as ever.

#if defined(__AVX512F__)
#define ELCREC_TARGET_VECTORS _avx512
#elif defined(__AVX2__)
#define ELCREC_TARGET_VECTORS _avx2
#elif defined(__AVX__)
#define ELCREC_TARGET_VECTORS _avx
#elif defined(__SSE4_2__)
#define ELCREC_TARGET_VECTORS _sse42
#elif defined(__SSSE3__)
#define ELCREC_TARGET_VECTORS _ssse3
#elif defined(__SSE2__)
#define ELCREC_TARGET_VECTORS _sse2
#elif defined(__ARM_FEATURE_SVE)
#define ELCREC_TARGET_VECTORS _sve
#elif defined(__ARM_NEON)
#define ELCREC_TARGET_VECTORS _neon
#else
#define ELCREC_TARGET_VECTORS
#endif

#if defined(__FMA__)
#define ELCREC_TARGET_FMA _fma
#else
#define ELCREC_TARGET_FMA
#endif

#if defined(__BMI2__)
#define ELCREC_TARGET_BITS _bmi2
#else
#define ELCREC_TARGET_BITS
#endif

#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define ELCREC_TARGET_WIDE _bw
#else
#define ELCREC_TARGET_WIDE
#endif

#if defined(__AVX512VNNI__)
#define ELCREC_TARGET_DOTS _vnni
#elif defined(__AVXVNNI__)
#define ELCREC_TARGET_DOTS _avxvnni
#else
#define ELCREC_TARGET_DOTS
#endif

#if defined(__AVX512FP16__)
#define ELCREC_TARGET_HALVES _fp16
#elif defined(__AVX512BF16__)
#define ELCREC_TARGET_HALVES _bf16
#elif defined(__F16C__)
#define ELCREC_TARGET_HALVES _f16c
#else
#define ELCREC_TARGET_HALVES
#endif

#if defined(__FAST_MATH__)
#define ELCREC_TARGET_MATH _fast
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#define ELCREC_TARGET_MATH _finite
#else
#define ELCREC_TARGET_MATH
#endif

#if defined(__OPTIMIZE__)
#define ELCREC_TARGET_SPEED
#else
#define ELCREC_TARGET_SPEED _slow
#endif

#define ELCREC_TARGET_JOIN_EXPANDED(a, b, c, d, e, f, g, h) target##a##b##c##d##e##f##g##h
#define ELCREC_TARGET_JOIN(...) ELCREC_TARGET_JOIN_EXPANDED(__VA_ARGS__)
#define ELCREC_TARGET                                                                                  \
  ELCREC_TARGET_JOIN(ELCREC_TARGET_VECTORS, ELCREC_TARGET_WIDE, ELCREC_TARGET_FMA, ELCREC_TARGET_BITS, \
                     ELCREC_TARGET_DOTS, ELCREC_TARGET_HALVES, ELCREC_TARGET_MATH, ELCREC_TARGET_SPEED)
