#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/eval/ranking_metrics.hpp"
#include "elcrec/model/scoring_model.hpp"
#include "elcrec/nn/sums_of_squares.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Which items compete with the target.
enum class Protocol {
  strict,  ///< all real items that the user has not seen
  paper    ///< all ids with padding and mask id; the scores of seen items are set to 0, as the released evaluation does
};

[[nodiscard]] inline RankingRule ranking_rule(Protocol protocol, Index items) {
  const auto last = static_cast<ItemId>(items);
  if (protocol == Protocol::paper) {
    return {.seen = RankingRule::Seen::zero, .first = 0, .last = last + 2};
  }
  return {.seen = RankingRule::Seen::exclude, .first = 1, .last = last + 1};
}

struct EvaluationOptions {
  Protocol protocol = Protocol::strict;
  std::vector<int> cutoffs = {5, 10, 20};
  Padding padding = Padding::masked;  ///< both give the same ranks; masked is faster
};

/// Ranks each user's held-out item against all items, by the score of the model after everything before it; among equal
/// scores the lower id is first, as Recommender serves them. Its batches have the column Users. Memory: a block of
/// users times a block of items. Runs on the model's backend; from several threads at once where that allows it. Throws
/// ArgumentError when the data has more items than the model, DivergenceError for scores that are not finite: nothing
/// would rank above a NaN.
template <ScoringModel Model>
[[nodiscard]] RankingMetrics evaluate(const Model& model, const LeaveOneOut& split, Split which,
                                      const EvaluationOptions& options = {}) {
  using Lane = typename Model::Lane;
  static_assert(operation::Ranking<Lane>, "evaluate: the lane lacks operations of operation::Ranking");
  using T = typename Model::Scalar;
  require(split.item_count() <= model.item_count(), "evaluation: found data with ", split.item_count(),
          " items, expected at most the model's ", model.item_count());
  const RankingRule rule = ranking_rule(options.protocol, model.item_count());
  using Items = Parameter<const T>;
  const auto scored = model.scored_items();
  const std::array<Items, 1> table{Items{"scored items", scored.view()}};
  const double table_norm = std::sqrt(sums_of_squares(model.backend(), std::span<const Items>(table))[0]);
  std::vector<Index> ranks(static_cast<std::size_t>(split.user_count()));
  const Index block = model.backend().encoded_sequences();
  const Index blocks = (split.user_count() + block - 1) / block;
  model.backend().parallel_for(blocks, [&](Lane& lane, Index b) {
    const Index first = b * block;
    const Index last = (std::min)(split.user_count(), first + block);
    TokenBatch batch;
    std::vector<ItemId> targets;
    std::vector<ItemId> seen;
    std::vector<std::int32_t> offsets{0};
    batch.start(model.max_length(), options.padding);
    for (Index user = first; user < last; ++user) {
      const auto history = split.input(user, which);
      model.add_query(batch, history, user_row(user));
      targets.push_back(split.target(user, which));
      seen.insert(seen.end(), history.begin(), history.end());
      std::sort(seen.begin() + offsets.back(), seen.end());
      offsets.push_back(static_cast<std::int32_t>(seen.size()));
    }
    const auto frame = lane.workspace().frame();
    const auto queries = lane.workspace().template matrix<T>(last - first, model.query_columns());
    const auto found = lane.workspace().template array<Index>(last - first);
    const auto squares = lane.workspace().template matrix<T>(1, last - first);
    model.encode_query(lane, lane.stage(batch.view()), queries);
    lane.row_dots(queries, queries, squares);
    rank_targets(lane, rule, queries, scored.view(), lane.stage(std::span<const ItemId>(targets)),
                 lane.stage(std::span<const std::int32_t>(offsets)), lane.stage(std::span<const ItemId>(seen)), found);
    lane.read(std::span<const Index>(found), slice(std::span(ranks), first, last));
    std::vector<T> query_squares(static_cast<std::size_t>(last - first));
    lane.read(std::span<const T>(squares.flat()), std::span(query_squares));
    for (Index user = first; user < last; ++user) {
      // |q·e| <= |q| |E|
      const double most =
          table_norm * std::sqrt(static_cast<double>(query_squares[static_cast<std::size_t>(user - first)]));
      require<DivergenceError>(is_finite(most) && most <= static_cast<double>((std::numeric_limits<T>::max)()),
                               "evaluation: found scores that are not finite for user ",
                               split.dataset().user_name(user), ", expected a model of finite weights");
    }
  });
  RankingMetrics metrics(options.cutoffs);
  metrics.add(ranks);
  return metrics;
}

}  // namespace elcrec::inline ELCREC_TARGET
