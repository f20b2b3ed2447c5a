#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/item_map.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What each user did, oldest item first: one array of item rows, and where each user's part begins. Users are numbered
/// 0..user_count() - 1 and have a name (external id) as items do. Immutable; all members may be called concurrently.
class SequenceDataset {
 public:
  /// User u is called user_names[u] and has items[offsets[u], offsets[u + 1]). A row of the map may occur in no
  /// history. Throws ArgumentError unless there are users + 1 offsets that rise from 0 to the number of items, every
  /// item is a row of the map, and no two users share a name.
  SequenceDataset(std::vector<std::int64_t> user_names, std::vector<Index> offsets, std::vector<ItemId> items,
                  ItemMap item_map)
      : user_names_(std::move(user_names)),
        offsets_(std::move(offsets)),
        items_(std::move(items)),
        item_map_(std::move(item_map)),
        by_name_(user_names_.size()) {
    require(offsets_.size() == user_names_.size() + 1, "data set of ", user_names_.size(), " users: ", offsets_.size(),
            " offsets; expected one more than users");
    require(offsets_.front() == 0 && offsets_.back() == interaction_count() &&
                std::is_sorted(offsets_.begin(), offsets_.end()),
            "data set: offsets from ", offsets_.front(), " to ", offsets_.back(), "; expected to rise from 0 to ",
            interaction_count(), ", the number of items");
    for (const ItemId item : items_) {
      require(1 <= item && item <= item_count(), "data set: item row ", item, "; expected 1 to ", item_count());
    }

    std::iota(by_name_.begin(), by_name_.end(), Index{0});
    const auto name_of = [this](Index user) { return user_names_[static_cast<std::size_t>(user)]; };
    std::sort(by_name_.begin(), by_name_.end(), [&](Index a, Index b) { return name_of(a) < name_of(b); });
    const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                          [&](Index a, Index b) { return name_of(a) == name_of(b); });
    if (twice != by_name_.end()) {
      throw ArgumentError(message("data set: two users are named ", name_of(*twice), "; expected distinct names"));
    }
  }

  [[nodiscard]] Index user_count() const { return static_cast<Index>(user_names_.size()); }

  /// Real items; their rows are 1..item_count().
  [[nodiscard]] Index item_count() const { return item_map_.size(); }

  [[nodiscard]] Index interaction_count() const { return static_cast<Index>(items_.size()); }

  /// Oldest first. Throws ArgumentError for a user outside [0, user_count()). Valid as long as this data set.
  [[nodiscard]] std::span<const ItemId> history(Index user) const {
    require_user(user);
    const auto* begin = offsets_.data() + user;
    return slice(std::span(items_), begin[0], begin[1]);
  }

  /// Throws ArgumentError for a user outside [0, user_count()).
  [[nodiscard]] std::int64_t user_name(Index user) const {
    require_user(user);
    return user_names_[static_cast<std::size_t>(user)];
  }

  /// The user of that name, if there is one. O(log users).
  [[nodiscard]] std::optional<Index> find_user(std::int64_t name) const {
    const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name, [this](Index user, std::int64_t value) {
      return user_names_[static_cast<std::size_t>(user)] < value;
    });
    if (found == by_name_.end() || user_name(*found) != name) {
      return std::nullopt;
    }
    return *found;
  }

  [[nodiscard]] const ItemMap& item_map() const { return item_map_; }

  /// (item_count()) names of rows 1, 2, ...
  [[nodiscard]] std::span<const std::int64_t> item_names() const { return item_map_.names(); }

 private:
  void require_user(Index user) const {
    require(0 <= user && user < user_count(), "user number ", user, "; expected 0 to ", user_count() - 1);
  }

  std::vector<std::int64_t> user_names_;
  std::vector<Index> offsets_;  // (users + 1)
  std::vector<ItemId> items_;
  ItemMap item_map_;
  std::vector<Index> by_name_;  // users in the order of their names
};

}  // namespace elcrec::inline ELCREC_TARGET
