#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <vector>

#include "elcrec/core/bfloat16.hpp"
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

/// What a single user's scores are computed from. The answers are the same.
enum class ScoreTable {
  model,    ///< the model's own item table
  bfloat16  ///< a copy of half its size, for half the bytes to read; the best of it are scored again by the model's
};

/// Answers "what next, and which intent" from a trained model. Const and, but for recommend_batch, safe to call from
/// any number of threads, each with a Scratch of its own; after a first call with the longest history and the largest k
/// nothing is allocated. Refers to the model: keep it alive and do not train it meanwhile.
template <class Model>
class Recommender {
 public:
  using Scalar = typename Model::Scalar;
  using Backend = typename Model::Backend;
  using Lane = typename Model::Lane;

 private:
  /// Histories of a batch and what the ranking says about them, in host memory.
  struct Request {
    TokenBatch batch;
    std::vector<ItemId> seen;
    std::vector<std::int32_t> offsets;
    std::vector<Scalar> scores;  // (U, k)
    std::vector<ItemId> items;   // (U, k)
    std::vector<Index> found;    // (U)
    std::vector<ItemId> candidates;
    std::vector<Scalar> rough;  // scores of the candidates
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

  explicit Recommender(const Model& model, ScoreTable table = ScoreTable::model) : model_(model) {
    if (table == ScoreTable::bfloat16) {
      const auto items = model.items();
      std::vector<Scalar> host(static_cast<std::size_t>(items.size()));
      model.backend().template copy<Scalar>(items.flat(), std::span<Scalar>(host));
      std::vector<BFloat16> half;
      half.reserve(host.size());
      for (Index v = 0; v < items.rows(); ++v) {
        double square = 0;
        for (const Scalar e : slice(std::span<const Scalar>(host), v * items.cols(), (v + 1) * items.cols())) {
          half.emplace_back(static_cast<float>(e));
          square += static_cast<double>(e) * static_cast<double>(e);
        }
        largest_norm_ = std::max(largest_norm_, std::sqrt(square));
      }
      half_items_ = model.backend().template allocate<BFloat16>(items.size());
      model.backend().template copy<BFloat16>(half, std::span<BFloat16>(half_items_.data(), half.size()));
    }
  }

  /// Working memory for a thread; where lanes need no backend, `Scratch scratch;` is the same.
  [[nodiscard]] Scratch make_scratch() const { return Scratch(model_.backend()); }

  /// The k best items after `history` (rows of the item table, oldest first; only the last L count), best first, items
  /// of the history left out unless `repeat` is set. Valid until the scratch is used again. Throws ArgumentError for an
  /// empty history, an id outside 1..item_count() or k < 1. Fewer than k only when the catalogue runs out.
  std::span<const Recommendation> recommend(std::span<const ItemId> history, Index k, Scratch& scratch,
                                            bool repeat = false) const {
    const Index wanted = checked(k);
    Request& request = scratch.request;
    start(Padding::masked, request);  // scores are the same under both paddings
    add(history, request);
    rank(scratch.lane, wanted, repeat, request);
    request.result.resize(static_cast<std::size_t>(wanted));
    write_results(request, wanted, request.result.data());
    return slice(std::span<const Recommendation>(request.result), 0, request.found[0]);
  }

