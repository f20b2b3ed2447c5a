#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// One named parameter of a component: PyTorch's name, the values, and whether it is a vector (shape [cols]) or a
/// matrix.
template <class T>
struct Parameter {
  std::string name;
  MatrixView<T> values;
  int rank = 2;
  /// Of a gradient: the only rows that are not 0, each once and in backend memory; nothing where any row may be.
  std::optional<std::span<const std::int32_t>> rows{};

  [[nodiscard]] std::vector<Index> shape() const {
    return rank == 1 ? std::vector<Index>{values.cols()} : std::vector<Index>{values.rows(), values.cols()};
  }
};

/// A visitor of parameters, or of their shapes, that puts `prefix` before the names it is given.
template <class Visitor>
[[nodiscard]] auto scoped(std::string prefix, Visitor& visitor) {
  return [prefix = std::move(prefix), &visitor](const std::string& name, auto&&... rest) {
    visitor(prefix + name, rest...);
  };
}

/// The parameters of a component in the order in which it names them. Gradients and optimizer moments of a component
/// are objects or arrays of the same layout, so two such lists pair up by index. A component has `static void
/// visit_parameters(auto& self, auto&& visitor)` that calls visitor(name, MatrixView, rank) for each; self may be
/// const.
template <class Component>
[[nodiscard]] auto parameters(Component& component) {
  using Scalar = typename Component::Backend::Scalar;
  using Element = std::conditional_t<std::is_const_v<Component>, const Scalar, Scalar>;
  std::vector<Parameter<Element>> list;
  auto collect = [&list](const std::string& name, MatrixView<Element> values, int rank) {
    list.push_back({name, values, rank, {}});
  };
  Component::visit_parameters(component, collect);
  return list;
}

/// Draws N(0, deviation²). Numbers are drawn on the host from (seed, RandomTensor::initialisation), one subsequence a
/// parameter, and copied to the backend.
template <class B, class View>
void initialise_normal(const B& backend, std::uint64_t seed, std::uint32_t which, double deviation, View values) {
  RandomEngine random({seed, 0, static_cast<std::uint32_t>(RandomTensor::initialisation)}, which);
  std::vector<typename B::Scalar> host(static_cast<std::size_t>(values.size()));
  for (auto& v : host) {
    v = static_cast<typename B::Scalar>(deviation * random.normal());
  }
  backend.template copy<typename B::Scalar>(host, values.flat());
}

/// Sets every element.
template <class B, class View>
void initialise_constant(const B& backend, double value, View values) {
  const std::vector<typename B::Scalar> host(static_cast<std::size_t>(values.size()),
                                             static_cast<typename B::Scalar>(value));
  backend.template copy<typename B::Scalar>(host, values.flat());
}

}  // namespace elcrec::inline ELCREC_TARGET
