#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <class... Ts>
struct TypeList {
  static constexpr std::size_t size = sizeof...(Ts);

  template <class T>
  static constexpr bool contains = (std::is_same_v<T, Ts> || ...);

  /// Position of T, or `size`.
  template <class T>
  static constexpr std::size_t index_of() {
    std::size_t at = 0;
    static_cast<void>(((std::is_same_v<T, Ts> || (++at, false)) || ...));
    return at;
  }

  template <class F>
  static void for_each(F f) {
    (f(std::type_identity<Ts>{}), ...);
  }
};

namespace detail {

template <class Result, class... Lists>
struct Union {
  using Type = Result;
};

template <class... Done, class First, class... Rest, class... Lists>
struct Union<TypeList<Done...>, TypeList<First, Rest...>, Lists...>
    : Union<
          std::conditional_t<TypeList<Done...>::template contains<First>, TypeList<Done...>, TypeList<Done..., First>>,
          TypeList<Rest...>, Lists...> {};

template <class... Done, class... Lists>
struct Union<TypeList<Done...>, TypeList<>, Lists...> : Union<TypeList<Done...>, Lists...> {};

}  // namespace detail

/// The distinct types of several lists, in the order of their first appearance.
template <class... Lists>
using UnionOf = typename detail::Union<TypeList<>, Lists...>::Type;

}  // namespace elcrec::inline ELCREC_TARGET
