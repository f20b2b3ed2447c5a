#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/core/options.hpp"
#include "elcrec/data/augmentation.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/position_index.hpp"
#include "elcrec/data/views/view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The paper's random augmentation.
using CropMaskReorder = RandomView<Crop, Mask, Reorder>;

/// Two augmented versions of each user's training input: sequences [0, B) are the first ones, [B, 2B) the second. The
/// whole history is augmented, then cut to L, as in the released code. Labels are the users' last target items.
/// Columns: Users, Labels, and the lists of position_index().
template <Augmentation A = CropMaskReorder>
struct AugmentedPair {
  static constexpr std::string_view name = "AugmentedPair";
  static constexpr bool needs_causal = false;

  A augmentation{};

  static void visit_options(auto& self, auto&& visitor) requires Described<A> {
    constexpr std::string_view augmentation = A::name;
    visitor("augmentation", augmentation);
    visitor(augmentation, self.augmentation);
  }

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> augmented;
    for (std::size_t n = 0; n < 2 * users.size(); ++n) {
      auto random = source.random(RandomTensor::augmentation, n);
      const Index user = users[n % users.size()];
      augmentation(source.split->input(user, Split::train), random, augmented);
      batch.add(augmented, {with<Users>(user_row(user))});
    }
    for (const Index user : users) {
      batch.append(with<Labels>(source.split->target(user, Split::train)));
    }
    index_positions(batch);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
