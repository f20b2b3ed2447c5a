#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/cpu/item_index.hpp"
#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/ranking.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/host/ranking.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

/// Asks for rows that lie anywhere, all of them before the first is waited for.
template <class T>
void prefetch_rows(MatrixView<const T> table, std::span<const detail::Shortlist::Entry> entries) {
  for (const auto& entry : entries) {
    const auto* row = reinterpret_cast<const char*>(table.row(entry.item));
    for (Index at = 0; at < table.cols() * static_cast<Index>(sizeof(T)); at += 64) {
      __builtin_prefetch(row + at);
    }
  }
}

/// The k best of the candidates by their exact scores, best first, in the workspace; the items of `zeroed` score 0.
/// The sure ones come first: the k-th best of their scores rules out some of the rest, if there is a rest.
template <class T>
std::span<const Candidate<T>> score_candidates(CpuLane<T>& lane, const T* query, Input<T> table,
                                               detail::Shortlist::Candidates candidates,
                                               const typename ItemIndex<T>::Query& prepared,
                                               std::span<const ItemId> zeroed, Index k) {
  const Index sure = ssize(candidates.sure);
  assert(sure >= k || candidates.rest.empty());
  const auto exact = lane.workspace().template array<Candidate<T>>(sure + ssize(candidates.rest));
  const auto score_into = [&](std::span<const detail::Shortlist::Entry> part, std::span<Candidate<T>> to) {
    const Index n = ssize(part);
    for (Index first = 0; first < n; first += simd::width<T>) {
      const auto item = [&](Index i) { return part[static_cast<std::size_t>((std::min)(first + i, n - 1))].item; };
      const simd::Pack<T> values = simd::dot_rows(
          query, [&](Index i) { return table.row(item(i)); }, table.cols());
      for (Index i = 0; i < (std::min)(simd::width<T>, n - first); ++i) {
        const bool is_zero = std::binary_search(zeroed.begin(), zeroed.end(), item(i));
        to[static_cast<std::size_t>(first + i)] = {is_zero ? T(0) : values[i], item(i)};
      }
    }
  };
  score_into(candidates.sure, exact);
  Index count = sure;
  if (sure >= k) {
    const Candidate<T>& kth = exact[static_cast<std::size_t>(k - 1)];
    std::nth_element(exact.begin(), exact.begin() + (k - 1), exact.begin() + sure);
    const double enough = static_cast<double>(kth.score) - prepared.bound;
    const auto enough_or_more = [&](const auto& c) { return c.score * prepared.unit >= enough; };
    const auto rest = slice(candidates.rest, 0, detail::to_front(candidates.rest, enough_or_more));
    const auto scored = slice(exact, sure, sure + ssize(rest));
    cpu::prefetch_rows(table, rest);
    score_into(rest, scored);
    const Index better = detail::to_front(scored, [&](const Candidate<T>& c) { return c < kth; });
    std::copy_n(scored.begin(), better, exact.begin() + k);
    count = k + better;
  }
  std::sort(exact.begin(), exact.begin() + count);
  return slice(exact, 0, (std::min)(k, count));
}

}  // namespace cpu

