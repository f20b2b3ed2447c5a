#pragma once

#include <algorithm>
#include <cmath>
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

/// Answers "what next, and which intent" from a trained model. Const and safe to call from any number of threads, each
/// with a Scratch of its own; after a first call with the longest history and the largest k nothing is allocated.
/// Refers to the model: keep it alive and do not train it meanwhile. Needs a backend in host memory.
template <class Model>
class Recommender {
 public:
  using Scalar = typename Model::Scalar;

  /// Working memory of one thread.
  class Scratch {
   private:
    friend Recommender;
    typename Model::Lane lane;
    TokenBatch batch;
    std::vector<ItemId> seen;
    std::vector<Scalar> scores;
    std::vector<ItemId> items;
    std::vector<Recommendation> result;
  };

  explicit Recommender(const Model& model) : model_(model) {}

  /// The k best items after `history` (rows of the item table, oldest first; only the last L count), best first, items
  /// of the history left out unless `repeat` is set. Valid until the scratch is used again. Throws ArgumentError for an
  /// empty history, an id outside 1..item_count() or k < 1. Fewer than k only when the catalogue runs out.
  std::span<const Recommendation> recommend(std::span<const ItemId> history, Index k, Scratch& scratch,
                                            bool repeat = false) const {
    require(k >= 1, "recommend: found k = ", k, ", expected at least 1");
    load(history, Padding::masked, scratch);  // scores are the same under both paddings
    auto& lane = scratch.lane;
    const auto frame = lane.workspace().frame();
    const auto query = lane.workspace().template matrix<Scalar>(1, model_.hidden());
    model_.encode_last(lane, scratch.batch.view(), query);
    scratch.seen.assign(history.begin(), history.end());
    std::sort(scratch.seen.begin(), scratch.seen.end());
    const auto wanted = static_cast<std::size_t>(std::min(k, model_.item_count()));
    scratch.scores.resize(wanted);
    scratch.items.resize(wanted);
    const RankingRule rule{.seen = repeat ? RankingRule::Seen::keep : RankingRule::Seen::exclude,
                           .first = 1,
                           .last = static_cast<ItemId>(model_.item_count() + 1)};
    const Index found = lane.top_k(rule, query, model_.items(), scratch.seen, scratch.scores, scratch.items);
    scratch.result.clear();
    scratch.result.reserve(wanted);
    for (std::size_t i = 0; i < static_cast<std::size_t>(found); ++i) {
      scratch.result.push_back({scratch.items[i], static_cast<float>(scratch.scores[i])});
    }
    return scratch.result;
  }

  /// The intent behind `history`; errors as for recommend. Padding is the model's own: it is part of what the centers
  /// were trained on.
  IntentMatch intent(std::span<const ItemId> history, Scratch& scratch) const requires Model::has_clusters {
    load(history, model_.padding, scratch);
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
  void load(std::span<const ItemId> history, Padding padding, Scratch& scratch) const {
    require(!history.empty(), "history: found no items, expected at least one");
    for (const ItemId item : history) {
      require(item >= 1 && item <= model_.item_count(), "history: found item ", item, ", expected 1 to ",
              model_.item_count());
    }
    scratch.batch.start(model_.max_length(), padding);
    scratch.batch.add(history);
  }

  const Model& model_;
};

}  // namespace elcrec
