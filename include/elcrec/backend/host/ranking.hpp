#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// How many of n numbers `holds` is true of, n below 2^31: as a sum of narrow numbers, which compilers make vectors of.
template <class T, class F>
[[nodiscard]] Index count_if(const T* numbers, Index n, F holds) {
  std::int32_t sum = 0;
  for (Index i = 0; i < n; ++i) {
    sum += holds(numbers[i]) ? 1 : 0;
  }
  return sum;
}

/// Place in `seen` of query u's first item that is not below the rule's.
[[nodiscard]] inline std::int32_t first_seen(const RankingRule& rule, std::span<const std::int32_t> offsets,
                                             std::span<const ItemId> seen, Index u) {
  const auto begin = seen.begin() + offsets[static_cast<std::size_t>(u)];
  const auto end = seen.begin() + offsets[static_cast<std::size_t>(u) + 1];
  return static_cast<std::int32_t>(std::lower_bound(begin, end, rule.first) - seen.begin());
}

/// Takes the items that query u has seen, the first of them at `next`, which moves on, out of a row of scores of the
/// items [v0, v1); `never` is the score of no candidate.
template <class S>
void hide_seen(const RankingRule& rule, std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Index u,
               Index v0, Index v1, S never, std::int32_t& next, S* row) {
  for (; next < offsets[static_cast<std::size_t>(u) + 1] && seen[static_cast<std::size_t>(next)] < v1; ++next) {
    if (rule.seen != RankingRule::Seen::keep) {
      row[seen[static_cast<std::size_t>(next)] - v0] = rule.seen == RankingRule::Seen::zero ? S(0) : never;
    }
  }
}

}  // namespace detail

template <VectorLane L>
void rank_targets(L& lane, const RankingRule& rule, typename L::In queries, typename L::In table,
                  std::span<const ItemId> targets, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
                  std::span<Index> ranks) {
  using T = typename L::Scalar;
  constexpr Index block = L::Vector::ranking_block;
  constexpr T never = std::numeric_limits<T>::lowest();  // not -infinity, with which -ffast-math compares as it likes
  const auto frame = lane.workspace().frame();
  const Index users = ssize(targets);
  const auto at_target = lane.workspace().template array<T>(users);
  const auto next_seen = lane.workspace().template array<std::int32_t>(users);
  for (Index u = 0; u < users; ++u) {
    next_seen[static_cast<std::size_t>(u)] = detail::first_seen(rule, offsets, seen, u);
  }
  const auto scores = lane.workspace().template matrix<T>(users, block);
  {
    // By the same product as the candidates' scores, so that an item equal to the target scores the same to the bit.
    const auto target_frame = lane.workspace().frame();
    const auto rows = lane.workspace().template matrix<T>(users, table.cols());
    const auto products = lane.workspace().template matrix<T>(users, users);
    lane.gather_rows(table, targets, rows, Write::replace);
    L::Vector::score(lane, queries, rows, products);
    for (Index u = 0; u < users; ++u) {
      const auto mine = slice(seen, offsets[static_cast<std::size_t>(u)], offsets[static_cast<std::size_t>(u) + 1]);
      const bool zero = rule.seen == RankingRule::Seen::zero &&
                        std::binary_search(mine.begin(), mine.end(), targets[static_cast<std::size_t>(u)]);
      at_target[static_cast<std::size_t>(u)] = zero ? T(0) : products(u, u);
    }
  }
  std::fill(ranks.begin(), ranks.end(), Index{0});
  for (Index v0 = rule.first; v0 < rule.last; v0 += block) {
    const Index v1 = std::min<Index>(rule.last, v0 + block);
    const auto part = scores.slice_cols(0, v1 - v0);
    L::Vector::score(lane, queries, table.slice_rows(v0, v1), part);
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      T* row = part.row(u);
      detail::hide_seen(rule, offsets, seen, u, v0, v1, never, next_seen[at], row);
      const Index target = targets[at] - v0;
      if (target >= 0 && target < v1 - v0) {
        row[target] = never;
      }
      // Equal scores count before the target and not behind it.
      const Index before = std::clamp<Index>(target, 0, v1 - v0);
      const T score = at_target[at];
      ranks[at] += detail::count_if(row, before, [score](T s) { return s >= score; }) +
                   detail::count_if(row + before, v1 - v0 - before, [score](T s) { return s > score; });
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
