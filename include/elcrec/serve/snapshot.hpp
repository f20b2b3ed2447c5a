#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/io/loaded_model.hpp"
#include "elcrec/serve/recommender.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// An item by the host's id for it.
struct NamedRecommendation {
  std::int64_t name;
  float score;
};

/// What becomes of ids in a history that the vocabulary lacks.
enum class UnknownItems {
  refuse,  ///< ArgumentError names the first
  ignore,  ///< answers come from the rest of the history
};

/// All that serving needs, in one object that never changes: weights, vocabulary, intents, and an index of the items.
/// Histories and answers are in the host's ids. Const and safe to call from any number of threads, each with a Scratch
/// of its own; nothing is allocated once a scratch has seen the longest history and the largest k.
///
/// The model is the snapshot's own. Of a model in training, between two steps, hand over `clone(model, backend)` (see
/// nn/clone.hpp) with a backend for serving, which successive snapshots may share: recommend_batch then does not wait
/// for training's regions. A plain copy shares the pool with the original. A snapshot stays where it was made; hold it
/// by a shared_ptr where it outlives a scope, and publish the next by a Slot.
template <class Model>
class Snapshot {
  using Rows = Recommender<Model>;

 public:
  using Backend = typename Model::Backend;

  /// Working memory of one thread, for any snapshots of this type one after the other: it grows where a model is
  /// larger. On a device it belongs to the backend that it was made for and serves the snapshots there.
  class Scratch {
   public:
    Scratch() requires std::default_initializable<typename Rows::Scratch>
    = default;
    explicit Scratch(const Backend& backend) : rows(backend) {}

    /// How many items of the last history the vocabulary lacked.
    [[nodiscard]] Index unknown() const { return missing; }

   private:
    friend Snapshot;
    typename Rows::Scratch rows;
    std::vector<ItemId> known;  // rows of the history's items
    Index missing = 0;
    std::vector<NamedRecommendation> result;
  };

  /// Working memory and results of recommend_batch, for any snapshots of this type as well.
  class BatchScratch {
   public:
    /// The recommendations for history u of the last batch, best first.
    [[nodiscard]] std::span<const NamedRecommendation> of(Index u) const {
      const auto at = static_cast<std::size_t>(u);
      return slice(std::span<const NamedRecommendation>(result), offsets[at], offsets[at + 1]);
    }

   private:
    friend Snapshot;
    typename Rows::BatchScratch rows;
    std::vector<ItemId> known;                       // rows of all histories' items
    std::vector<Index> ends;                         // of each history in `known`, after a 0
    std::vector<std::span<const ItemId>> histories;  // those that are ranked for
    std::vector<UserId> users;                       // theirs, where they are given
    std::vector<NamedRecommendation> result;
    std::vector<Index> offsets;  // of each history's answer in `result`
  };

  /// Throws ArgumentError if there is not one id for each item, DivergenceError if the model holds numbers that are not
  /// finite.
  Snapshot(Model model, ItemMap items, ScoreTable table = ScoreTable::compact)
      : model_(std::move(model)), items_(checked(std::move(items), model_)), recommender_(model_, table) {}
  /// Of a file: `Snapshot(load_model<Model>(path, backend))`.
  explicit Snapshot(LoadedModel<Model> loaded, ScoreTable table = ScoreTable::compact)
      : Snapshot(std::move(loaded.model), std::move(loaded.items), table) {}
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const ItemMap& items() const { return items_; }
  /// The same answers in rows of the item table.
  [[nodiscard]] const Recommender<Model>& recommender() const { return recommender_; }
  [[nodiscard]] Scratch make_scratch() const { return Scratch(model_.backend()); }

