#pragma once

#include <string_view>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/head/scoring_head.hpp"
#include "elcrec/nn/whole_gradient.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct CosineHeadOptions {
  double temperature = 0.1;  ///< τ

  static void visit_options(auto& self, auto&& visitor) { visitor("temperature", self.temperature); }
};

/// y · E[v] / (|y| |E[v]| τ): q = y / (|y| τ), P[v] = E[v] / |E[v]|. Each training step and each evaluation makes the
/// table of unit rows once, V D scalars.
template <Backend B>
class CosineHead {
  static_assert(operation::RowNormalization<typename B::Lane>,
                "CosineHead: the lane lacks operations of operation::RowNormalization");

 public:
  static constexpr std::string_view name = "cosine_head";
  using Options = CosineHeadOptions;
  using Backend = B;
  using Scalar = typename B::Scalar;
  using Lane = typename B::Lane;
  using In = MatrixView<const Scalar>;
  using Out = MatrixView<Scalar>;
  using Gradient = WholeGradient<CosineHead>;
  static constexpr bool plain = false;

  explicit CosineHead(double temperature = 0.1) : temperature_(temperature) {
    require(temperature >= 1e-6 && temperature <= 1e6, "cosine head: found temperature ", temperature,
            ", expected a number from 1e-6 to 1e6");
  }

  CosineHead(const B&, const Options& o) : CosineHead(o.temperature) {}

  [[nodiscard]] Options options() const { return {temperature_}; }
  [[nodiscard]] double temperature() const { return temperature_; }

  [[nodiscard]] Index columns(Index hidden) const { return hidden; }
  void prepare(Lane& lane, Index, In table, Out norms, Out prepared) const {
    normalize_rows(lane, table, norms, prepared);
  }
  void queries(Lane& lane, In y, Out norms, Out q) const {
    normalize_rows(lane, y, norms, q);
    lane.scale(static_cast<Scalar>(1 / temperature_), q);
  }
  /// With u = q τ of unit length: dy += (du - u (u · du)) / |y|, du = dq / τ.
  void queries_backward(Lane& lane, In q, In norms, Out dq, Out dy) const {
    const auto frame = lane.workspace().frame();
    const Out unit = lane.workspace().template matrix<Scalar>(q.rows(), q.cols());
    lane.copy(q, unit);
    lane.scale(static_cast<Scalar>(temperature_), unit);
    lane.scale(static_cast<Scalar>(1 / temperature_), dq);
    normalize_rows_backward(lane, unit, norms, dq, dq);
    lane.add_scaled(Scalar(1), dq, dy);
  }
  void prepare_backward(Lane& lane, Index, In prepared, In norms, Out dprepared, CosineHead&, Out dtable) const {
    normalize_rows_backward(lane, prepared, norms, dprepared, dprepared);
    lane.add_scaled(Scalar(1), dprepared, dtable);
  }

  template <class To>
  [[nodiscard]] CosineHead<To> remake(const To&) const {
    return CosineHead<To>(temperature_);
  }
  static void visit_parameters(auto&, auto&&) {}
  static void visit_shapes(const Options&, auto&&) {}

 private:
  double temperature_;
};

}  // namespace elcrec::inline ELCREC_TARGET
