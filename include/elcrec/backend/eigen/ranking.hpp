#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/backend/host/ranking.hpp"
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

template <class T, class Element>
void top_k(EigenLane<T>& lane, const RankingRule& rule, Input<T> queries, MatrixView<const Element> table,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  const auto frame = lane.workspace().frame();
  const Index users = queries.rows();
  const Index k = scores.cols();
  const auto next_seen = lane.workspace().template array<std::int32_t>(users);
  for (Index u = 0; u < users; ++u) {
    next_seen[static_cast<std::size_t>(u)] = detail::first_seen(rule, offsets, seen, u);
  }
  const Output<T> part = lane.workspace().template matrix<T>(users, eigen::ranked_block);
  std::fill(found.begin(), found.end(), Index{0});
  for (Index v0 = rule.first; v0 < rule.last && k > 0; v0 += eigen::ranked_block) {
    const Index v1 = std::min<Index>(rule.last, v0 + eigen::ranked_block);
    eigen::score_block(lane, queries, table.slice_rows(v0, v1), part.slice_cols(0, v1 - v0));
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      T* row = part.row(u);
      detail::hide_seen(rule, offsets, seen, u, v0, v1, eigen::never<T>, next_seen[at], row);
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
