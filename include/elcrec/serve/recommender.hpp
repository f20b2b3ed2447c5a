#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/model/sequential_model.hpp"

namespace elcrec {

struct Recommendation {
  ItemId item;
  float score;
};

/// The intent behind a history: the nearest center to the normalised mean encoding, and how far the runner-up is.
struct IntentMatch {
  Index intent = 0;
  float distance = 0;  ///< Euclidean
  Index runner_up = 0;
  float runner_up_distance = 0;  ///< infinite when there is one intent only
};

/// What candidates are found by. The answers are the same.
enum class ScoreTable {
  model,    ///< the model's own item table
  compact,  ///< where the backend has one, an index of a quarter of its size, by which most items can be ruled out
};

namespace detail {

/// A lane's own index of an item table, or a stand-in where it has none.
template <class Lane>
struct ItemIndexOf {
  struct None {};
  using Type = None;
};
template <class Lane>
  requires requires { typename Lane::ItemIndex; }
struct ItemIndexOf<Lane> {
  using Type = typename Lane::ItemIndex;
};

}  // namespace detail

/// Answers "what next, and which intent" from a trained model. Const and, but for recommend_batch, safe to call from
/// any number of threads, each with a Scratch of its own; after a first call with the longest history and the largest k
/// nothing is allocated. Refers to the model: keep it alive and do not train it meanwhile. Needs a backend in host
/// memory.
template <class Model>
class Recommender {
 public:
  using Scalar = typename Model::Scalar;
  /// Whether the backend's lanes have an index of their own for exact top k.
  static constexpr bool has_index = requires { typename Model::Lane::ItemIndex; };

  /// Working memory of one thread.
  class Scratch {
   private:
    friend Recommender;
    typename Model::Lane lane;
    TokenBatch batch;
    std::vector<ItemId> seen;
    std::vector<std::int32_t> offsets;
    std::vector<Scalar> scores;  // (U, k)
    std::vector<ItemId> items;   // (U, k)
    std::vector<Index> found;    // (U)
    std::vector<Recommendation> result;
  };

  /// Working memory and results of recommend_batch.
  class BatchScratch {
   public:
    /// The recommendations for history u of the last batch, best first.
    [[nodiscard]] std::span<const Recommendation> of(Index u) const {
      return slice(std::span<const Recommendation>(result), u * k, u * k + counts[static_cast<std::size_t>(u)]);
    }

   private:
    friend Recommender;
    std::vector<Scratch> parts;
    std::vector<Recommendation> result;  // (U, k)
    std::vector<Index> counts;
    Index k = 0;
  };

  explicit Recommender(const Model& model, ScoreTable table = ScoreTable::compact) : model_(model) {
    if constexpr (has_index) {
      if (table == ScoreTable::compact) {
        index_.emplace(model.items());
      }
    }
  }

  /// The k best items after `history` (rows of the item table, oldest first; only the last L count), best first, items
  /// of the history left out unless `repeat` is set. Valid until the scratch is used again. Throws ArgumentError for an
  /// empty history, an id outside 1..item_count() or k < 1. Fewer than k only when the catalogue runs out.
  std::span<const Recommendation> recommend(std::span<const ItemId> history, Index k, Scratch& scratch,
                                            bool repeat = false) const {
    const Index wanted = checked(k);
    start(Padding::masked, scratch);  // scores are the same under both paddings
    add(history, scratch);
    rank(scratch.lane, wanted, repeat, scratch);
    scratch.result.resize(static_cast<std::size_t>(wanted));
    write_results(scratch, wanted, scratch.result.data());
    return slice(std::span<const Recommendation>(scratch.result), 0, scratch.found[0]);
  }

  /// The same for many histories at once, on the threads of the model's backend (so not from two threads at a time):
  /// scratch.of(u) is the answer for histories[u]. One product scores a block of items for many users, whose scores may
  /// differ from recommend's in the last bits.
  void recommend_batch(std::span<const std::span<const ItemId>> histories, Index k, BatchScratch& scratch,
                       bool repeat = false) const {
    const Index wanted = checked(k);
    const Index users = ssize(histories);
    constexpr Index grain = 64;
    scratch.k = wanted;
    scratch.result.resize(static_cast<std::size_t>(users * wanted));
    scratch.counts.resize(static_cast<std::size_t>(users));
    scratch.parts.resize(std::max(scratch.parts.size(), static_cast<std::size_t>((users + grain - 1) / grain)));
    model_.backend().parallel_blocks(users, grain, [&](auto& lane, Index first, Index last) {
      Scratch& part = scratch.parts[static_cast<std::size_t>(first / grain)];
      start(Padding::masked, part);
      for (Index u = first; u < last; ++u) {
        add(histories[static_cast<std::size_t>(u)], part);
      }
      rank(lane, wanted, repeat, part);
      write_results(part, wanted, scratch.result.data() + first * wanted);
      std::copy(part.found.begin(), part.found.end(), scratch.counts.begin() + first);
    });
  }

