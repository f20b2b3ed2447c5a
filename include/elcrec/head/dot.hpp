#pragma once

#include <string_view>

#include "elcrec/core/concepts.hpp"
#include "elcrec/head/scoring_head.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct DotHeadOptions {
  static void visit_options(auto&, auto&&) {}
};

/// y · E[v]: the head of a model that names none.
template <Backend B>
struct DotHead {
  static constexpr std::string_view name = "dot_head";
  using Options = DotHeadOptions;
  using Backend = B;
  using Lane = typename B::Lane;
  using In = MatrixView<const typename B::Scalar>;
  using Out = MatrixView<typename B::Scalar>;
  static constexpr bool plain = true;

  constexpr DotHead() = default;
  DotHead(const B&, const Options&) {}

  [[nodiscard]] Options options() const { return {}; }
  [[nodiscard]] Index columns(Index hidden) const { return hidden; }
  void prepare(Lane& lane, Index, In table, Out, Out prepared) const { lane.copy(table, prepared); }
  void queries(Lane& lane, In y, Out, Out q) const { lane.copy(y, q); }
  void queries_backward(Lane& lane, In, In, Out dq, Out dy) const { lane.add_scaled(1, dq, dy); }
  void prepare_backward(Lane& lane, Index, In, In, Out dprepared, DotHead&, Out dtable) const {
    lane.add_scaled(1, dprepared, dtable);
  }

  template <class To>
  [[nodiscard]] DotHead<To> remake(const To&) const {
    return {};
  }
  static void visit_parameters(auto&, auto&&) {}
  static void visit_shapes(const Options&, auto&&) {}
};

}  // namespace elcrec::inline ELCREC_TARGET
