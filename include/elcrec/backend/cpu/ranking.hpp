#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/products.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/host/ranking.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

/// scores (U, N) = queries (U, D) · rows (N, D)ᵀ, each score by the same sequence of operations whatever U and N are.
template <class T>
void score(CpuLane<T>& lane, Input<T> queries, MatrixView<const T> rows, Output<T> scores) {
  cpu::multiply<T>(lane.workspace(), {queries.data(), queries.stride(), 1}, {rows.data(), rows.stride(), 1},
                   scores.cols(), rows.cols(), scores, Write::replace);
}

/// The same from rows of another type, which are widened first.
template <class T, class Element>
void score(CpuLane<T>& lane, Input<T> queries, MatrixView<const Element> rows, Output<T> scores) {
  const auto frame = lane.workspace().frame();
  const Output<T> wide = lane.workspace().template matrix<T>(rows.rows(), rows.cols());
  for (Index v = 0; v < rows.rows(); ++v) {
    const Element* from = rows.row(v);
    T* to = wide.row(v);
    const Index whole = rows.cols() / simd::width<T> * simd::width<T>;
    for (Index c = 0; c < whole; c += simd::width<T>) {
      simd::store<T>(to + c, simd::load_as<T>(from + c));
    }
    std::copy(from + whole, from + rows.cols(), to + whole);
  }
  cpu::score(lane, queries, MatrixView<const T>(wide), scores);
}

/// scores[v] = query · rows_v; from `width` rows on each by the same sequence of operations.
template <class T, class Element>
void score_rows(const T* query, MatrixView<const Element> rows, T* scores) {
  const Index n = rows.rows();
  for (Index v = 0; n >= simd::width<T> && v < n; v += simd::width<T>) {
    const Index at = (std::min)(v, n - simd::width<T>);  // the last ones again rather than a rest
    simd::store<T>(scores + at, simd::dot_rows(
                                    query, [&](Index i) { return rows.row(at + i); }, rows.cols()));
  }
  for (Index v = 0; v < n && n < simd::width<T>; ++v) {
    T sum = 0;
    for (Index c = 0; c < rows.cols(); ++c) {
      sum += query[c] * static_cast<T>(rows(v, c));
    }
    scores[v] = sum;
  }
}

template <class T>
struct Candidate {
  T score;
  ItemId item;
  bool operator<(const Candidate& other) const {  // better first, the lower id among equals
    return score > other.score || (score == other.score && item < other.item);
  }
};

/// The k best of what is offered, items in rising order: whatever beats the k-th best so far is put down, and the
/// best k are picked when there is no more room. Cheaper than a sorted list by the moves that an insertion takes.
template <class T>
class Best {
 public:
  Best(std::span<Candidate<T>> room, Index k) : kept_(room), k_(k) {}

  /// The scores of items [v0, v1); a NaN is no candidate.
  void offer(const T* row, Index v0, Index v1) {
    Index v = v0;
    for (; v + simd::width<T> <= v1; v += simd::width<T>) {
      for (auto bits = simd::above(simd::load(row + (v - v0)), threshold_); bits != 0; bits &= bits - 1) {
        const Index i = v + std::countr_zero(bits);
        keep(row[i - v0], i);
      }
    }
    for (; v < v1; ++v) {
      if (row[v - v0] > threshold_) {
        keep(row[v - v0], v);
      }
    }
  }

  std::span<const Candidate<T>> sorted() {
    std::sort(kept_.begin(), kept_.begin() + count_);
    return slice(kept_, 0, (std::min)(count_, k_));
  }

 private:
  void keep(T score, Index item) {
    kept_[static_cast<std::size_t>(count_++)] = {score, static_cast<ItemId>(item)};
    if (count_ == ssize(kept_)) {
      std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end());
      threshold_ = kept_[static_cast<std::size_t>(k_ - 1)].score;
      count_ = k_;
    }
  }

  std::span<Candidate<T>> kept_;
  Index k_;
  Index count_ = 0;
  T threshold_ = simd::never<T>;
};

}  // namespace cpu

template <class T, class Element>
void top_k(CpuLane<T>& lane, const RankingRule& rule, Input<T> queries, MatrixView<const Element> table,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  constexpr Index block = 256;
  constexpr Index few = 4;  // queries that do not pay for a product with repacked rows
  const Index users = queries.rows();
  const Index k = scores.cols();
  const auto frame = lane.workspace().frame();
  const auto next_seen = lane.workspace().template array<std::int32_t>(users);
  const Output<T> part = lane.workspace().template matrix<T>(users, block);
  const Index room = 2 * k + 32;
  const auto candidates = lane.workspace().template array<cpu::Candidate<T>>(users * room);
  const auto best = lane.workspace().template array<cpu::Best<T>>(users);
  for (std::size_t u = 0; u < next_seen.size(); ++u) {
    best[u] = {slice(candidates, static_cast<Index>(u) * room, static_cast<Index>(u + 1) * room), k};
    next_seen[u] = detail::first_seen(rule, offsets, seen, static_cast<Index>(u));
  }
  for (Index v0 = rule.first; v0 < rule.last && k > 0; v0 += block) {
    const Index v1 = std::min<Index>(rule.last, v0 + block);
    const auto rows = table.slice_rows(v0, v1);
    if (users < few) {
      for (Index u = 0; u < users; ++u) {
        cpu::score_rows(queries.row(u), rows, part.row(u));
      }
    } else {
      cpu::score(lane, queries, rows, part.slice_cols(0, v1 - v0));
    }
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      T* row = part.row(u);
      detail::hide_seen(rule, offsets, seen, u, v0, v1, simd::never<T>, next_seen[at], row);
      best[at].offer(row, v0, v1);
    }
  }
  for (Index u = 0; u < users; ++u) {
    const auto kept = best[static_cast<std::size_t>(u)].sorted();
    found[static_cast<std::size_t>(u)] = ssize(kept);
    for (Index i = 0; i < ssize(kept); ++i) {
      scores(u, i) = kept[static_cast<std::size_t>(i)].score;
      items[static_cast<std::size_t>(u * k + i)] = kept[static_cast<std::size_t>(i)].item;
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
