#pragma once

#include <concepts>
#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/model/scored_items.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What evaluation and serving ask of a model: queries of histories and a table that they are multiplied with.
///
/// - backend(), item_count() (real items, ids 1 ..), max_length() (what a batch is cut to);
/// - add_query(batch, history, user): appends the sequence that asks what comes after a history;
/// - query_columns(): C; encode_query(lane, tokens, q): the queries q (S, C) of the sequences in `tokens`, without
///   dropout, in the lane's workspace;
/// - scored_items(): P (V, C), V = items + 2; the score of item v is q · P[v].
///
/// All const, and for any number of threads at once.
template <class M>
concept ScoringModel = Backend<typename M::Backend> &&
    requires(const M& model, typename M::Backend::Lane& lane, const TokenView& tokens,
             MatrixView<typename M::Backend::Scalar> q, TokenBatch& batch, std::span<const ItemId> history) {
  model.add_query(batch, history, UserId());
  { model.backend() } -> std::convertible_to<const typename M::Backend&>;
  { model.item_count() } -> std::same_as<Index>;
  { model.max_length() } -> std::same_as<Index>;
  { model.query_columns() } -> std::same_as<Index>;
  model.encode_query(lane, tokens, q);
  { model.scored_items() } -> std::same_as<ScoredItems<typename M::Backend>>;
};

}  // namespace elcrec::inline ELCREC_TARGET
