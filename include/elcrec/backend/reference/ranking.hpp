#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

/// Keeps the `found` best of what was inserted, sorted; ids must come in ascending order.
template <class T>
void insert_best(T score, ItemId id, std::span<T> scores, std::span<ItemId> items, Index& found) {
  const Index k = ssize(items);
  if (found == k && !(score > scores[static_cast<std::size_t>(k - 1)])) {
    return;
  }
  Index at = found < k ? found++ : k - 1;
  for (; at > 0 && score > scores[static_cast<std::size_t>(at - 1)]; --at) {
    scores[static_cast<std::size_t>(at)] = scores[static_cast<std::size_t>(at - 1)];
    items[static_cast<std::size_t>(at)] = items[static_cast<std::size_t>(at - 1)];
  }
  scores[static_cast<std::size_t>(at)] = score;
  items[static_cast<std::size_t>(at)] = id;
}

}  // namespace reference

/// rank_u = how many candidates come before the target of query u: those that score higher, and of those that score
/// the same the ones with lower ids, as top_k orders them. Scores are to be finite: a NaN comes before nothing.
/// queries (U, D), table (V, D); query u has seen `seen[offsets[u]] .. seen[offsets[u + 1]]`, ascending, in which the
/// target counts only under Seen::zero (its score is then 0 too).
template <class T>
void rank_targets(ReferenceLane<T>&, const RankingRule& rule, Input<T> queries, Input<T> table,
                  std::span<const ItemId> targets, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
                  std::span<Index> ranks) {
  for (std::size_t u = 0; u < targets.size(); ++u) {
    const T* q = queries.row(static_cast<Index>(u));
    const auto mine =
        seen.subspan(static_cast<std::size_t>(offsets[u]), static_cast<std::size_t>(offsets[u + 1] - offsets[u]));
    const auto score = [&](ItemId v) {
      const bool zero = rule.seen == RankingRule::Seen::zero && std::binary_search(mine.begin(), mine.end(), v);
      return zero ? T(0) : reference::dot(q, table.row(v), table.cols());
    };
    const T at_target = score(targets[u]);
    const auto before_target = [&](ItemId v) {
      const T at = score(v);
      return at > at_target || (at == at_target && v < targets[u]);
    };
    ranks[u] = 0;
    for (ItemId v = rule.first; v < rule.last; ++v) {
      const bool excluded = rule.seen == RankingRule::Seen::exclude && std::binary_search(mine.begin(), mine.end(), v);
      ranks[u] += !excluded && before_target(v) ? 1 : 0;
    }
  }
}

/// The k best candidates of every query, best first, lower ids first among equals. queries (U, D), table (V, D) of T
/// or BFloat16, scores (U, k), items (U · k); found_u is how many there are (fewer than k only if the candidates run
/// out). Query u has seen `seen[offsets[u]] .. seen[offsets[u + 1]]`, ascending.
template <class T, class Element>
void top_k(ReferenceLane<T>&, const RankingRule& rule, Input<T> queries, MatrixView<const Element> table,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  const Index k = scores.cols();
  for (Index u = 0; u < queries.rows(); ++u) {
    const auto at = static_cast<std::size_t>(u);
    const auto mine = slice(seen, offsets[at], offsets[at + 1]);
    const T* q = queries.row(u);
    found[at] = 0;
    for (ItemId v = rule.first; v < rule.last && k > 0; ++v) {
      const bool is_seen = rule.seen != RankingRule::Seen::keep && std::binary_search(mine.begin(), mine.end(), v);
      if (is_seen && rule.seen == RankingRule::Seen::exclude) {
        continue;
      }
      T score = 0;
      for (Index c = 0; c < table.cols() && !is_seen; ++c) {
        score += q[c] * static_cast<T>(table(v, c));
      }
      reference::insert_best(score, v, std::span(scores.row(u), static_cast<std::size_t>(k)),
                             slice(items, u * k, (u + 1) * k), found[at]);
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
