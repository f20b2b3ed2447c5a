#pragma once

#include "elcrec/backend/matrix.hpp"
#include "elcrec/model/scored_items.hpp"
#include "elcrec/nn/embedding_table.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The table P (V, C) that a model's head makes of the item table in every training step, and its gradient. Nothing
/// under a plain head, where it is the item table itself.
template <class Model>
class ScoredTable {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Backend::Scalar;
  using Lane = typename Backend::Lane;
  using In = MatrixView<const Scalar>;

  explicit ScoredTable(const Model& model)
      : norms_(model.backend(), 1, model.items().rows()),
        prepared_(model.backend(), model.items().rows(), model.query_columns()),
        gradient_(model.backend(), "scored items", model.items().rows(), model.query_columns(), padding_item) {}

  [[nodiscard]] In view(const Model&) const { return prepared_.view(); }
  [[nodiscard]] TableGradient<Backend>& gradient() { return gradient_; }

  void prepare(const Model& model) {
    gradient_.start(model.backend());
    prepare_scored(model.backend(), model.head(), model.items(), norms_.view(), prepared_.view());
  }

  void flush(const Model& model) { gradient_.flush(model.backend()); }

  /// Adds to the gradients of the head and of the item table.
  void backward(const Model& model, auto& head_gradient, TableGradient<Backend>& items_gradient) {
    gradient_.sum(model.backend());
    const auto dprepared = gradient_.all();
    const auto ditems = items_gradient.all();
    model.backend().parallel_blocks(prepared_.rows(), scored_block, [&](Lane& lane, Index first, Index last) {
      model.head().prepare_backward(lane, first, In(prepared_.view()).slice_rows(first, last),
                                    In(norms_.view()).slice_cols(first, last), dprepared.slice_rows(first, last),
                                    head_gradient, ditems.slice_rows(first, last));
    });
  }

 private:
  Matrix<Backend> norms_;     // (1, V)
  Matrix<Backend> prepared_;  // (V, C)
  TableGradient<Backend> gradient_;
};

template <class Model>
requires Model::HeadType::plain class ScoredTable<Model> {
 public:
  explicit ScoredTable(const Model&) {}
  [[nodiscard]] auto view(const Model& model) const { return model.items(); }
  void prepare(const Model&) {}
  void flush(const Model&) {}
};

}  // namespace elcrec::inline ELCREC_TARGET
