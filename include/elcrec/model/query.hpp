#pragma once

#include <concepts>
#include <span>
#include <string_view>

#include "elcrec/core/types.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/token_batch.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How a model asks what comes after a history: add(batch, history, user, mask) appends the sequence whose last token's
/// encoding is scored. Evaluation and serving ask so. `user` is user_row() of the user, 0 where it is not known; `mask`
/// the id of the mask.
template <class Q>
concept QueryRule = std::default_initializable<Q> &&
    requires(const Q& query, TokenBatch& batch, std::span<const ItemId> history, UserId user, ItemId mask) {
  query.add(batch, history, user, mask);
};

/// The history itself, whose last item predicts the next: of a model that names no other.
struct LastItemQuery {
  static constexpr std::string_view name = "last_item_query";

  void add(TokenBatch& batch, std::span<const ItemId> history, UserId user, ItemId) const {
    batch.add(history, {with<Users>(user)});
  }
};

/// The history and a mask after it, as BERT4Rec asks: of a model that learns from a ClozeView.
struct MaskQuery {
  static constexpr std::string_view name = "mask_query";

  void add(TokenBatch& batch, std::span<const ItemId> history, UserId user, ItemId mask) const {
    batch.add_ending_in(history, mask, {with<Users>(user)});
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
