#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

#include "elcrec/backend/cpu/shorts.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"
#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// An item table in 8 bits that finds the few items worth scoring exactly. With e = s ê + r and q = t q̂ + ρ, where ê
/// and q̂ are small integers, the Cauchy-Schwarz inequality bounds what rounding may do to a score:
///
///   |q·e - t s q̂·ê| <= |q| |r| + |ρ| s |ê| =: m
///
/// so an item whose integer score lies more than 2m below the k-th best integer score cannot be among the k best.
/// The scales are chosen so that |q̂| |ê| < 2^15: a score fits 16 bits, whatever its partial sums do modulo 2^16.
///
/// Holds V·D bytes. Immutable after construction: any number of threads may read it.
template <class T>
class ItemIndex {
 public:
  /// Items of a group stand side by side in a register: pair p of columns of item i at bytes 2 i, 2 i + 1 of vector p.
  static constexpr Index group = simd::shorts;

  /// Of no items, and not usable.
  ItemIndex() = default;

  /// table (V, D), read now and not again.
  explicit ItemIndex(MatrixView<const T> table)
      : columns_(table.cols()), pairs_((table.cols() + 1) / 2), groups_((table.rows() + group - 1) / group) {
    double largest = 0;
    for (Index v = 0; v < table.rows(); ++v) {
      double square = 0;
      for (Index c = 0; c < columns_; ++c) {
        const auto e = static_cast<double>(table(v, c));
        largest = (std::max)(largest, std::abs(e));
        square += e * e;
      }
      norm_ = (std::max)(norm_, std::sqrt(square));
    }
    usable_ = is_finite(norm_) && norm_ > 0 && columns_ <= most_columns;
    if (!usable_) {
      return;
    }
    scale_ = (std::max)(norm_ / (std::sqrt(largest_score) - rounding_norm()), largest / 127);
    bytes_ = HostBuffer<std::uint8_t>(groups_ * pairs_ * simd::register_bytes, {});
    std::fill_n(bytes_.data(), bytes_.size(), static_cast<std::uint8_t>(zero));
    for (Index v = 0; v < table.rows(); ++v) {
      double square = 0;
      double residual = 0;
      for (Index c = 0; c < columns_; ++c) {
        const auto e = static_cast<double>(table(v, c));
        const double rounded = std::clamp(std::nearbyint(e / scale_), -127.0, 127.0);
        square += rounded * rounded;
        residual += (e - scale_ * rounded) * (e - scale_ * rounded);
        bytes_.data()[place(v, c)] = static_cast<std::uint8_t>(zero + static_cast<int>(rounded));
      }
      integer_norm_ = (std::max)(integer_norm_, std::sqrt(square));
      residual_norm_ = (std::max)(residual_norm_, std::sqrt(residual));
    }
  }

