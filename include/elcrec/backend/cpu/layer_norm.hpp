#pragma once

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/reference/layer_norm.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

/// A row of the usual D = 64 stays in this many registers.
template <class T>
inline constexpr Index row_registers = 64 / simd::width<T>;

/// f(0) + ... + f(Count - 1), as a tree: a chain of additions would wait for each one.
template <class T, Index Count, class F>
simd::Pack<T> total(F f, Index first = 0) {
  if constexpr (Count == 1) {
    return f(first);
  } else {
    return total<T, Count / 2>(f, first) + total<T, Count - Count / 2>(f, first + Count / 2);
  }
}

/// x̂ and y of layer_norm for one row of 64 elements, load(i) being those from i on: they stay in registers between the
/// three passes. Returns its rstd.
template <class T, class Load>
T norm_registers(Load load, const T* gamma, const T* beta, T eps, T* hat, T* y) {
  constexpr T d = row_registers<T> * simd::width<T>;
  simd::Pack<T> x[static_cast<std::size_t>(row_registers<T>)];
#pragma GCC unroll 32
  for (Index r = 0; r < row_registers<T>; ++r) {
    x[r] = load(r * simd::width<T>);
  }
  const T mean = simd::sum<T>(total<T, row_registers<T>>([&](Index r) { return x[r]; })) / d;
  const T variance =
      simd::sum<T>(total<T, row_registers<T>>([&](Index r) { return (x[r] - mean) * (x[r] - mean); })) / d;
  const T r = reference::inverse_deviation(variance, eps);
#pragma GCC unroll 32
  for (Index i = 0; i < row_registers<T>; ++i) {
    const simd::Pack<T> v = (x[i] - mean) * r;
    simd::store<T>(hat + i * simd::width<T>, v);
    simd::store<T>(y + i * simd::width<T>,
                   v * simd::load(gamma + i * simd::width<T>) + simd::load(beta + i * simd::width<T>));
  }
  return r;
}

/// x̂ and y of layer_norm for one row of d elements; returns its rstd. hat may be x.
template <class T>
T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
  if (d == row_registers<T> * simd::width<T>) {
    return cpu::norm_registers<T>([x](Index i) { return simd::load(x + i); }, gamma, beta, eps, hat, y);
  }
  const T mean = simd::sum_of<T>(d, [&](auto at) { return at(x); }) / static_cast<T>(d);
  const T variance = simd::sum_of<T>(d,
                                     [&](auto at) {
                                       const auto c = at(x) - mean;
                                       return c * c;
                                     }) /
                     static_cast<T>(d);
  const T r = reference::inverse_deviation(variance, eps);
  simd::each<T>(d, [&](auto at) {
    const auto v = (at(x) - mean) * r;
    at.put(hat, v);
    at.put(y, v * at(gamma) + at(beta));
  });
  return r;
}

/// layer_norm_backward for one row of d elements. dx may be dy.
template <class T>
void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
  T mean_g;
  T mean_gx;
  if (d == row_registers<T> * simd::width<T>) {
    const auto at = [](const T* p, Index k) { return simd::load(p + k * simd::width<T>); };
    mean_g = simd::sum<T>(total<T, row_registers<T>>([&](Index k) { return at(dy, k) * at(gamma, k); }));
    mean_gx = simd::sum<T>(total<T, row_registers<T>>([&](Index k) { return at(dy, k) * at(gamma, k) * at(hat, k); }));
  } else {
    mean_g = simd::sum_of<T>(d, [&](auto at) { return at(dy) * at(gamma); });
    mean_gx = simd::sum_of<T>(d, [&](auto at) { return at(dy) * at(gamma) * at(hat); });
  }
  mean_g /= static_cast<T>(d);
  mean_gx /= static_cast<T>(d);
  simd::each<T>(d, [&](auto at) {
    const auto v = at(dy);
    const auto h = at(hat);
    at.put(dgamma, at(dgamma) + v * h);
    at.put(dbeta, at(dbeta) + v);
    at.put(dx, r * (v * at(gamma) - mean_g - h * mean_gx));
  });
}

/// s = (x + bias) ∘ factors + residual in `hat`, then norm_row of it.
template <class T>
T add_norm_row(const T* x, const T* bias, const T* factors, const T* residual, const T* gamma, const T* beta, T eps,
               Index d, T* hat, T* y) {
  if (d == row_registers<T> * simd::width<T>) {
    return cpu::norm_registers<T>(
        [&](Index i) {
          return (simd::load(x + i) + simd::load(bias + i)) * simd::load(factors + i) + simd::load(residual + i);
        },
        gamma, beta, eps, hat, y);
  }
  simd::each<T>(d, [&](auto at) { at.put(hat, (at(x) + at(bias)) * at(factors) + at(residual)); });
  return cpu::norm_row<T>(hat, gamma, beta, eps, d, hat, y);
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
