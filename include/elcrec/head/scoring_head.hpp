#pragma once

#include <concepts>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/nn/part.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How an encoding and a row of the item table become a score: the part of a model that training losses, evaluation,
/// index and serving share. The score of item v after an encoding y is q · P[v], with a query q (C) made of y (D) and a
/// table P (V, C) made of the item table E (V, D): whoever ranks knows dot products only.
///
/// - columns(D): C;
/// - prepare(lane, first, E, norms, P): rows [first, first + R) of P from the same rows of E; norms (1, R) is for what
///   the backward pass needs;
/// - queries(lane, y, norms, q): (R, D) to (R, C), norms (1, R) likewise;
/// - queries_backward(lane, q, norms, dq, dy): dy += what dq, which may be overwritten, passes back;
/// - prepare_backward(lane, first, P, norms, dP, gradient, dE): dE += what dP, which may be overwritten, passes back,
///   and the same for the head's own parameters in `gradient`, a head.
///
/// All are const but for their outputs and run on blocks of rows, from several threads at once. A head whose q and P
/// are y and E themselves says `plain` and is never asked.
template <class H>
concept ScoringHead = Part<H> &&
    requires(const H& head, H& gradient, typename H::Backend::Lane& lane, Index n,
             MatrixView<const typename H::Backend::Scalar> in, MatrixView<typename H::Backend::Scalar> out) {
  { H::plain } -> std::convertible_to<bool>;
  { head.columns(n) } -> std::same_as<Index>;
  head.prepare(lane, n, in, out, out);
  head.queries(lane, in, out, out);
  head.queries_backward(lane, in, in, out, out);
  head.prepare_backward(lane, n, in, in, out, gradient, out);
};

}  // namespace elcrec::inline ELCREC_TARGET
