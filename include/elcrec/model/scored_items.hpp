#pragma once

#include <utility>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/head/scoring_head.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Rows of the item table that a task turns into rows of the scored one, or back.
inline constexpr Index scored_block = 1024;

/// P (V, C) from the item table E (V, D) by a head, block by block in parallel; norms (1, V) is what it keeps besides.
template <Backend B, ScoringHead Head>
void prepare_scored(const B& backend, const Head& head, MatrixView<const typename B::Scalar> table,
                    MatrixView<typename B::Scalar> norms, MatrixView<typename B::Scalar> prepared) {
  backend.parallel_blocks(table.rows(), scored_block, [&](typename B::Lane& lane, Index first, Index last) {
    head.prepare(lane, first, table.slice_rows(first, last), norms.slice_cols(first, last),
                 prepared.slice_rows(first, last));
  });
}

/// The item table as a model's head scores it, P (V, C): the live table under a plain head, else a copy of what it was.
/// One call of its makes a copy of V C scalars.
template <Backend B>
class ScoredItems {
 public:
  using Scalar = typename B::Scalar;
  using In = MatrixView<const Scalar>;

  template <ScoringHead Head>
  ScoredItems(const B& backend, const Head& head, In table) : live_(table) {
    if constexpr (!Head::plain) {
      copied_ = true;
      Matrix<B> norms(backend, 1, table.rows());
      prepared_ = Matrix<B>(backend, table.rows(), head.columns(table.cols()));
      prepare_scored(backend, head, table, norms.view(), prepared_.view());
    }
  }

  [[nodiscard]] In view() const { return copied_ ? In(std::as_const(prepared_).view()) : live_; }

 private:
  In live_;
  Matrix<B> prepared_;
  bool copied_ = false;
};

}  // namespace elcrec::inline ELCREC_TARGET
