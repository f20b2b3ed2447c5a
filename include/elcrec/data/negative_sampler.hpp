#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/sequence_dataset.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Draws an item that a user did not choose.
template <class T>
concept NegativeSampler = requires(const T& sampler, Index user, RandomEngine& random) {
  { sampler(user, random) } -> std::same_as<ItemId>;
};

/// Every item of the catalogue is as likely, but for those in the user's history, which are never drawn (held-out ones
/// included). Keeps 4 bytes an interaction; independent of the data set afterwards. Concurrent calls need an engine
/// each.
class UniformNegativeSampler {
 public:
  /// Throws ArgumentError if a user owns every item.
  explicit UniformNegativeSampler(const SequenceDataset& data) : item_count_(data.item_count()) {
    owned_.reserve(static_cast<std::size_t>(data.interaction_count()));
    for (Index user = 0; user < data.user_count(); ++user) {
      const std::span<const ItemId> history = data.history(user);
      const auto begin = owned_.insert(owned_.end(), history.begin(), history.end());
      std::sort(begin, owned_.end());
      owned_.erase(std::unique(begin, owned_.end()), owned_.end());
      offsets_.push_back(static_cast<Index>(owned_.size()));
      require(ssize(owned(user)) < item_count_, "negative sampler: user ", data.user_name(user), " owns all ",
              item_count_, " items; expected at least one to draw (a full softmax draws none)");
    }
  }

  /// One draw, O(log history), no allocation. Throws ArgumentError for a user number that the data set did not have.
  [[nodiscard]] ItemId operator()(Index user, RandomEngine& random) const {
    require(0 <= user && user + 1 < static_cast<Index>(offsets_.size()), "negative sampler: user number ", user,
            "; expected 0 to ", offsets_.size() - 2);
    const std::span<const ItemId> own = owned(user);
    // The k-th (from 0) item that is not owned: own[i] has own[i] - 1 - i of those before it, which never falls with i.
    const auto k = static_cast<Index>(random.below(static_cast<std::uint32_t>(item_count_ - ssize(own))));
    Index before = 0;  // owned items before the k-th
    for (Index end = ssize(own); before < end;) {
      const Index middle = (before + end) / 2;
      if (own[static_cast<std::size_t>(middle)] - 1 - middle <= k) {
        before = middle + 1;
      } else {
        end = middle;
      }
    }
    return static_cast<ItemId>(k + before + 1);
  }

 private:
  [[nodiscard]] std::span<const ItemId> owned(Index user) const {
    const Index* begin = offsets_.data() + user;
    return slice(std::span(owned_), begin[0], begin[1]);
  }

  Index item_count_;
  std::vector<Index> offsets_ = {0};  // (users + 1)
  std::vector<ItemId> owned_;         // distinct and ascending for each user
};

}  // namespace elcrec::inline ELCREC_TARGET
