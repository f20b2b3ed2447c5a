#pragma once

#include "elcrec/core/concepts.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/loss/step.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Pooled encodings of unit length, h_i = pool(y of sequence i) / |pool(y of sequence i)|.
template <class T>
struct UserEmbeddings {
  MatrixView<T> unit;   ///< (B, C)
  MatrixView<T> norms;  ///< (1, B) before the division
};

/// The user embeddings of an encoding, in the step's memory.
template <TrainingStep Step>
[[nodiscard]] UserEmbeddings<typename Step::Scalar> user_embeddings(Step& step,
                                                                    const Encoding<typename Step::Scalar>& encoding,
                                                                    Pooling pooling) {
  using T = typename Step::Scalar;
  static_assert(operation::RowNormalization<typename Step::Lane>,
                "user_embeddings: the lane lacks operations of operation::RowNormalization");
  const Index n = encoding.tokens.sequences();
  const Index columns = pooled_columns(pooling, encoding.tokens.max_length, encoding.y.cols());
  const UserEmbeddings<T> h{step.memory().template matrix<T>(n, columns), step.memory().template matrix<T>(1, n)};
  step.for_each_slice(encoding, [&](typename Step::Lane& lane, const BatchSlice& s) {
    const auto unit = h.unit.slice_rows(s.first_sequence, s.last_sequence);
    pool(lane, pooling, s.tokens, s.rows(encoding.y), unit);
    normalize_rows(lane, unit, h.norms.slice_cols(s.first_sequence, s.last_sequence), unit);
  });
  return h;
}

/// Passes dh (B, C), overwritten, back to the encoding's dy.
template <TrainingStep Step>
void user_embeddings_backward(Step& step, const Encoding<typename Step::Scalar>& encoding, Pooling pooling,
                              const UserEmbeddings<typename Step::Scalar>& h, MatrixView<typename Step::Scalar> dh) {
  step.for_each_slice(encoding, [&](typename Step::Lane& lane, const BatchSlice& s) {
    const auto d = dh.slice_rows(s.first_sequence, s.last_sequence);
    normalize_rows_backward(lane, h.unit.slice_rows(s.first_sequence, s.last_sequence),
                            h.norms.slice_cols(s.first_sequence, s.last_sequence), d, d);
    pool_backward(lane, pooling, s.tokens, d, s.rows(encoding.dy));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