  /// Whether there are bounds at all: not for empty tables or tables of zeros, of what is not finite, or of very many
  /// columns.
  [[nodiscard]] bool usable() const { return usable_; }
  [[nodiscard]] Index pairs() const { return pairs_; }
  /// Bytes held.
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(bytes_.size()); }
  /// The vectors of group g, one a pair.
  [[nodiscard]] const std::uint8_t* vectors(Index g) const { return bytes_.data() + g * pairs_ * simd::register_bytes; }

  static constexpr double unbounded = (std::numeric_limits<double>::max)();

  /// A query made ready.
  struct Query {
    const std::int8_t* vectors = nullptr;  ///< each pair of q̂ repeated over a register
    std::int16_t start = 0;                ///< what a sum starts from: takes away the items' offset of `zero`
    std::int32_t margin = 0;               ///< 2m in units of t s, rounded up
    double unit = 0;                       ///< t s
    double bound = 0;                      ///< m; `unbounded` where q is not finite

    [[nodiscard]] bool finite() const { return bound < unbounded; }
  };

  /// Fills `vectors`, pairs() registers.
  [[nodiscard]] Query prepare(const T* q, std::int8_t* vectors) const {
    using V = simd::Pack<T>;
    constexpr Index w = simd::width<T>;
    const auto part = [&](Index c) {  // w columns from c on, zeros behind the last
      if (c + w <= columns_) {
        return simd::load(q + c);
      }
      T rest[static_cast<std::size_t>(w)] = {};
      std::copy(q + c, q + columns_, rest);
      return simd::load<T>(rest);
    };
    V squares{};
    V largest{};
    for (Index c = 0; c < columns_; c += w) {
      const V v = part(c);
      const V size = v < T(0) ? -v : v;
      squares += v * v;
      largest = largest > size ? largest : size;
    }
    const double norm = std::sqrt(static_cast<double>(simd::sum<T>(squares)));
    if (!is_finite(norm)) {
      std::fill_n(vectors, pairs_ * simd::register_bytes, std::int8_t{0});
      return {.vectors = vectors, .margin = widest, .unit = 1, .bound = unbounded};
    }
    const T unit = static_cast<T>((std::max)({norm / (largest_score / integer_norm_ - rounding_norm()),
                                              static_cast<double>(simd::maximum<T>(largest)) / query_limit,
                                              static_cast<double>((std::numeric_limits<T>::min)())}));
    const T inverse = T(1) / unit;
    V residuals{};
    V sums{};
    for (Index c = 0; c < columns_; c += w) {
      const V v = part(c);
      const V rounded = simd::round(v * inverse);
      const V residual = v - unit * rounded;
      residuals += residual * residual;
      sums += rounded;
      for (Index i = 0; i < w && c + i < columns_; i += 2) {
        const std::int8_t pair[2] = {static_cast<std::int8_t>(rounded[i]), static_cast<std::int8_t>(rounded[i + 1])};
        std::int16_t both;
        std::memcpy(&both, pair, sizeof(both));
        auto* const to = vectors + (c + i) / 2 * simd::register_bytes;
        simd::store_shorts(reinterpret_cast<std::int16_t*>(to), simd::broadcast_short(both));
      }
    }
    // The last term: exact scores are sums of D products in T, each rounded, and so are the norms here.
    const double bound =
        norm * residual_norm_ + std::sqrt(static_cast<double>(simd::sum<T>(residuals))) * scale_ * integer_norm_ +
        2 * static_cast<double>(std::numeric_limits<T>::epsilon()) * static_cast<double>(columns_ + 1) * norm * norm_;
    const double score_unit = static_cast<double>(unit) * scale_;
    const double margin = 2 * bound / score_unit;
    const auto sum = static_cast<int>(simd::sum<T>(sums));
    return {vectors, static_cast<std::int16_t>(static_cast<std::uint16_t>(-zero * sum)),
            margin < widest ? static_cast<std::int32_t>(std::ceil(margin)) : widest, score_unit, bound};
  }

  /// No score is farther than this from another.
  static constexpr std::int32_t widest = 1 << 16;

 private:
  static constexpr double largest_score = 32700;
  static constexpr double query_limit = 63;  // two products of 255 and 63 do not saturate 16 bits
  static constexpr int zero = 128;           // items are stored unsigned
  static constexpr Index most_columns = 4096;

  /// What rounding may add to the norm of a vector of integers.
  [[nodiscard]] double rounding_norm() const { return 0.5 * std::sqrt(static_cast<double>(columns_)); }
  [[nodiscard]] Index place(Index v, Index c) const {
    return ((v / group) * pairs_ + c / 2) * simd::register_bytes + v % group * 2 + c % 2;
  }

  Index columns_ = 0;
  Index pairs_ = 0;
  Index groups_ = 0;
  bool usable_ = false;
  double norm_ = 0;                 // of the longest item
  double scale_ = 0;                // s
  double integer_norm_ = 0;         // largest |ê|
  double residual_norm_ = 0;        // largest |r|
  HostBuffer<std::uint8_t> bytes_;  // aligned: registers that lie across two cache lines cost a tenth of the time
};

