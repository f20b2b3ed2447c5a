#pragma once

#include "elcrec/backend/eigen/packs.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

template <class T>
struct LargestAndSum {
  T largest;
  T sum;
};

/// z = exp(a z - max(a z)); returns the maximum of a z and the sum of the exponentials.
template <class T>
LargestAndSum<T> exponentials(T* z, Index n, T a) {
  const T largest = a * largest_of(z, n);
  const T sum = sum_of<T>(n, [&](auto at) {
    at(z) = (a * at(z) - largest).exp();
    return at(z);
  });
  return {largest, sum};
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
