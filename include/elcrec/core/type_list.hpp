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

  /// std::tuple<Ts...>
  using Tuple = std::tuple<Ts...>;

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

namespace detail {

template <template <class> class Keeps, class Kept, class... Ts>
struct Filtered {
  using Type = Kept;
};

template <template <class> class Keeps, class... Kept, class First, class... Rest>
struct Filtered<Keeps, TypeList<Kept...>, First, Rest...>
    : Filtered<Keeps, std::conditional_t<Keeps<First>::value, TypeList<Kept..., First>, TypeList<Kept...>>, Rest...> {};

}  // namespace detail

/// The types among Ts of which Keeps<T>::value is true, in their order.
template <template <class> class Keeps, class... Ts>
using FilteredList = typename detail::Filtered<Keeps, TypeList<>, Ts...>::Type;

namespace detail {

template <class List, class... Ts>
struct Appended;
template <class... First, class... Ts>
struct Appended<TypeList<First...>, Ts...> {
  using Type = TypeList<First..., Ts...>;
};

}  // namespace detail

/// A list and then Ts.
template <class List, class... Ts>
using AppendedList = typename detail::Appended<List, Ts...>::Type;

/// FirstOf<List>::Type is the first type of a list; void of an empty one.
template <class List>
struct FirstOf {
  using Type = void;
};
template <class First, class... Rest>
struct FirstOf<TypeList<First, Rest...>> {
  using Type = First;
};

/// The distinct types of several lists, in the order of their first appearance.
template <class... Lists>
using UnionOf = typename detail::Union<TypeList<>, Lists...>::Type;

}  // namespace elcrec::inline ELCREC_TARGET