/// top_k of a table by way of its index: the same items and scores, whatever the number of queries, at an eighth of
/// the arithmetic and a quarter of the bytes. Every candidate that the index cannot rule out is scored exactly; a
/// query with very many of them, or one that is not finite, falls back to the whole table.
template <class T>
void top_k(CpuLane<T>& lane, const RankingRule& rule, Input<T> queries, Input<T> table, const ItemIndex<T>& index,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  const Index k = scores.cols();
  if (!index.usable() || k == 0) {
    top_k(lane, rule, queries, MatrixView<const T>(table), offsets, seen, scores, items, found);
    return;
  }
  using detail::Shortlist;
  constexpr Index at_once = 4;               // queries
  constexpr Index block = Shortlist::block;  // items whose bytes stay in L1 while the queries pass by
  constexpr Index stretch = 16384;           // items that are seen before the first of them is taken in
  const Index users = queries.rows();
  const Index room = 8 * k + 2048;
  const Index vectors = index.pairs() * simd::register_bytes;
  const auto frame = lane.workspace().frame();
  const auto bytes = lane.workspace().template array<std::int8_t>(users * vectors);
  const auto prepared = lane.workspace().template array<typename ItemIndex<T>::Query>(users);
  const auto entries = lane.workspace().template array<Shortlist::Entry>(users * room);
  const Index subsets = Shortlist::subsets(k);
  const auto best_of_subsets = lane.workspace().template array<std::int16_t>(users * subsets);
  const auto lists = lane.workspace().template array<Shortlist>(users);
  const auto next_seen = lane.workspace().template array<std::int32_t>(users);
  const Index first_item = rule.first / ItemIndex<T>::group * ItemIndex<T>::group;
  const Index width_of_stretch = (std::min)(stretch, (rule.last - first_item + block - 1) / block * block);
  const Index leaders_of_stretch = width_of_stretch / Shortlist::of_leader;
  const auto part = lane.workspace().template array<std::int16_t>(users * width_of_stretch);
  const auto leaders = lane.workspace().template array<std::int16_t>(users * leaders_of_stretch);
  for (Index u = 0; u < users; ++u) {
    const auto at = static_cast<std::size_t>(u);
    prepared[at] = index.prepare(queries.row(u), bytes.data() + u * vectors);
    lists[at] = {slice(entries, u * room, (u + 1) * room), slice(best_of_subsets, u * subsets, (u + 1) * subsets), k,
                 prepared[at].margin};
    next_seen[at] = detail::first_seen(rule, offsets, seen, u);
  }
  for (Index s0 = first_item; s0 < rule.last; s0 += stretch) {
    const Index s1 = std::min<Index>(rule.last, s0 + stretch);
    const auto row_of = [&](Index u) { return part.data() + u * width_of_stretch; };
    const auto leaders_of = [&](Index u) { return leaders.data() + u * leaders_of_stretch; };
    for (Index v0 = s0; v0 < s1; v0 += block) {
      const Index v1 = (std::min)(s1, v0 + block);
      const Index groups = (v1 - v0 + ItemIndex<T>::group - 1) / ItemIndex<T>::group;
      for (Index u = 0; u < users;) {  // four at a time, a rest one by one
        const auto* q = prepared.data() + u;
        std::int16_t* to = row_of(u) + (v0 - s0);
        if (users - u >= at_once) {
          detail::score_run<at_once>(index, q, v0 / ItemIndex<T>::group, groups, to, width_of_stretch);
          u += at_once;
        } else {
          detail::score_run<1>(index, q, v0 / ItemIndex<T>::group, groups, to, width_of_stretch);
          ++u;
        }
      }
      for (Index u = 0; u < users; ++u) {
        const auto at = static_cast<std::size_t>(u);
        std::int16_t* row = row_of(u) + (v0 - s0);
        constexpr std::int16_t no_score = (std::numeric_limits<std::int16_t>::min)();
        std::fill(row, row + std::clamp<Index>(rule.first - v0, 0, v1 - v0), no_score);
        std::fill(row + (v1 - v0), row + block, no_score);
        detail::hide_seen(rule, offsets, seen, u, v0, v1, no_score, next_seen[at], row);
        lists[at].see(row, leaders_of(u) + (v0 - s0) / Shortlist::of_leader);
      }
    }
    for (Index u = 0; u < users; ++u) {
      lists[static_cast<std::size_t>(u)].take(row_of(u), leaders_of(u), s0, (s1 - s0 + block - 1) / block);
    }
  }
  detail::Shortlist::Candidates next;
  const auto begin = [&](Index u) {  // one query ahead, so that rows are on their way meanwhile
    if (u < users) {
      next = lists[static_cast<std::size_t>(u)].candidates();
      cpu::prefetch_rows(table, next.sure);
    }
  };
  begin(0);
  for (Index u = 0; u < users; ++u) {
    const auto& list = lists[static_cast<std::size_t>(u)];
    const auto candidates = next;
    begin(u + 1);
    const auto user_frame = lane.workspace().frame();
    const auto one = [u](auto view) { return view.slice_rows(u, u + 1); };
    const auto ranked = slice(items, u * k, (u + 1) * k);
    if (list.overflowed() || !prepared[static_cast<std::size_t>(u)].finite()) {
      top_k(lane, rule, one(queries), MatrixView<const T>(table), offsets.subspan(static_cast<std::size_t>(u), 2), seen,
            one(scores), ranked, slice(found, u, u + 1));
      continue;
    }
    const auto mine = rule.seen == RankingRule::Seen::zero
                          ? slice(seen, offsets[static_cast<std::size_t>(u)], offsets[static_cast<std::size_t>(u) + 1])
                          : std::span<const ItemId>{};
    const auto best =
        cpu::score_candidates(lane, queries.row(u), table, candidates, prepared[static_cast<std::size_t>(u)], mine, k);
    found[static_cast<std::size_t>(u)] = ssize(best);
    for (Index i = 0; i < ssize(best); ++i) {
      scores(u, i) = best[static_cast<std::size_t>(i)].score;
      ranked[static_cast<std::size_t>(i)] = best[static_cast<std::size_t>(i)].item;
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
