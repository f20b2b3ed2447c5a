#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Gives `to`'s parameters the values of `from`'s, rounded to its scalar type, through a block of host memory. The two
/// may be of any types and on any backends whose parameters pair up. Throws ArgumentError, before anything is written,
/// for parameters that differ in number, name or shape.
template <class From, class To>
void copy_parameters(const typename From::Backend& from_backend, const From& from,
                     const typename To::Backend& to_backend, To& to) {
  using Source = typename From::Backend::Scalar;
  using Target = typename To::Backend::Scalar;
  constexpr std::size_t block = std::size_t{1} << 18;  // numbers
  const auto sources = parameters(from);
  const auto targets = parameters(to);
  require(sources.size() == targets.size(), "copied parameters: found ", sources.size(), ", expected ", targets.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const auto& source = sources[i];
    const auto& target = targets[i];
    require(source.name == target.name && source.shape() == target.shape(), "copied parameters: found '", source.name,
            "' (", source.values.rows(), " x ", source.values.cols(), "), expected '", target.name, "' (",
            target.values.rows(), " x ", target.values.cols(), ')');
  }
  std::vector<Source> read;
  std::vector<Target> rounded;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::span<const Source> values = sources[i].values.flat();
    for (std::size_t first = 0; first < values.size(); first += block) {
      const auto part = values.subspan(first, (std::min)(block, values.size() - first));
      const auto place = targets[i].values.flat().subspan(first, part.size());
      read.resize(part.size());
      from_backend.template copy<Source>(part, std::span<Source>(read));
      if constexpr (std::is_same_v<Source, Target>) {
        to_backend.template copy<Target>(read, place);
      } else {
        rounded.assign(read.begin(), read.end());
        to_backend.template copy<Target>(rounded, place);
      }
    }
  }
}

/// A part that can be made again on a B, with the same options; its parameters are anything then.
template <class Part, class B>
concept RemadeOn = requires(const Part& part, const B& backend) {
  part.remake(backend);
};

/// A part of a model made again on `backend`, of the same options; its parameters are anything (see clone).
///
/// A part that can be made on backends of other types has `remake(backend)`, a template of the backend, which returns
/// it. Any other part stays on its type of backend, which must be one in host memory: there its copy will do. What has
/// no backend is copied.
template <class Part, class B>
[[nodiscard]] auto remake(const Part& part, const B& backend) {
  if constexpr (RemadeOn<Part, B>) {
    return part.remake(backend);
  } else if constexpr (requires { typename Part::Backend; }) {
    static_assert(std::is_same_v<typename Part::Backend, B> && B::template Buffer<typename B::Scalar>::in_host_memory,
                  "to be made on another type of backend, or a device, a part needs `remake(backend)`");
    return part;
  } else {
    return part;
  }
}

/// A model on `backend` with the parameters and settings of another: on another type of backend, with another scalar
/// type, or on a pool of threads of its own. It shares nothing with the first. A plain copy of a model has parameters
/// of its own too, but shares the backend, whose regions take turns. Nothing may write to `model` meanwhile.
///
/// A model has `backend()` and `remake(backend)`; its parts: see remake. Throws as their constructors do.
template <class Model, class B>
[[nodiscard]] auto clone(const Model& model, const B& backend) {
  auto made = model.remake(backend);
  copy_parameters(model.backend(), model, backend, made);
  return made;
}

}  // namespace elcrec::inline ELCREC_TARGET
