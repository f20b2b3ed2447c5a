#pragma once

#include <map>
#include <span>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The gradient of a part to which objectives add as a whole, one after the other: one copy of it.
template <class P>
class WholeGradient {
 public:
  using Backend = typename P::Backend;
  using Scalar = typename Backend::Scalar;

  WholeGradient(const Backend&, const P& part) : gradient_(part), parameters_(parameters(gradient_)) {
    for (const auto& p : parameters_) {
      views_.push_back(p.values);
    }
  }

  WholeGradient(WholeGradient&&) noexcept = default;
  WholeGradient& operator=(WholeGradient&&) = delete;

  [[nodiscard]] P& get() { return gradient_; }

  /// table (R, C), a matrix within the gradient, += the rows, now.
  void add(const Backend& backend, const RowContribution<Scalar>& rows, MatrixView<Scalar> table) {
    auto& scatter = scatters_.try_emplace(table.rows(), backend, table.rows(), -1).first->second;
    scatter(backend, std::span(&rows, 1), table);
    scatter.clear();
  }

  void start(const Backend&) {}
  [[nodiscard]] std::span<const MatrixView<Scalar>> cleared_by(Index s) const {
    return s == 0 ? std::span<const MatrixView<Scalar>>(views_) : std::span<const MatrixView<Scalar>>();
  }
  void flush(const Backend&) {}
  void sum(const Backend&) {}
  void append_to(std::vector<Parameter<Scalar>>& list) const {
    list.insert(list.end(), parameters_.begin(), parameters_.end());
  }

 private:
  P gradient_;
  std::vector<Parameter<Scalar>> parameters_;
  std::vector<MatrixView<Scalar>> views_;
  std::map<Index, typename Backend::RowScatter> scatters_;  // by the rows of the table
};

}  // namespace elcrec::inline ELCREC_TARGET
