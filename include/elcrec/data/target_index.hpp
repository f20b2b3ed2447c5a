#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec {

/// A place in the training data: after the first `length` items of the history of `user`.
struct Place {
  std::int32_t user;
  std::int32_t length;
};

/// For each item the places that it follows, users in order. 8 bytes a place and 8 an item.
class TargetIndex {
 public:
  TargetIndex() = default;

  /// `targets(user)` (for users 0 .. users - 1) are the items that follow the first 1, 2, ... items of the history; ids
  /// are 1 .. items.
  template <class Targets>
  TargetIndex(Index users, Index items, Targets targets) : begins_(static_cast<std::size_t>(items) + 2, 0) {
    const auto for_each_place = [&](auto f) {
      for (Index user = 0; user < users; ++user) {
        std::int32_t length = 0;
        for (const ItemId item : targets(user)) {
          f(static_cast<std::size_t>(item), Place{static_cast<std::int32_t>(user), ++length});
        }
      }
    };
    for_each_place([&](std::size_t item, Place) { ++begins_[item + 1]; });
    for (std::size_t i = 1; i < begins_.size(); ++i) {
      begins_[i] += begins_[i - 1];
    }
    places_.resize(static_cast<std::size_t>(begins_.back()));
    std::vector<Index> next(begins_.begin(), begins_.end() - 1);
    for_each_place([&](std::size_t item, Place place) { places_[static_cast<std::size_t>(next[item]++)] = place; });
  }

  [[nodiscard]] std::span<const Place> places(ItemId item) const {
    const auto at = static_cast<std::size_t>(item);
    return slice(std::span<const Place>(places_), begins_[at], begins_[at + 1]);
  }

 private:
  std::vector<Index> begins_;
  std::vector<Place> places_;
};

}  // namespace elcrec
