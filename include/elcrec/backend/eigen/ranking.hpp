#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// On top of Products. Blocks of items are scored for all queries at once.
template <class Base>
class Ranking : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void rank_targets(const RankingRule& rule, In queries, In table, std::span<const ItemId> targets,
                    std::span<const std::int32_t> offsets, std::span<const ItemId> seen, std::span<Index> ranks) {
    const auto frame = this->workspace().frame();
    const Index users = ssize(targets);
    const auto at_target = this->workspace().template array<T>(users);
    const auto next_seen = first_seen(rule, offsets, seen);
    const Out scores = this->workspace().template matrix<T>(users, block);
    {
      // By the same product as the candidates' scores, so that an item equal to the target scores the same to the bit.
      const auto target_frame = this->workspace().frame();
      const Out rows = this->workspace().template matrix<T>(users, table.cols());
      const Out products = this->workspace().template matrix<T>(users, users);
      this->gather_rows(table, targets, rows, Write::replace);
      this->score(queries, rows, products);
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
      const Out part = scores.slice_cols(0, v1 - v0);
      this->score(queries, table.slice_rows(v0, v1), part);
      for (Index u = 0; u < users; ++u) {
        const auto at = static_cast<std::size_t>(u);
        T* row = part.row(u);
        hide_seen(rule, offsets, seen, u, v0, v1, next_seen[at], row);
        const Index target = targets[at] - v0;
        if (target >= 0 && target < v1 - v0) {
          row[target] = never;
        }
        // Equal scores count before the target and not behind it.
        const Index before = std::clamp<Index>(target, 0, v1 - v0);
        const T score = at_target[at];
        ranks[at] += count(row, before, [score](T s) { return s >= score; }) +
                     count(row + before, v1 - v0 - before, [score](T s) { return s > score; });
      }
    }
  }

  template <class Element>
  void top_k(const RankingRule& rule, In queries, MatrixView<const Element> table,
             std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Out scores, std::span<ItemId> items,
             std::span<Index> found) {
    const auto frame = this->workspace().frame();
    const Index users = queries.rows();
    const Index k = scores.cols();
    const auto next_seen = first_seen(rule, offsets, seen);
    const Out part = this->workspace().template matrix<T>(users, block);
    std::fill(found.begin(), found.end(), Index{0});
    for (Index v0 = rule.first; v0 < rule.last && k > 0; v0 += block) {
      const Index v1 = std::min<Index>(rule.last, v0 + block);
      score_block(queries, table.slice_rows(v0, v1), part.slice_cols(0, v1 - v0));
      for (Index u = 0; u < users; ++u) {
        const auto at = static_cast<std::size_t>(u);
        T* row = part.row(u);
        hide_seen(rule, offsets, seen, u, v0, v1, next_seen[at], row);
        const std::span best(scores.row(u), static_cast<std::size_t>(k));
        for (Index first = v0; first < v1; first += stretch) {
          const Index last = (std::min)(v1, first + stretch);
          if (found[at] == k && !(largest_of(row + (first - v0), last - first) > best.back())) {
            continue;
          }
          for (Index v = first; v < last; ++v) {
            if (row[v - v0] > never) {
              Base::insert_best(row[v - v0], static_cast<ItemId>(v), best, slice(items, u * k, (u + 1) * k), found[at]);
            }
          }
        }
      }
    }
  }

 private:
  static constexpr Index block = 256;   // items
  static constexpr Index stretch = 64;  // of which one look at the largest tells whether any is wanted
  static constexpr Index few = 4;       // queries that do not pay for a product with repacked rows
  /// Below every score: what is no candidate has it. Not -infinity, with which -ffast-math compares as it likes.
  static constexpr T never = std::numeric_limits<T>::lowest();

  /// How many of n <= block scores `holds` is true of: as a sum of narrow numbers, which compilers make vectors of.
  template <class F>
  static Index count(const T* scores, Index n, F holds) {
    std::int32_t sum = 0;
    for (Index i = 0; i < n; ++i) {
      sum += holds(scores[i]) ? 1 : 0;
    }
    return sum;
  }

  /// Each query's place in `seen` of its first item that is not below the rule's.
  std::span<std::int32_t> first_seen(const RankingRule& rule, std::span<const std::int32_t> offsets,
                                     std::span<const ItemId> seen) {
    const auto places = this->workspace().template array<std::int32_t>(ssize(offsets) - 1);
    for (std::size_t u = 0; u < places.size(); ++u) {
      const auto found = std::lower_bound(seen.begin() + offsets[u], seen.begin() + offsets[u + 1], rule.first);
      places[u] = static_cast<std::int32_t>(found - seen.begin());
    }
    return places;
  }

  /// In the scores of items [v0, v1) those that query u has seen, the first of them at `next`, which moves on.
  static void hide_seen(const RankingRule& rule, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
                        Index u, Index v0, Index v1, std::int32_t& next, T* row) {
    for (; next < offsets[static_cast<std::size_t>(u) + 1] && seen[static_cast<std::size_t>(next)] < v1; ++next) {
      if (rule.seen != RankingRule::Seen::keep) {
        row[seen[static_cast<std::size_t>(next)] - v0] = rule.seen == RankingRule::Seen::zero ? T(0) : never;
      }
    }
  }

  void score_block(In queries, In rows, Out scores) {
    if (queries.rows() >= few) {
      this->score(queries, rows, scores);
      return;
    }
    for (Index u = 0; u < queries.rows(); ++u) {
      for (Index v = 0; v < rows.rows(); ++v) {
        scores(u, v) = dot(queries.row(u), rows.row(v), rows.cols());
      }
    }
  }

  /// The same from rows of another type, which are widened first.
  template <class Element>
  void score_block(In queries, MatrixView<const Element> rows, Out scores) {
    const auto frame = this->workspace().frame();
    const Out wide = this->workspace().template matrix<T>(rows.rows(), rows.cols());
    for (Index v = 0; v < rows.rows(); ++v) {
      std::transform(rows.row(v), rows.row(v) + rows.cols(), wide.row(v), [](Element e) { return static_cast<T>(e); });
    }
    score_block(queries, In(wide), scores);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
