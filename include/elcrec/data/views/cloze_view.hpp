#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/views/view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The cloze task of BERT4Rec (Sun et al., CIKM 2019, section 3.6): the last L items of each user's training part
/// items[:-2], some of them replaced by the mask, which then carry the hidden item as target and, if the source draws
/// them, negatives. A masked token sees what surrounds it, so the encoder need not be causal. A sequence of which
/// nothing was drawn has no target. Columns: Targets, Negatives, Users.
///
/// The model's query of a history must then end in a mask.
struct ClozeView {
  static constexpr std::string_view name = "ClozeView";
  static constexpr bool needs_causal = false;

  ItemId mask_item = 0;     ///< row of the mask in the item table; above every item of the data
  double mask_ratio = 0.2;  ///< each item is masked with this probability, in (0, 1]
  double last_ratio = 0.5;  ///< with this probability only the last item of every sequence of the batch is: what the
                            ///< query will ask; in [0, 1]
  /// What RecBole 1.2.1 leaves out is no target here either, though it is masked: the first item of a sequence, and all
  /// but the last floor(mask_ratio · L) masked ones.
  bool recbole_targets = false;

  static void visit_options(auto& self, auto&& visitor) {
    visitor("mask_item", self.mask_item);
    visitor("mask_ratio", self.mask_ratio);
    visitor("last_ratio", self.last_ratio);
    visitor("recbole_targets", self.recbole_targets);
  }
  void check() const {
    check_share("mask_ratio", mask_ratio);
    check_share("last_ratio", last_ratio);
  }

  /// Throws ArgumentError for a mask that is an item, and ratios out of their range.
  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    require(mask_item > source.split->item_count(), "ClozeView: found the mask item ", mask_item,
            ", expected a row above the ", source.split->item_count(), " items of the data");
    require(0 < mask_ratio && mask_ratio <= 1, "ClozeView: found mask_ratio ", mask_ratio,
            ", expected above 0 and at most 1");
    require(0 <= last_ratio && last_ratio <= 1, "ClozeView: found last_ratio ", last_ratio, ", expected 0 to 1");
    const bool last_only = source.random(RandomTensor::cloze_batch, 0).uniform() < last_ratio;
    std::vector<ItemId> items;
    std::vector<ItemId> targets;
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      const auto all = source.split->input(users[n], Split::valid);
      const auto window = all.last((std::min)(all.size(), static_cast<std::size_t>(batch.max_length())));
      items.assign(window.begin(), window.end());
      targets.assign(window.size(), padding_item);
      auto random = source.random(RandomTensor::cloze, n);
      for (std::size_t i = 0; i < items.size(); ++i) {
        if (last_only ? i + 1 == items.size() : random.uniform() < mask_ratio) {
          targets[i] = items[i];
          items[i] = mask_item;
        }
      }
      if (recbole_targets) {
        leave_out(targets, static_cast<Index>(mask_ratio * static_cast<double>(batch.max_length())));
      }
      auto random_negatives = source.random(RandomTensor::negatives, n);
      source.draw_negatives(users[n], targets, random_negatives, negatives);
      batch.add(items, {with<Targets>(targets), with<Negatives>(negatives, source.negatives_per_target),
                        with<Users>(user_row(users[n]))});
    }
  }

 private:
  /// All but the last `slots` targets, and the first item's.
  static void leave_out(std::span<ItemId> targets, Index slots) {
    for (std::size_t i = targets.size(); i-- > 0;) {
      if (targets[i] != padding_item && (i == 0 || slots-- <= 0)) {
        targets[i] = padding_item;
      }
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
