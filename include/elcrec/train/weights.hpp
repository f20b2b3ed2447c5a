#pragma once

#include <span>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A copy of parameters in host memory, or none yet.
template <Backend B>
class Weights {
 public:
  using Scalar = typename B::Scalar;
  using List = std::span<const Parameter<Scalar>>;

  [[nodiscard]] bool empty() const { return values_.empty(); }

  /// The values of parameter i of the list that was copied.
  [[nodiscard]] std::span<const Scalar> of(std::size_t i) const { return values_[i]; }

  void copy_from(const B& backend, List parameters) {
    values_.resize(parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto from = parameters[i].values.flat();
      values_[i].resize(from.size());
      backend.template copy<Scalar>(from, std::span<Scalar>(values_[i]));
    }
  }

  /// The tensors of those names. Throws FileError for one that is missing, has another shape or is not finite, and for
  /// tensors besides them, the item ids and what is under `training.`.
  void read(const SafetensorsFile& file, List parameters) {
    detail::ExpectedTensors tensors(file, file.name());
    values_.clear();
    for (const auto& p : parameters) {
      tensors.expect(p.name, p.shape());
      values_.push_back(file.read<Scalar>(p.name));
    }
    tensors.nothing_else();
  }

  /// To the same list, or one like it. Without a copy nothing changes.
  void copy_to(const B& backend, List parameters) const {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      backend.template copy<Scalar>(values_[i], parameters[i].values.flat());
    }
  }

 private:
  std::vector<std::vector<Scalar>> values_;
};

}  // namespace elcrec::inline ELCREC_TARGET
