#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include <Eigen/Core>

#include "elcrec/core/types.hpp"

/// Short arrays of fixed size as Eigen expressions: what the Eigen backend's loops are written in. Eigen keeps one in a
/// register, whatever the processor. Arrays of any size would not do: where their vectors begin depends on the address,
/// and the bits of a sum with it.
///
/// What loops over packs is marked gnu::flatten (others may ignore it): an expression is some ten calls of Eigen's to
/// inline, and in a large source GCC stops half-way, after which a loop takes five times as long.
namespace elcrec::inline ELCREC_TARGET::eigen {

/// Elements of T in the widest register that Eigen is compiled for; four floats where it knows none.
template <class T>
inline constexpr Index pack_size = (std::max)(16, EIGEN_MAX_STATIC_ALIGN_BYTES) / static_cast<int>(sizeof(T));

template <class T, Index N = pack_size<T>>
using Pack = Eigen::Array<T, static_cast<int>(N), 1>;

/// The N elements from p on, in place.
template <Index N, class T>
[[nodiscard]] auto elements(T* p) {
  using Array = Pack<std::remove_const_t<T>, N>;
  return Eigen::Map<std::conditional_t<std::is_const_v<T>, const Array, Array>>(p);
}

/// The N elements that a formula is about, those from i on: at(p) are the array p's, in place; at.put(p, v) writes
/// them.
template <Index N>
struct At {
  Index i;
  template <class T>
  [[nodiscard]] auto operator()(T* p) const {
    return elements<N>(p + i);
  }
  template <class T, class V>
  void put(T* p, const V& v) const {
    elements<N>(p + i) = v;
  }
};

/// f(at) for packs that cover [0, n), then for the rest's elements, so that a formula is written once.
template <class T, class F>
[[gnu::flatten]] void each(Index n, F f) {
  Index i = 0;
  for (; i + pack_size<T> <= n; i += pack_size<T>) {
    f(At<pack_size<T>>{i});
  }
  for (; i < n; ++i) {
    f(At<1>{i});
  }
}

/// Σ over [0, n) of what f(at) gives.
template <class T, class F>
[[nodiscard, gnu::flatten]] T sum_of(Index n, F f) {
  Pack<T> total = Pack<T>::Zero();
  Index i = 0;
  for (; i + pack_size<T> <= n; i += pack_size<T>) {
    total += f(At<pack_size<T>>{i});
  }
  T rest = 0;
  for (; i < n; ++i) {
    rest += f(At<1>{i}).value();
  }
  return total.sum() + rest;
}

/// Σ a_i b_i
template <class T>
[[nodiscard]] T dot(const T* a, const T* b, Index n) {
  return sum_of<T>(n, [&](auto at) { return at(a) * at(b); });
}

/// y += a x
template <class T>
void add_scaled(T a, const T* x, T* y, Index n) {
  each<T>(n, [&](auto at) { at(y) += a * at(x); });
}

/// x *= a
template <class T>
void scale(T a, T* x, Index n) {
  each<T>(n, [&](auto at) { at(x) *= a; });
}

/// The largest of n numbers; the lowest there is of none.
template <class T>
[[nodiscard, gnu::flatten]] T largest_of(const T* x, Index n) {
  constexpr T lowest = std::numeric_limits<T>::lowest();
  Pack<T> most = Pack<T>::Constant(lowest);
  Index i = 0;
  for (; i + pack_size<T> <= n; i += pack_size<T>) {
    most = (most.max)(elements<pack_size<T>>(x + i));
  }
  T single = lowest;
  for (; i < n; ++i) {
    single = (std::max)(single, x[i]);
  }
  return (std::max)(single, most.maxCoeff());
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
