// expect: expected -msse2 -mfpmath=sse
// Arithmetic of the x87 unit, as -m32 has by itself: its excess precision changes scores.
#define __i386__ 1
#undef __SSE2_MATH__
#include "elcrec/core/target.hpp"
