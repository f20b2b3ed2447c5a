#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/model/sequential_model.hpp"
#include "elcrec/nn/sums_of_squares.hpp"

namespace elcrec::inline ELCREC_TARGET {

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
  struct NoIndex {};
  using Type = NoIndex;
};
template <class Lane>
  requires requires { typename Lane::ItemIndex; }
struct ItemIndexOf<Lane> {
  using Type = typename Lane::ItemIndex;
};

}  // namespace detail

/// Answers "what next, and which intent" from a trained model. Const and safe to call from any number of threads, each
/// with a Scratch of its own (recommend_batch: where the backend is); after a first call with the longest history and
/// the largest k nothing is allocated. Refers to the model: keep it alive and do not train it meanwhile.
template <class Model>
class Recommender {
 public:
  using Scalar = typename Model::Scalar;
  using Backend = typename Model::Backend;
  using Lane = typename Model::Lane;
  static_assert(operation::Ranking<Lane>, "Recommender: the lane lacks operations of operation::Ranking");
  /// Whether the backend's lanes have an index of their own for exact top k.
  static constexpr bool has_index = requires { typename Model::Lane::ItemIndex; };

 private:
  using ItemIndex = typename detail::ItemIndexOf<Lane>::Type;

  /// Histories of a batch and what the ranking says about them, in host memory.
  struct Request {
    TokenBatch batch;
    std::vector<ItemId> seen;
    std::vector<std::int32_t> offsets;
    std::vector<Scalar> scores;  // (U, k)
    std::vector<ItemId> items;   // (U, k)
    std::vector<Index> found;    // (U)
    std::vector<Recommendation> result;
  };

 public:
  /// Working memory of one thread: on a device with a stream of its own.
  class Scratch {
   public:
    Scratch() requires std::default_initializable<Lane>
    = default;
    explicit Scratch(const Backend& backend) : lane(backend.make_lane()) {}

   private:
    friend Recommender;
    Lane lane;
    Request request;
    std::vector<Scalar> distances;  // (K) of intents
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
    std::vector<Request> parts;
    std::vector<Recommendation> result;  // (U, k)
    std::vector<Index> counts;
    Index k = 0;
  };

  /// Throws DivergenceError if the model holds numbers that are not finite.
  explicit Recommender(const Model& model, ScoreTable table = ScoreTable::compact)
      : model_(model), scored_(model.scored_items()) {
    require_finite(model.backend(), model, "recommender");
    if constexpr (has_index) {
      if (table == ScoreTable::compact) {
        index_ = ItemIndex(scored_.view());
      }
    }
  }

  Recommender(const Model&&, ScoreTable = {}) = delete;  // keep the model in a variable: a recommender refers to it

  /// Working memory for a thread; where lanes need no backend, `Scratch scratch;` is the same.
  [[nodiscard]] Scratch make_scratch() const { return Scratch(model_.backend()); }

  /// The k best items after `history` (rows of the item table, oldest first; only the last L count), best first, items
  /// of the history left out unless `repeat` is set. Valid until the scratch is used again. Throws ArgumentError for an
  /// empty history, an id outside 1..item_count() or k < 1. `user` is for models that look at users: user_row() of the
  /// data set's number. Fewer than k only when the catalogue runs out.
  std::span<const Recommendation> recommend(std::span<const ItemId> history, Index k, Scratch& scratch,
                                            bool repeat = false, UserId user = 0) const {
    const Index wanted = checked(k);
    Request& request = scratch.request;
    start(Padding::masked, request);  // scores are the same under both paddings
    add(history, user, request);
    rank(scratch.lane, wanted, repeat, request);
    request.result.resize(static_cast<std::size_t>(wanted));
    write_results(request, wanted, request.result.data());
    return slice(std::span<const Recommendation>(request.result), 0, request.found[0]);
  }

  /// The same for many histories at once, on the threads of the model's backend, for which calls from several threads
  /// take turns (BasicCpu; other backends: from one thread at a time), each with a scratch of its own:
  /// scratch.of(u) is the answer for histories[u], of user_rows[u] where these are given. One product scores a block of
  /// items for many users, whose scores may differ from recommend's in the last bits.
  void recommend_batch(std::span<const std::span<const ItemId>> histories, Index k, BatchScratch& scratch,
                       bool repeat = false, std::span<const UserId> user_rows = {}) const {
    const Index wanted = checked(k);
    const Index users = ssize(histories);
    require(user_rows.empty() || ssize(user_rows) == users, "recommend: found ", user_rows.size(), " users for ", users,
            " histories, expected as many or none");
    const Index grain = model_.backend().encoded_sequences();
    const Index tasks = (users + grain - 1) / grain;
    scratch.k = wanted;
    scratch.result.resize(static_cast<std::size_t>(users * wanted));
    scratch.counts.resize(static_cast<std::size_t>(users));
    scratch.parts.resize((std::max)(scratch.parts.size(), static_cast<std::size_t>(tasks)));
    model_.backend().parallel_for(tasks, [&](Lane& lane, Index task) {
      const Index first = task * grain;
      const Index last = (std::min)(users, first + grain);
      Request& part = scratch.parts[static_cast<std::size_t>(task)];
      start(Padding::masked, part);
      for (Index u = first; u < last; ++u) {
        const auto at = static_cast<std::size_t>(u);
        add(histories[at], user_rows.empty() ? UserId(0) : user_rows[at], part);
      }
      rank(lane, wanted, repeat, part);
      write_results(part, wanted, scratch.result.data() + first * wanted);
      std::copy(part.found.begin(), part.found.end(), scratch.counts.begin() + first);
    });
  }