  /// The intent behind `history`; errors as for recommend. Padding is the model's own: it is part of what the centers
  /// were trained on.
  IntentMatch intent(std::span<const ItemId> history, Scratch& scratch) const requires Model::has_clusters {
    start(model_.padding, scratch);
    add(history, scratch);
    auto& lane = scratch.lane;
    const auto frame = lane.workspace().frame();
    const auto& clusters = model_.clusters;
    const auto norm = lane.workspace().template matrix<Scalar>(1, 1);
    const auto user = lane.workspace().template matrix<Scalar>(1, clusters.hidden());
    if (clusters.hidden() == model_.hidden()) {
      model_.encode_mean(lane, scratch.batch.view(), user);
    } else {
      model_.encode(lane, scratch.batch.view(), [&](auto x) { lane.concat_pool(scratch.batch.view(), x, user); });
    }
    lane.normalize_rows(user, norm, user);
    IntentMatch match{.distance = INFINITY, .runner_up_distance = INFINITY};
    const auto center = lane.workspace().template matrix<Scalar>(1, clusters.hidden());
    for (Index j = 0; j < clusters.count(); ++j) {
      lane.normalize_rows(clusters.centers().slice_rows(j, j + 1), norm, center);
      lane.add_scaled(Scalar(-1), user, center);
      lane.normalize_rows(center, norm, center);
      const auto distance = static_cast<float>(norm(0, 0));
      if (distance < match.distance) {
        match = {j, distance, match.intent, match.distance};
      } else if (distance < match.runner_up_distance) {
        match.runner_up = j;
        match.runner_up_distance = distance;
      }
    }
    return match;
  }

 private:
  /// k, or the whole catalogue if that is smaller.
  [[nodiscard]] Index checked(Index k) const {
    require(k >= 1, "recommend: found k = ", k, ", expected at least 1");
    return std::min(k, model_.item_count());
  }

  void start(Padding padding, Scratch& scratch) const {
    scratch.batch.start(model_.max_length(), padding);
    scratch.seen.clear();
    scratch.offsets.assign(1, 0);
  }

  void add(std::span<const ItemId> history, Scratch& scratch) const {
    require(!history.empty(), "history: found no items, expected at least one");
    for (const ItemId item : history) {
      require(item >= 1 && item <= model_.item_count(), "history: found item ", item, ", expected 1 to ",
              model_.item_count());
    }
    scratch.batch.add(history);
    scratch.seen.insert(scratch.seen.end(), history.begin(), history.end());
    std::sort(scratch.seen.begin() + scratch.offsets.back(), scratch.seen.end());
    scratch.offsets.push_back(static_cast<std::int32_t>(scratch.seen.size()));
  }

  /// Encodes the batch and ranks the items: scores, items and found of the scratch.
  void rank(typename Model::Lane& lane, Index k, bool repeat, Scratch& scratch) const {
    const Index users = ssize(scratch.offsets) - 1;
    scratch.scores.resize(static_cast<std::size_t>(users * k));
    scratch.items.resize(static_cast<std::size_t>(users * k));
    scratch.found.resize(static_cast<std::size_t>(users));
    const auto frame = lane.workspace().frame();
    const auto queries = lane.workspace().template matrix<Scalar>(users, model_.hidden());
    model_.encode_last(lane, scratch.batch.view(), queries);
    const RankingRule rule{.seen = repeat ? RankingRule::Seen::keep : RankingRule::Seen::exclude,
                           .first = 1,
                           .last = static_cast<ItemId>(model_.item_count() + 1)};
    const MatrixView<Scalar> scores(scratch.scores.data(), users, k);
    if constexpr (has_index) {
      if (index_) {
        lane.top_k(rule, queries, model_.items(), *index_, scratch.offsets, scratch.seen, scores, scratch.items,
                   scratch.found);
        return;
      }
    }
    lane.top_k(rule, queries, model_.items(), scratch.offsets, scratch.seen, scores, scratch.items, scratch.found);
  }

  static void write_results(const Scratch& scratch, Index k, Recommendation* to) {
    for (std::size_t u = 0; u < scratch.found.size(); ++u) {
      for (Index i = 0; i < scratch.found[u]; ++i) {
        const std::size_t at = u * static_cast<std::size_t>(k) + static_cast<std::size_t>(i);
        to[at] = {scratch.items[at], static_cast<float>(scratch.scores[at])};
      }
    }
  }

  const Model& model_;
  std::optional<typename detail::ItemIndexOf<typename Model::Lane>::Type> index_;
};

}  // namespace elcrec
