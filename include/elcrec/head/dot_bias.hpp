#pragma once

#include <string_view>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/head/scoring_head.hpp"
#include "elcrec/nn/whole_gradient.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct DotBiasHeadOptions {
  Index table_rows = 0;  ///< V

  static void visit_options(auto& self, auto&& visitor) { visitor("table_rows", self.table_rows); }
};

/// y · E[v] + b_v, as BERT4Rec's: q = [y, 1], P[v] = [E[v], b_v]. The biases start at 0. Each training step and each
/// evaluation copies the table once, V (D + 1) scalars.
template <Backend B>
class DotBiasHead {
 public:
  static constexpr std::string_view name = "dot_bias_head";
  using Options = DotBiasHeadOptions;
  using Backend = B;
  using Scalar = typename B::Scalar;
  using Lane = typename B::Lane;
  using In = MatrixView<const Scalar>;
  using Out = MatrixView<Scalar>;
  using Gradient = WholeGradient<DotBiasHead>;
  static constexpr bool plain = false;

  /// `table_rows` is V: the items and two more, as the model's item table has.
  DotBiasHead(const B& backend, Index table_rows) : bias_(backend, table_rows, 1) {}

  DotBiasHead(const B& backend, const Options& o) : DotBiasHead(backend, o.table_rows) {}

  [[nodiscard]] Options options() const { return {table_rows()}; }
  [[nodiscard]] Index table_rows() const { return bias_.rows(); }
  [[nodiscard]] Out bias() { return bias_.view(); }  // (V, 1)

  [[nodiscard]] Index columns(Index hidden) const { return hidden + 1; }
  void prepare(Lane& lane, Index first, In table, Out, Out prepared) const {
    const Index d = table.cols();
    lane.copy(table, prepared.slice_cols(0, d));
    lane.copy(In(bias_.view()).slice_rows(first, first + table.rows()), prepared.slice_cols(d, d + 1));
  }
  void queries(Lane& lane, In y, Out, Out q) const {
    lane.copy(y, q.slice_cols(0, y.cols()));
    lane.fill(q.slice_cols(y.cols(), y.cols() + 1), Scalar(1));
  }
  void queries_backward(Lane& lane, In, In, Out dq, Out dy) const {
    lane.add_scaled(Scalar(1), dq.slice_cols(0, dy.cols()), dy);
  }
  void prepare_backward(Lane& lane, Index first, In, In, Out dprepared, DotBiasHead& gradient, Out dtable) const {
    const Index d = dtable.cols();
    lane.add_scaled(Scalar(1), dprepared.slice_cols(0, d), dtable);
    lane.add_scaled(Scalar(1), dprepared.slice_cols(d, d + 1),
                    gradient.bias().slice_rows(first, first + dtable.rows()));
  }

  template <class To>
  [[nodiscard]] DotBiasHead<To> remake(const To& backend) const {
    return {backend, bias_.rows()};
  }
  static void visit_parameters(auto& self, auto&& visitor) {
    const auto column = self.bias_.view();
    visitor("output_bias", MatrixView(column.data(), Index{1}, column.rows()), 1);
  }

  static void visit_shapes(const Options& o, auto&& visitor) {
    visitor("output_bias", std::vector<Index>{o.table_rows});
  }

 private:
  Matrix<B> bias_;  // (V, 1)
};

}  // namespace elcrec::inline ELCREC_TARGET