  /// The intent behind `history`; errors as for recommend. Padding is the model's own: it is part of what the centers
  /// were trained on.
  IntentMatch intent(std::span<const ItemId> history, Scratch& scratch) const requires Model::has_clusters {
    start(model_.padding, scratch.request);
    check(history);
    scratch.request.batch.add(history);
    auto& lane = scratch.lane;
    const auto frame = lane.workspace().frame();
    const auto& clusters = model_.clusters();
    const TokenView tokens = lane.stage(scratch.request.batch.view());
    const auto norms = lane.workspace().template matrix<Scalar>(1, clusters.count());
    const auto user = lane.workspace().template matrix<Scalar>(1, clusters.hidden());
    model_.encode_user(lane, tokens, user);
    normalize_rows(lane, user, norms.slice_cols(0, 1), user);
    // |c_j - h| as the norm of a row that normalize_rows writes beside it
    const auto gaps = lane.workspace().template matrix<Scalar>(clusters.count(), clusters.hidden());
    normalize_rows(lane, clusters.centers(), norms, gaps);
    lane.add_row(Scalar(-1), user, gaps);
    normalize_rows(lane, gaps, norms, gaps);
    scratch.distances.resize(static_cast<std::size_t>(clusters.count()));
    lane.read(std::span<const Scalar>(norms.flat()), std::span(scratch.distances));
    IntentMatch match{.distance = static_cast<float>(scratch.distances[0]), .runner_up_distance = INFINITY};
    for (Index j = 1; j < clusters.count(); ++j) {
      const auto distance = static_cast<float>(scratch.distances[static_cast<std::size_t>(j)]);
      if (distance < match.distance) {
        match = {j, distance, match.intent, match.distance};
      } else if (j == 1 || distance < match.runner_up_distance) {
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
    return (std::min)(k, model_.item_count());
  }

  void start(Padding padding, Request& request) const {
    request.batch.start(model_.max_length(), padding);
    request.seen.clear();
    request.offsets.assign(1, 0);
  }

  void check(std::span<const ItemId> history) const {
    require(!history.empty(), "history: found no items, expected at least one");
    for (const ItemId item : history) {
      require(item >= 1 && item <= model_.item_count(), "history: found item ", item, ", expected 1 to ",
              model_.item_count());
    }
  }

  void add(std::span<const ItemId> history, UserId user, Request& request) const {
    check(history);
    model_.add_query(request.batch, history, user);
    request.seen.insert(request.seen.end(), history.begin(), history.end());
    std::sort(request.seen.begin() + request.offsets.back(), request.seen.end());
    request.offsets.push_back(static_cast<std::int32_t>(request.seen.size()));
  }

  /// Encodes the batch and ranks the items: scores, items and found of the request.
  void rank(Lane& lane, Index k, bool repeat, Request& request) const {
    const Index users = static_cast<Index>(request.offsets.size()) - 1;
    request.scores.resize(static_cast<std::size_t>(users * k));
    request.items.resize(static_cast<std::size_t>(users * k));
    request.found.resize(static_cast<std::size_t>(users));
    const auto frame = lane.workspace().frame();
    const auto queries = lane.workspace().template matrix<Scalar>(users, model_.query_columns());
    model_.encode_query(lane, lane.stage(request.batch.view()), queries);
    const RankingRule rule{.seen = repeat ? RankingRule::Seen::keep : RankingRule::Seen::exclude,
                           .first = 1,
                           .last = static_cast<ItemId>(model_.item_count() + 1)};
    const auto offsets = lane.stage(std::span<const std::int32_t>(request.offsets));
    const auto seen = lane.stage(std::span<const ItemId>(request.seen));
    if constexpr (has_index) {
      top_k(lane, rule, queries, scored_.view(), index_, offsets, seen,
            MatrixView<Scalar>(request.scores.data(), users, k), request.items, request.found);
    } else {
      const auto scores = lane.workspace().template matrix<Scalar>(users, k);
      const auto items = lane.workspace().template array<ItemId>(users * k);
      const auto found = lane.workspace().template array<Index>(users);
      top_k(lane, rule, queries, scored_.view(), offsets, seen, scores, items, found);
      lane.read(std::span<const Scalar>(scores.flat()), std::span<Scalar>(request.scores));
      lane.read(std::span<const ItemId>(items), std::span<ItemId>(request.items));
      lane.read(std::span<const Index>(found), std::span<Index>(request.found));
    }
  }

  static void write_results(const Request& request, Index k, Recommendation* to) {
    for (std::size_t u = 0; u < request.found.size(); ++u) {
      for (Index i = 0; i < request.found[u]; ++i) {
        const std::size_t at = u * static_cast<std::size_t>(k) + static_cast<std::size_t>(i);
        to[at] = {request.items[at], static_cast<float>(request.scores[at])};
      }
    }
  }

  const Model& model_;
  ScoredItems<Backend> scored_;
  [[no_unique_address]] ItemIndex index_;  // of no items where it is not wanted
};

}  // namespace elcrec::inline ELCREC_TARGET
