#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/data/columns.hpp"
#include "elcrec/data/views/view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The training input items[:-3] of each user with its targets items[1:-2] and, if the source draws them, negatives
/// for each target. Columns: Targets, Negatives, Users.
struct InputView {
  static constexpr std::string_view name = "InputView";
  static constexpr bool needs_causal = true;

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      auto random = source.random(RandomTensor::negatives, n);
      const auto targets = source.split->targets(users[n]);
      source.draw_negatives(users[n], targets, random, negatives);
      batch.add(source.split->input(users[n], Split::train),
                {with<Targets>(targets), with<Negatives>(negatives, source.negatives_per_target),
                 with<Users>(user_row(users[n]))});
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
