#pragma once

#include <utility>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/head/scoring_head.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// f(lane, rows [first, last)) for blocks of a table's rows, in parallel.
template <Backend B, class F>
void for_each_row_block(const B& backend, Index rows, F f) {
  constexpr Index block = 1024;
  backend.parallel_blocks(rows, block, [&](typename B::Lane& lane, Index first, Index last) { f(lane, first, last); });
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
      for_each_row_block(backend, table.rows(), [&](typename B::Lane& lane, Index first, Index last) {
        head.prepare(lane, first, table.slice_rows(first, last), norms.view().slice_cols(first, last),
                     prepared_.view().slice_rows(first, last));
      });
    }
  }

  [[nodiscard]] In view() const { return copied_ ? In(std::as_const(prepared_).view()) : live_; }

 private:
  In live_;
  Matrix<B> prepared_;
  bool copied_ = false;
};

}  // namespace elcrec::inline ELCREC_TARGET