namespace detail {

/// scores[u * stride + i] = q̂_u · ê_i for `Users` queries and the items of `Groups` groups from group g on.
template <int Users, int Groups, class T>
inline void score_groups(const ItemIndex<T>& index, const typename ItemIndex<T>::Query* queries, Index g,
                         std::int16_t* scores, Index stride) {
  simd::Shorts sums[static_cast<std::size_t>(Users)][static_cast<std::size_t>(Groups)];
  for (int u = 0; u < Users; ++u) {
    for (int i = 0; i < Groups; ++i) {
      sums[u][i] = simd::broadcast_short(queries[u].start);
    }
  }
  const std::uint8_t* items = index.vectors(g);
  const Index next_group = index.pairs() * simd::register_bytes;
#pragma GCC unroll 4
  for (Index at = 0; at < next_group; at += simd::register_bytes) {
    simd::Bytes item[static_cast<std::size_t>(Groups)];
    for (int i = 0; i < Groups; ++i) {
      item[i] = simd::load_bytes(items + i * next_group + at);
      if constexpr (Users == 1) {  // what the next call reads: one query is done before the memory has brought it
        __builtin_prefetch(items + (Groups + i) * next_group + at);
      }
    }
    for (int u = 0; u < Users; ++u) {
      auto query = simd::load_bytes(queries[u].vectors + at);
      simd::hold(query);  // loads, not products, would be the limit
      for (int i = 0; i < Groups; ++i) {
        sums[u][i] = simd::add_pair_products(sums[u][i], item[i], query);
      }
    }
  }
  for (int u = 0; u < Users; ++u) {
    for (int i = 0; i < Groups; ++i) {
      simd::store_shorts(scores + u * stride + i * simd::shorts, sums[u][i]);
    }
  }
}

/// score_groups<users, ...> for `count` groups.
template <int Users, class T>
inline void score_run(const ItemIndex<T>& index, const typename ItemIndex<T>::Query* queries, Index g, Index count,
                      std::int16_t* scores, Index stride) {
  constexpr int at_once = Users == 1 ? 4 : 2;  // accumulators enough to hide the latency, and not too many
  Index i = 0;
  for (; i + at_once <= count; i += at_once) {
    score_groups<Users, at_once>(index, queries, g + i, scores + i * simd::shorts, stride);
  }
  for (; i < count; ++i) {
    score_groups<Users, 1>(index, queries, g + i, scores + i * simd::shorts, stride);
  }
}

/// The k-th largest of values[0 .. n), n a multiple of simd::shorts_of_word; the least short where there are fewer than
/// k. Bit by bit from the top: sixteen counts, no branches that depend on the values.
inline std::int32_t kth_largest(const std::int16_t* values, Index n, Index k) {
  std::int32_t found = (std::numeric_limits<std::int16_t>::min)();
  for (std::int32_t bit = 1 << 15; bit > 0; bit >>= 1) {
    Index count = 0;
    for (Index i = 0; i < n; i += simd::shorts_of_word) {
      count += std::popcount(simd::shorts_above(values + i, static_cast<std::int16_t>(found + bit - 1)));
    }
    found += count >= k ? bit : 0;
  }
  return found;
}

/// Moves the elements that `wanted` holds for to the front, in their order, and returns how many they are. Without
/// branches: which elements they are is hard to foretell.
template <class E, class F>
inline Index to_front(std::span<E> elements, F wanted) {
  std::size_t front = 0;
  for (E& element : elements) {
    const E here = element;
    element = elements[front];
    elements[front] = here;
    front += wanted(here) ? 1U : 0U;
  }
  return static_cast<Index>(front);
}

/// Items that may be among the k best by their integer scores: everything that is not below the k-th best so far by
/// more than the margin. What is seen is dealt out to a few subsets, of which only the best scores are kept: the
/// k-th largest of these is a lower bound of the k-th best, and close to it where there are several times k subsets.
class Shortlist {
 public:
  struct Entry {
    std::int32_t score;
    ItemId item;
  };

  /// Scores that have a leader, the best of them: those at the same place of so many registers one after the other.
  /// Most items are ruled out with their leaders.
  static constexpr Index of_leader = 4;
  /// Items that are seen at once: a word of leaders.
  static constexpr Index block = of_leader * simd::shorts_of_word;

  /// Subsets that serve k, a multiple of simd::shorts_of_word.
  static constexpr Index subsets(Index k) {
    return (std::max<Index>(128, 4 * k) + simd::shorts_of_word - 1) / simd::shorts_of_word * simd::shorts_of_word;
  }

  /// `room` for at least a block of entries, `best` for subsets(k) scores.
  Shortlist(std::span<Entry> room, std::span<std::int16_t> best, Index k, std::int32_t margin)
      : room_(room), best_(best), k_(k), margin_(margin) {
    std::fill(best.begin(), best.end(), (std::numeric_limits<std::int16_t>::min)());
  }

