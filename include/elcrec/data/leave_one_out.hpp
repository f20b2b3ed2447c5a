#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/fingerprint.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/sequence_dataset.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Which held-out item is to be predicted.
enum class Split { train, valid, test };

/// What to do about users whose history cannot be split.
enum class ShortHistories { reject, drop };

/// The leave-one-out protocol: of each user's items, the last is for the test, the one before it for validation, the
/// rest for training. Shares its data set with its copies; all members may be called concurrently.
class LeaveOneOut {
 public:
  /// One item to start from, one to train on, one each for validation and test.
  static constexpr Index shortest_history = 4;

  /// Throws ArgumentError if there are no users or one has fewer than 4 items.
  explicit LeaveOneOut(std::shared_ptr<const SequenceDataset> data) : data_(std::move(data)) {
    require(user_count() > 0, "leave-one-out: found no users to split; expected at least one");
    for (Index user = 0; user < user_count(); ++user) {
      require(ssize(items(user)) >= shortest_history, "leave-one-out: user ", data_->user_name(user), " has ",
              ssize(items(user)), ssize(items(user)) == 1 ? " item" : " items", "; expected at least ",
              shortest_history, " (ShortHistories::drop leaves such users out)");
    }
  }

  [[nodiscard]] Index user_count() const { return data_->user_count(); }
  [[nodiscard]] Index item_count() const { return data_->item_count(); }

  /// What is known when target(user, split) is to be predicted; also the items that evaluation takes for seen.
  [[nodiscard]] std::span<const ItemId> input(Index user, Split split) const {
    const std::span<const ItemId> all = items(user);
    return all.first(position(all, split));
  }

  /// What follows each item of the training input: as long as that input, one item ahead.
  [[nodiscard]] std::span<const ItemId> targets(Index user) const { return input(user, Split::valid).subspan(1); }

  /// items[-3], items[-2] and items[-1] for train, valid and test.
  [[nodiscard]] ItemId target(Index user, Split split) const {
    const std::span<const ItemId> all = items(user);
    return all[position(all, split)];
  }

  /// Everything of the user, held-out items included.
  [[nodiscard]] std::span<const ItemId> items(Index user) const { return data_->history(user); }

  /// Without the users that were dropped; user numbers are those of this object.
  [[nodiscard]] const SequenceDataset& dataset() const { return *data_; }

 private:
  static std::size_t position(std::span<const ItemId> all, Split split) {
    return all.size() - 3 + static_cast<std::size_t>(split);
  }

  std::shared_ptr<const SequenceDataset> data_;
};

/// A digest of all that training and evaluation read: each user's items, and what the rows are called.
[[nodiscard]] inline Fingerprint fingerprint(const LeaveOneOut& split) {
  Fingerprint digest;
  digest.add(std::string_view("leave-one-out")).add(split.dataset().item_names());
  for (Index user = 0; user < split.user_count(); ++user) {
    digest.add(split.items(user));
  }
  return digest;
}

/// Splits a data set. With `drop`, users of fewer than 4 items are left out and the others renumbered (names stay; so
/// do the rows of all items). Throws ArgumentError, with `reject`, naming such a user, and if nobody is left.
[[nodiscard]] inline LeaveOneOut leave_one_out(SequenceDataset data,
                                               ShortHistories short_histories = ShortHistories::reject) {
  if (short_histories == ShortHistories::reject) {
    return LeaveOneOut(std::make_shared<const SequenceDataset>(std::move(data)));
  }
  std::vector<std::int64_t> names;
  std::vector<Index> offsets = {0};
  std::vector<ItemId> items;
  for (Index user = 0; user < data.user_count(); ++user) {
    const std::span<const ItemId> history = data.history(user);
    if (ssize(history) >= LeaveOneOut::shortest_history) {
      names.push_back(data.user_name(user));
      items.insert(items.end(), history.begin(), history.end());
      offsets.push_back(static_cast<Index>(items.size()));
    }
  }
  require(!names.empty(), "leave-one-out: none of ", data.user_count(), " users has ", LeaveOneOut::shortest_history,
          " items; expected at least one to be left");
  return LeaveOneOut(
      std::make_shared<const SequenceDataset>(std::move(names), std::move(offsets), std::move(items), data.item_map()));
}

}  // namespace elcrec::inline ELCREC_TARGET