  /// The same for many histories at once, on the threads of the model's backend (so not from two threads at a time):
  /// scratch.of(u) is the answer for histories[u]. One product scores a block of items for many users, whose scores may
  /// differ from recommend's in the last bits.
  void recommend_batch(std::span<const std::span<const ItemId>> histories, Index k, BatchScratch& scratch,
                       bool repeat = false) const {
    const Index wanted = checked(k);
    const Index users = ssize(histories);
    const Index grain = model_.backend().encoded_sequences();
    const Index tasks = (users + grain - 1) / grain;
    scratch.k = wanted;
    scratch.result.resize(static_cast<std::size_t>(users * wanted));
    scratch.counts.resize(static_cast<std::size_t>(users));
    scratch.parts.resize(std::max(scratch.parts.size(), static_cast<std::size_t>(tasks)));
    model_.backend().parallel_for(tasks, [&](Lane& lane, Index task) {
      const Index first = task * grain;
      const Index last = std::min(users, first + grain);
      Request& part = scratch.parts[static_cast<std::size_t>(task)];
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
    start(model_.padding, scratch.request);
    add(history, scratch.request);
    auto& lane = scratch.lane;
    const auto frame = lane.workspace().frame();
    const auto& clusters = model_.clusters;
    const TokenView tokens = lane.stage(scratch.request.batch.view());
    const auto norms = lane.workspace().template matrix<Scalar>(1, clusters.count());
    const auto user = lane.workspace().template matrix<Scalar>(1, clusters.hidden());
    if (clusters.hidden() == model_.hidden()) {
      model_.encode_mean(lane, tokens, user);
    } else {
      model_.encode(lane, tokens, [&](auto x) { lane.concat_pool(tokens, x, user); });
    }
    lane.normalize_rows(user, norms.slice_cols(0, 1), user);
    // |c_j - h| as the norm of a row that normalize_rows writes beside it
    const auto gaps = lane.workspace().template matrix<Scalar>(clusters.count(), clusters.hidden());
    lane.normalize_rows(clusters.centers(), norms, gaps);
    lane.add_row(Scalar(-1), user, gaps);
    lane.normalize_rows(gaps, norms, gaps);
    scratch.distances.resize(static_cast<std::size_t>(clusters.count()));
    lane.read(std::span<const Scalar>(norms.flat()), std::span(scratch.distances));
    IntentMatch match{.distance = INFINITY, .runner_up_distance = INFINITY};
    for (Index j = 0; j < clusters.count(); ++j) {
      const auto distance = static_cast<float>(scratch.distances[static_cast<std::size_t>(j)]);
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

  void start(Padding padding, Request& request) const {
    request.batch.start(model_.max_length(), padding);
    request.seen.clear();
    request.offsets.assign(1, 0);
  }

  void add(std::span<const ItemId> history, Request& request) const {
    require(!history.empty(), "history: found no items, expected at least one");
    for (const ItemId item : history) {
      require(item >= 1 && item <= model_.item_count(), "history: found item ", item, ", expected 1 to ",
              model_.item_count());
    }
    request.batch.add(history);
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
    const auto queries = lane.workspace().template matrix<Scalar>(users, model_.hidden());
    model_.encode_last(lane, lane.stage(request.batch.view()), queries);
    const RankingRule rule{.seen = repeat ? RankingRule::Seen::keep : RankingRule::Seen::exclude,
                           .first = 1,
                           .last = static_cast<ItemId>(model_.item_count() + 1)};
    const auto offsets = lane.stage(std::span<const std::int32_t>(request.offsets));
    const auto seen = lane.stage(std::span<const ItemId>(request.seen));
    if (users == 1 && half_items_.size() > 0) {
      rank_by_half(lane, rule, queries, offsets, seen, k, request);
    } else {
      top_k(lane, rule, queries, model_.items(), offsets, seen, request.scores, request.items, request.found);
    }
  }

  /// lane.top_k with results in host memory.
  template <class Element>
  static void top_k(Lane& lane, const RankingRule& rule, MatrixView<const Scalar> queries,
                    MatrixView<const Element> table, std::span<const std::int32_t> offsets,
                    std::span<const ItemId> seen, std::span<Scalar> scores, std::span<ItemId> items,
                    std::span<Index> found) {
    const auto frame = lane.workspace().frame();
    const Index users = queries.rows();
    const auto lane_scores = lane.workspace().template matrix<Scalar>(users, users == 0 ? 0 : ssize(scores) / users);
    const auto lane_items = lane.workspace().template array<ItemId>(ssize(items));
    const auto lane_found = lane.workspace().template array<Index>(ssize(found));
    lane.top_k(rule, queries, table, offsets, seen, lane_scores, lane_items, lane_found);
    lane.read(std::span<const Scalar>(lane_scores.flat()), scores);
    lane.read(std::span<const ItemId>(lane_items), items);
    lane.read(std::span<const Index>(lane_found), found);
  }

  /// The same for one user from the copy. A score in bfloat16 is off by at most `error` = 2^-9 |q| max|e| and the
  /// rounding of sums, so once the k-th best exact score among the candidates is farther than that above the score of
  /// the last candidate, no other item can be better; until then there are twice as many candidates.
  void rank_by_half(Lane& lane, const RankingRule& rule, MatrixView<const Scalar> query,
                    std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Index k,
                    Request& request) const {
    const auto items = model_.items();
    const MatrixView<const BFloat16> half(half_items_.data(), items.rows(), items.cols());
    const auto length = lane.workspace().template matrix<Scalar>(1, 1);
    const auto unused = lane.workspace().template matrix<Scalar>(1, items.cols());
    lane.normalize_rows(query, length, unused);
    Scalar norm = 0;
    lane.read(std::span<const Scalar>(length.flat()), std::span(&norm, 1));
    const double error = (std::ldexp(1.0, -9) + std::ldexp(static_cast<double>(items.cols()), -22)) *
                         static_cast<double>(norm) * largest_norm_;
    constexpr Index margin = 8;
    constexpr Index group = 16;  // so that every score is computed alike
    for (Index wanted = (k + margin + group - 1) / group * group;; wanted *= 2) {
      const auto frame = lane.workspace().frame();
      request.candidates.resize(static_cast<std::size_t>(wanted));
      request.rough.resize(static_cast<std::size_t>(wanted));
      const std::span candidates(request.candidates);
      Index count = 0;
      top_k(lane, rule, query, half, offsets, seen, request.rough, candidates, {&count, 1});
      std::sort(candidates.begin(), candidates.begin() + count);  // equal scores: the lower id first
      std::fill(candidates.begin() + count, candidates.end(), padding_item);
      const auto rows = lane.workspace().template matrix<Scalar>(wanted, items.cols());
      lane.gather_rows(items, lane.stage(std::span<const ItemId>(candidates)), rows, Write::replace);
      const std::array<std::int32_t, 2> nothing_seen{0, 0};
      top_k(lane, {.seen = RankingRule::Seen::keep, .first = 0, .last = static_cast<ItemId>(count)}, query,
            MatrixView<const Scalar>(rows), lane.stage(std::span<const std::int32_t>(nothing_seen)), {}, request.scores,
            request.items, request.found);
      for (ItemId& place : slice(std::span(request.items), 0, request.found[0])) {
        place = candidates[static_cast<std::size_t>(place)];
      }
      if (count < wanted || static_cast<double>(request.scores[static_cast<std::size_t>(k - 1)]) >
                                static_cast<double>(request.rough[static_cast<std::size_t>(wanted - 1)]) + error) {
        return;
      }
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
  typename Backend::template Buffer<BFloat16> half_items_;  // (V, D), or empty
  double largest_norm_ = 0;                                 // of an item row
};

}  // namespace elcrec
