#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/eval/ranking_metrics.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The baseline that recommends everyone the same: items ordered by how often the training inputs hold them, without
/// what the user has seen. Ranks as Protocol::strict does.
[[nodiscard]] inline RankingMetrics evaluate_popularity(const LeaveOneOut& split, Split which,
                                                        std::vector<int> cutoffs = {5, 10, 20}) {
  std::vector<Index> count(static_cast<std::size_t>(split.item_count()) + 1, 0);
  for (Index user = 0; user < split.user_count(); ++user) {
    for (const ItemId item : split.input(user, Split::train)) {
      ++count[static_cast<std::size_t>(item)];
    }
  }
  std::vector<ItemId> order(static_cast<std::size_t>(split.item_count()));
  std::iota(order.begin(), order.end(), ItemId{1});
  std::stable_sort(order.begin(), order.end(), [&](ItemId a, ItemId b) {
    return count[static_cast<std::size_t>(a)] > count[static_cast<std::size_t>(b)];
  });
  std::vector<Index> place(count.size(), 0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    place[static_cast<std::size_t>(order[i])] = static_cast<Index>(i);
  }

  RankingMetrics metrics(std::move(cutoffs));
  std::vector<ItemId> seen;
  for (Index user = 0; user < split.user_count(); ++user) {
    const auto history = split.input(user, which);
    seen.assign(history.begin(), history.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    const Index own = place[static_cast<std::size_t>(split.target(user, which))];
    metrics.add(own - std::count_if(seen.begin(), seen.end(),
                                    [&](ItemId item) { return place[static_cast<std::size_t>(item)] < own; }));
  }
  return metrics;
}

}  // namespace elcrec::inline ELCREC_TARGET
