#pragma once

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

template <class T>
struct LargestAndSum {
  T largest;
  T sum;
};

/// z = exp(a z - max(a z)); returns the maximum of a z and the sum of the exponentials.
template <class T>
LargestAndSum<T> exponentials(T* z, Index n, T a) {
  const T largest = a * simd::largest_of(z, n);
  const T sum = simd::sum_of<T>(n, [&](auto at) {
    const auto e = simd::exp(a * at(z) - largest);
    at.put(z, e);
    return e;
  });
  return {largest, sum};
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
