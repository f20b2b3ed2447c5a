#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/backend/reference/ranking.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {

// Blocks of items are scored for all queries at once.
inline constexpr Index ranked_block = 256;   // items
inline constexpr Index ranked_stretch = 64;  // of which one look at the largest tells whether any is wanted
inline constexpr Index few_queries = 4;      // that do not pay for a product with repacked rows
/// Below every score: what is no candidate has it. Not -infinity, with which -ffast-math compares as it likes.
template <class T>
inline constexpr T never = std::numeric_limits<T>::lowest();

/// How many of n <= block scores `holds` is true of: as a sum of narrow numbers, which compilers make vectors of.
template <class T, class F>
Index count_if(const T* scores, Index n, F holds) {
  std::int32_t sum = 0;
  for (Index i = 0; i < n; ++i) {
    sum += holds(scores[i]) ? 1 : 0;
  }
  return sum;
}

/// Each query's place in `seen` of its first item that is not below the rule's.
template <class T>
std::span<std::int32_t> first_seen(EigenLane<T>& lane, const RankingRule& rule, std::span<const std::int32_t> offsets,
                                   std::span<const ItemId> seen) {
  const auto places = lane.workspace().template array<std::int32_t>(ssize(offsets) - 1);
  for (std::size_t u = 0; u < places.size(); ++u) {
    const auto found = std::lower_bound(seen.begin() + offsets[u], seen.begin() + offsets[u + 1], rule.first);
    places[u] = static_cast<std::int32_t>(found - seen.begin());
  }
  return places;
}

/// In the scores of items [v0, v1) those that query u has seen, the first of them at `next`, which moves on.
template <class T>
void hide_seen(const RankingRule& rule, std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Index u,
               Index v0, Index v1, std::int32_t& next, T* row) {
  for (; next < offsets[static_cast<std::size_t>(u) + 1] && seen[static_cast<std::size_t>(next)] < v1; ++next) {
    if (rule.seen != RankingRule::Seen::keep) {
      row[seen[static_cast<std::size_t>(next)] - v0] = rule.seen == RankingRule::Seen::zero ? T(0) : never<T>;
    }
  }
}

template <class T>
void score_block(EigenLane<T>& lane, Input<T> queries, MatrixView<const T> rows, Output<T> scores) {
  if (queries.rows() >= few_queries) {
    eigen::score<T>(lane.workspace(), queries, rows, scores);
    return;
  }
  for (Index u = 0; u < queries.rows(); ++u) {
    for (Index v = 0; v < rows.rows(); ++v) {
      scores(u, v) = eigen::dot(queries.row(u), rows.row(v), rows.cols());
    }
  }
}

/// The same from rows of another type, which are widened first.
template <class T, class Element>
void score_block(EigenLane<T>& lane, Input<T> queries, MatrixView<const Element> rows, Output<T> scores) {
  const auto frame = lane.workspace().frame();
  const Output<T> wide = lane.workspace().template matrix<T>(rows.rows(), rows.cols());
  for (Index v = 0; v < rows.rows(); ++v) {
    std::transform(rows.row(v), rows.row(v) + rows.cols(), wide.row(v), [](Element e) { return static_cast<T>(e); });
  }
  eigen::score_block(lane, queries, MatrixView<const T>(wide), scores);
}

}  // namespace eigen

template <class T>
void rank_targets(EigenLane<T>& lane, const RankingRule& rule, Input<T> queries, Input<T> table,
                  std::span<const ItemId> targets, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
                  std::span<Index> ranks) {
  const auto frame = lane.workspace().frame();
  const Index users = ssize(targets);
  const auto at_target = lane.workspace().template array<T>(users);
  const auto next_seen = eigen::first_seen(lane, rule, offsets, seen);
  const Output<T> scores = lane.workspace().template matrix<T>(users, eigen::ranked_block);
  {
    // By the same product as the candidates' scores, so that an item equal to the target scores the same to the bit.
    const auto target_frame = lane.workspace().frame();
    const Output<T> rows = lane.workspace().template matrix<T>(users, table.cols());
    const Output<T> products = lane.workspace().template matrix<T>(users, users);
    lane.gather_rows(table, targets, rows, Write::replace);
    eigen::score<T>(lane.workspace(), queries, rows, products);
    for (Index u = 0; u < users; ++u) {
      const auto mine = slice(seen, offsets[static_cast<std::size_t>(u)], offsets[static_cast<std::size_t>(u) + 1]);
      const bool zero = rule.seen == RankingRule::Seen::zero &&
                        std::binary_search(mine.begin(), mine.end(), targets[static_cast<std::size_t>(u)]);
      at_target[static_cast<std::size_t>(u)] = zero ? T(0) : products(u, u);
    }
  }
  std::fill(ranks.begin(), ranks.end(), Index{0});
  for (Index v0 = rule.first; v0 < rule.last; v0 += eigen::ranked_block) {
    const Index v1 = std::min<Index>(rule.last, v0 + eigen::ranked_block);
    const Output<T> part = scores.slice_cols(0, v1 - v0);
    eigen::score<T>(lane.workspace(), queries, table.slice_rows(v0, v1), part);
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      T* row = part.row(u);
      eigen::hide_seen(rule, offsets, seen, u, v0, v1, next_seen[at], row);
      const Index target = targets[at] - v0;
      if (target >= 0 && target < v1 - v0) {
        row[target] = eigen::never<T>;
      }
      // Equal scores count before the target and not behind it.
      const Index before = std::clamp<Index>(target, 0, v1 - v0);
      const T score = at_target[at];
      ranks[at] += eigen::count_if(row, before, [score](T s) { return s >= score; }) +
                   eigen::count_if(row + before, v1 - v0 - before, [score](T s) { return s > score; });
    }
  }
}

template <class T, class Element>
void top_k(EigenLane<T>& lane, const RankingRule& rule, Input<T> queries, MatrixView<const Element> table,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  const auto frame = lane.workspace().frame();
  const Index users = queries.rows();
  const Index k = scores.cols();
  const auto next_seen = eigen::first_seen(lane, rule, offsets, seen);
  const Output<T> part = lane.workspace().template matrix<T>(users, eigen::ranked_block);
  std::fill(found.begin(), found.end(), Index{0});
  for (Index v0 = rule.first; v0 < rule.last && k > 0; v0 += eigen::ranked_block) {
    const Index v1 = std::min<Index>(rule.last, v0 + eigen::ranked_block);
    eigen::score_block(lane, queries, table.slice_rows(v0, v1), part.slice_cols(0, v1 - v0));
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      T* row = part.row(u);
      eigen::hide_seen(rule, offsets, seen, u, v0, v1, next_seen[at], row);
      const std::span best(scores.row(u), static_cast<std::size_t>(k));
      for (Index first = v0; first < v1; first += eigen::ranked_stretch) {
        const Index last = (std::min)(v1, first + eigen::ranked_stretch);
        if (found[at] == k && !(eigen::largest_of(row + (first - v0), last - first) > best.back())) {
          continue;
        }
        for (Index v = first; v < last; ++v) {
          if (row[v - v0] > eigen::never<T>) {
            reference::insert_best<T>(row[v - v0], static_cast<ItemId>(v), best, slice(items, u * k, (u + 1) * k),
                                      found[at]);
          }
        }
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
