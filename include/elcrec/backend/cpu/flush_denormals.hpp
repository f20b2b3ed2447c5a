#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

/// While it lives, this thread takes numbers below the smallest normal one (1e-38 in float) for zero, where the
/// processor can (x86, AArch64; elsewhere it does nothing). The softmax of an untrained contrast is full of such
/// numbers, and each costs an Intel core over a hundred cycles: the first epoch of Beauty took three times as long.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) { set_control(before_ | flush_bits); }
  ~FlushDenormals() { set_control(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE__)
  using Control = unsigned int;
  static constexpr Control flush_bits = 0x8040;  // MXCSR: results (bit 15) and operands (bit 6)
  static Control control() { return _mm_getcsr(); }
  static void set_control(Control value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Control = std::uint64_t;
  static constexpr Control flush_bits = Control{1} << 24;  // FPCR.FZ
  static Control control() {
    Control value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void set_control(Control value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  using Control = int;
  static constexpr Control flush_bits = 0;
  static Control control() { return 0; }
  static void set_control(Control) {}
#endif

  Control before_;
};

}  // namespace elcrec::inline ELCREC_TARGET::detail