  /// The k best items after `history` (oldest first), best first, items of the history left out unless `repeat` is set.
  /// Valid until the scratch is used again. Fewer than k when the catalogue runs out; none when all of the history is
  /// unknown and ignored. `user` is for models that look at users, a row of theirs (see Recommender). Throws
  /// ArgumentError for an empty history, k < 1 and unknown items that are refused.
  std::span<const NamedRecommendation> recommend(std::span<const std::int64_t> history, Index k, Scratch& scratch,
                                                 UnknownItems unknown, bool repeat = false, UserId user = 0) const {
    find(history, unknown, scratch);
    scratch.result.clear();
    if (answers(history, ssize(scratch.known))) {
      for (const auto& [item, score] : recommender_.recommend(scratch.known, k, scratch.rows, repeat, user)) {
        scratch.result.push_back({items_.name(item), score});
      }
    }
    return scratch.result;
  }

  /// The same for many histories at once, as Recommender::recommend_batch: scratch.of(u) is the answer for
  /// histories[u], of user_rows[u] where these are given.
  void recommend_batch(std::span<const std::span<const std::int64_t>> histories, Index k, BatchScratch& scratch,
                       UnknownItems unknown, bool repeat = false, std::span<const UserId> user_rows = {}) const {
    require(user_rows.empty() || user_rows.size() == histories.size(), "recommend: found ", user_rows.size(),
            " users for ", histories.size(), " histories, expected as many or none");
    scratch.known.clear();
    scratch.ends.assign(1, 0);
    for (const auto history : histories) {
      add_rows(history, unknown, scratch.known);
      scratch.ends.push_back(ssize(scratch.known));
    }
    const auto rows_of = [&](std::size_t u) {
      return slice(std::span<const ItemId>(scratch.known), scratch.ends[u], scratch.ends[u + 1]);
    };
    scratch.histories.clear();
    scratch.users.clear();
    for (std::size_t u = 0; u < histories.size(); ++u) {
      if (answers(histories[u], ssize(rows_of(u)))) {
        scratch.histories.push_back(rows_of(u));
        if (!user_rows.empty()) {
          scratch.users.push_back(user_rows[u]);
        }
      }
    }
    recommender_.recommend_batch(scratch.histories, k, scratch.rows, repeat, scratch.users);
    scratch.result.clear();
    scratch.offsets.assign(1, 0);
    Index ranked = 0;
    for (std::size_t u = 0; u < histories.size(); ++u) {
      if (answers(histories[u], ssize(rows_of(u)))) {
        for (const auto& [item, score] : scratch.rows.of(ranked++)) {
          scratch.result.push_back({items_.name(item), score});
        }
      }
      scratch.offsets.push_back(ssize(scratch.result));
    }
  }

  /// The intent behind `history`. Errors as for recommend; ArgumentError as well when nothing of it is known.
  IntentMatch intent(std::span<const std::int64_t> history, Scratch& scratch,
                     UnknownItems unknown) const requires Model::has_clusters {
    find(history, unknown, scratch);
    require(answers(history, ssize(scratch.known)), "history: found ", history.size(),
            " items of which the vocabulary has none, expected at least one that it has");
    return recommender_.intent(scratch.known, scratch.rows);
  }

 private:
  static ItemMap checked(ItemMap items, const Model& model) {
    require(items.size() == model.item_count(), "snapshot: found ", items.size(),
            " item ids, expected one for each of the model's ", model.item_count(), " items");
    return items;
  }

  /// Whether a history with so many known items gets an answer: an empty one gets the recommender's error.
  static bool answers(std::span<const std::int64_t> history, Index known) { return known > 0 || history.empty(); }

  void find(std::span<const std::int64_t> history, UnknownItems unknown, Scratch& scratch) const {
    scratch.known.clear();
    add_rows(history, unknown, scratch.known);
    scratch.missing = ssize(history) - ssize(scratch.known);
  }

  void add_rows(std::span<const std::int64_t> history, UnknownItems unknown, std::vector<ItemId>& rows) const {
    for (const std::int64_t name : history) {
      const auto row = items_.find(name);
      require(row.has_value() || unknown == UnknownItems::ignore, "history: found item ", name,
              ", which the vocabulary of ", items_.size(), " items lacks");
      if (row.has_value()) {
        rows.push_back(*row);
      }
    }
  }

  Model model_;
  ItemMap items_;
  Recommender<Model> recommender_;  // of model_
};

}  // namespace elcrec::inline ELCREC_TARGET