  /// Sees the scores of a block of items and writes their leaders. The least short is no candidate.
  void see(const std::int16_t* scores, std::int16_t* leaders) {
    for (Index i = 0; i < simd::shorts_of_word; i += simd::shorts) {
      simd::Shorts leader = simd::load_shorts(scores + of_leader * i);
      for (Index j = 1; j < of_leader; ++j) {
        leader = simd::larger(leader, simd::load_shorts(scores + of_leader * i + j * simd::shorts));
      }
      std::int16_t* best = best_.data() + next_subset_ + i;
      simd::store_shorts(leaders + i, leader);
      simd::store_shorts(best, simd::larger(leader, simd::load_shorts(best)));
    }
    next_subset_ += simd::shorts_of_word;
    next_subset_ = next_subset_ == ssize(best_) ? 0 : next_subset_;
  }

  /// Takes in `blocks` blocks of items from v0 on with these scores and leaders, all of which have been seen before:
  /// the more have been, the fewer pass.
  void take(const std::int16_t* scores, const std::int16_t* leaders, Index v0, Index blocks) {
    raise();
    constexpr Index at_once = 8;  // blocks whose scores are asked for before the first is looked at: they are far away
    std::int32_t places[at_once * simd::shorts_of_word];  // of those with a leader above the threshold, the first each
    for (Index b0 = 0; b0 < blocks; b0 += at_once) {
      Index found = 0;
      for (Index b = b0; b < (std::min)(blocks, b0 + at_once); ++b) {
        for (auto bits = simd::shorts_above(leaders + b * simd::shorts_of_word, threshold_); bits != 0;
             bits &= bits - 1) {
          const Index leader = std::countr_zero(bits);
          const Index at = b * block + leader / simd::shorts * simd::shorts * of_leader + leader % simd::shorts;
          places[found++] = static_cast<std::int32_t>(at);
          __builtin_prefetch(scores + at);
          __builtin_prefetch(scores + at + (of_leader - 1) * simd::shorts);
        }
      }
      if (count_ + found * of_leader > ssize(room_)) {
        count_ = drop(count_);
        if (count_ + found * of_leader > ssize(room_)) {
          overflowed_ = true;
          break;
        }
      }
      for (Index i = 0; i < found; ++i) {
        for (Index j = 0; j < of_leader; ++j) {  // put down without asking which of them it is
          const Index at = places[i] + j * simd::shorts;
          room_[static_cast<std::size_t>(count_)] = {scores[at], static_cast<ItemId>(v0 + at)};
          count_ += scores[at] > threshold_ ? 1 : 0;
        }
      }
    }
  }

  struct Candidates {
    std::span<Entry> sure;  ///< by their integer scores among the k best of what has been seen, or equal to the k-th
    std::span<Entry> rest;
  };
  Candidates candidates() {
    const Index n = drop(count_);
    const Index sure = to_front(slice(room_, 0, n), [&](const Entry& e) { return e.score >= kth_; });
    return {slice(room_, 0, sure), slice(room_, sure, n)};
  }
  /// Whether candidates had to be left out.
  [[nodiscard]] bool overflowed() const { return overflowed_; }

 private:
  /// Raises the threshold to what has been seen so far.
  void raise() {
    constexpr std::int32_t lowest = (std::numeric_limits<std::int16_t>::min)();
    kth_ = kth_largest(best_.data(), ssize(best_), k_);
    threshold_ = static_cast<std::int16_t>((std::max)(kth_ - margin_ - 1, lowest));
  }

  /// Drops those of the first n entries that the threshold has overtaken; returns how many are left.
  Index drop(Index n) {
    return to_front(slice(room_, 0, n), [&](const Entry& e) { return e.score > threshold_; });
  }

  std::span<Entry> room_;
  std::span<std::int16_t> best_;  // of each subset
  Index k_;
  std::int32_t margin_;
  Index count_ = 0;
  Index next_subset_ = 0;
  std::int32_t kth_ = (std::numeric_limits<std::int16_t>::min)();
  std::int16_t threshold_ = (std::numeric_limits<std::int16_t>::min)();
  bool overflowed_ = false;
};

}  // namespace detail
}  // namespace elcrec::inline ELCREC_TARGET
