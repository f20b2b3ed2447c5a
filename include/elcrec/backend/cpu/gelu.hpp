#pragma once

#include <cstring>

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

/// A whole register in memory, or the first elements of one.
template <class T>
struct WholeRegister {
  static simd::Pack<T> load(const T* p) { return simd::load(p); }
  static void store(T* p, simd::Pack<T> v) { simd::store<T>(p, v); }
};

template <class T>
struct PartOfRegister {
  Index n;
  simd::Pack<T> load(const T* p) const {
    simd::Pack<T> v{};
    std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(T));
    return v;
  }
  void store(T* p, simd::Pack<T> v) const { std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T)); }
};

/// f(part, row, first column) for the registers that cover a matrix shaped like x; `part` loads and stores.
template <class T, class F>
void for_each_register(MatrixView<const T> x, F f) {
  for (Index t = 0; t < x.rows(); ++t) {
    Index c = 0;
    for (; c + simd::width<T> <= x.cols(); c += simd::width<T>) {
      f(WholeRegister<T>{}, t, c);
    }
    if (c < x.cols()) {
      f(PartOfRegister<T>{x.cols() - c}, t, c);
    }
  }
}

}  // namespace cpu

template <class T>
void bias_gelu(CpuLane<T>&, Input<T> x, Input<T> b, Output<T> y) {
  cpu::for_each_register<T>(x, [&](auto part, Index t, Index c) {
    simd::Pack<T> cdf;
    simd::Pack<T> bell;
    const simd::Pack<T> v = part.load(x.row(t) + c) + part.load(b.data() + c);
    simd::normal_cdf(v, cdf, bell);
    part.store(y.row(t) + c, v * cdf);
  });
}

template <class T>
void bias_gelu_backward(CpuLane<T>&, Input<T> x, Input<T> b, Input<T> dy, Output<T> y, Output<T> dx) {
  const T density = static_cast<T>(0.39894228040143267794);
  cpu::for_each_register<T>(x, [&](auto part, Index t, Index c) {
    simd::Pack<T> cdf;
    simd::Pack<T> bell;
    const simd::Pack<T> v = part.load(x.row(t) + c) + part.load(b.data() + c);
    const simd::Pack<T> d = part.load(dy.row(t) + c);
    simd::normal_cdf(v, cdf, bell);
    part.store(y.row(t) + c, v * cdf);
    part.store(dx.row(t) + c, d * (cdf + v * bell * density));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
