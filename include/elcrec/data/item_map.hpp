#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Rows 1..size() of the item table and the names (external ids) that a data set calls them by. Row 0 is padding and
/// has no name. A larger row has a larger name.
class ItemMap {
 public:
  ItemMap() = default;

  /// Row r gets the name names[r - 1]. Throws ArgumentError unless the names ascend strictly and rows fit an ItemId.
  explicit ItemMap(std::vector<std::int64_t> names) : names_(std::move(names)) {
    require_size(size());
    const auto fault = std::adjacent_find(names_.begin(), names_.end(), std::greater_equal<>());
    if (fault != names_.end()) {
      throw ArgumentError(message("item map: row ", fault - names_.begin() + 2, " is named ", *(fault + 1), " after ",
                                  *fault, "; expected strictly ascending names"));
    }
  }

  /// n items, each named by its own row. Throws ArgumentError if n is negative or does not fit an ItemId.
  [[nodiscard]] static ItemMap identity(Index n) {
    require_size(n);
    ItemMap map;
    map.names_.resize(static_cast<std::size_t>(n));
    std::iota(map.names_.begin(), map.names_.end(), std::int64_t{1});
    return map;
  }

  [[nodiscard]] Index size() const { return static_cast<Index>(names_.size()); }

  /// Throws ArgumentError for a row outside [1, size()].
  [[nodiscard]] std::int64_t name(ItemId row) const {
    require(1 <= row && row <= size(), "item row ", row, "; expected 1 to ", size());
    return names_[static_cast<std::size_t>(row) - 1];
  }

  /// The row of a name, if it has one. O(1) where names are their own rows, O(log n) otherwise.
  [[nodiscard]] std::optional<ItemId> find(std::int64_t name) const {
    if (1 <= name && name <= size() && names_[static_cast<std::size_t>(name) - 1] == name) {
      return static_cast<ItemId>(name);
    }
    if (names_.empty()) {
      return std::nullopt;
    }
    // Halves are chosen without branches, which would be mispredicted half the time.
    const std::int64_t* last = names_.data();  // that is not above `name`, or the first
    for (std::size_t left = names_.size(); left > 1;) {
      const std::size_t half = left / 2;
      last = last[half] <= name ? last + half : last;
      left -= half;
    }
    if (*last != name) {
      return std::nullopt;
    }
    return static_cast<ItemId>(last - names_.data() + 1);
  }

  /// (size()) names of rows 1, 2, ...
  [[nodiscard]] std::span<const std::int64_t> names() const { return names_; }

  friend bool operator==(const ItemMap&, const ItemMap&) = default;

 private:
  static void require_size(Index n) {
    constexpr Index limit = (std::numeric_limits<ItemId>::max)() - 1;  // the mask item needs a row as well
    require(0 <= n && n <= limit, "item map of ", n, " items; expected 0 to ", limit);
  }

  std::vector<std::int64_t> names_;
};

}  // namespace elcrec::inline ELCREC_TARGET
