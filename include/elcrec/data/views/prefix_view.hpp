#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/data/columns.hpp"
#include "elcrec/data/views/view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Every prefix of the training input of each user as a sequence of its own, with what follows it as the target of its
/// last token, and sampled negatives beside it as in InputView. The targets are those of InputView, one a sequence; an
/// encoder may look at the whole of it, so it need not be causal. Columns: Targets, Negatives, Users.
struct PrefixView {
  static constexpr std::string_view name = "PrefixView";
  static constexpr bool needs_causal = false;

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> targets;
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      auto random = source.random(RandomTensor::negatives, n);
      const auto input = source.split->input(users[n], Split::train);
      for (std::size_t length = 1; length <= input.size(); ++length) {
        targets.assign(length, padding_item);
        targets.back() = source.split->targets(users[n])[length - 1];
        source.draw_negatives(users[n], targets, random, negatives);
        batch.add(input.first(length), {with<Targets>(targets), with<Negatives>(negatives, source.negatives_per_target),
                                        with<Users>(user_row(users[n]))});
      }
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
