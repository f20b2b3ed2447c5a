#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/sequence_dataset.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct SyntheticOptions {
  Index users = 2000;
  Index items = 1000;  ///< at least 2 an intent
  Index intents = 8;
  Index min_length = 5;       ///< of a history; at least 2
  double mean_length = 12.0;  ///< of a history; at most a quarter of the items
  double stay = 0.9;          ///< probability that the next item is of the user's dominant intent
  double follow = 0.8;        ///< probability that it is one of the current item's likely successors
  Index successors = 4;       ///< likely successors of an item in each intent
  double skew = 0.6;          ///< the item of popularity rank r in its intent is drawn in proportion to r^-skew
  std::uint64_t seed = 1;
};

struct SyntheticData {
  SequenceDataset data;                   ///< users are named 1..users, items by their row
  std::vector<std::int32_t> user_intent;  ///< (users) dominant intent of user u
  std::vector<std::int32_t> item_intent;  ///< (items) intent of item row r is item_intent[r - 1]
};

namespace detail {

/// Which items belong to an intent, how popular they are there, and what tends to follow an item.
class SyntheticCatalogue {
 public:
  explicit SyntheticCatalogue(const SyntheticOptions& options)
      : options_(options),
        by_intent_(static_cast<std::size_t>(options.items)),
        weights_(static_cast<std::size_t>((options.items + options.intents - 1) / options.intents)) {
    std::iota(by_intent_.begin(), by_intent_.end(), ItemId{1});
    RandomEngine(stream(0)).shuffle(std::span(by_intent_));
    double sum = 0.0;
    for (std::size_t rank = 0; rank < weights_.size(); ++rank) {
      weights_[rank] = sum += std::pow(static_cast<double>(rank + 1), -options.skew);
    }
  }

  /// Random numbers for the catalogue (0), the successors (1) and the users (2).
  [[nodiscard]] RandomStream stream(std::uint32_t step) const {
    return {options_.seed, step, static_cast<std::uint32_t>(RandomTensor::synthetic)};
  }

  [[nodiscard]] std::vector<std::int32_t> item_intents() const {
    std::vector<std::int32_t> intents(by_intent_.size());
    for (std::size_t i = 0; i < by_intent_.size(); ++i) {
      intents[static_cast<std::size_t>(by_intent_[i]) - 1] =
          static_cast<std::int32_t>(i % static_cast<std::size_t>(options_.intents));
    }
    return intents;
  }

  /// By popularity in the intent; `uniform` in [0, 1).
  [[nodiscard]] ItemId popular(Index intent, double uniform) const {
    const Index count = (options_.items - intent - 1) / options_.intents + 1;
    const auto last = weights_.begin() + count - 1;
    const Index rank = std::upper_bound(weights_.begin(), last, uniform * *last) - weights_.begin();
    return by_intent_[static_cast<std::size_t>(intent + rank * options_.intents)];
  }

  /// Likely successor number n of an item in an intent. Not stored but drawn again each time, from its own address.
  [[nodiscard]] ItemId successor(ItemId item, Index intent, std::uint32_t n) const {
    const auto address = static_cast<std::uint64_t>(item) * static_cast<std::uint64_t>(options_.intents) +
                         static_cast<std::uint64_t>(intent);
    const PhiloxBlock block = stream(1).block(address * static_cast<std::uint64_t>(options_.successors) + n);
    return popular(intent, block[0] * 0x1p-32);
  }

  /// The user's intent, or else half of the time the one after it, or else any other.
  [[nodiscard]] Index next_intent(Index dominant, RandomEngine& random) const {
    if (options_.intents == 1 || random.uniform() < options_.stay) {
      return dominant;
    }
    const bool next = random.uniform() < 0.5;
    const Index step = next ? 1 : 1 + random.below(static_cast<std::uint32_t>(options_.intents - 1));
    return (dominant + step) % options_.intents;
  }

  /// An item that is not in `history` yet: a successor of its last item, or a popular one.
  [[nodiscard]] ItemId next_item(std::span<const ItemId> history, Index dominant, RandomEngine& random) const {
    const auto is_new = [&](ItemId item) { return std::find(history.begin(), history.end(), item) == history.end(); };
    constexpr int tries = 16;
    for (int i = 0; i < tries; ++i) {
      const Index intent = next_intent(dominant, random);
      const ItemId item =
          !history.empty() && random.uniform() < options_.follow
              ? successor(history.back(), intent, random.below(static_cast<std::uint32_t>(options_.successors)))
              : popular(intent, random.uniform());
      if (is_new(item)) {
        return item;
      }
    }
    // The likely items are used up. At least half of the catalogue is new, so this ends.
    for (;;) {
      const auto item = static_cast<ItemId>(1 + random.below(static_cast<std::uint32_t>(options_.items)));
      if (is_new(item)) {
        return item;
      }
    }
  }

 private:
  const SyntheticOptions& options_;
  std::vector<ItemId> by_intent_;  // intent g holds the elements g, g + intents, ..., the most popular first
  std::vector<double> weights_;    // running sum of r^-skew
};

inline void require_valid(const SyntheticOptions& o) {
  constexpr Index most = (std::numeric_limits<ItemId>::max)() - 1;
  const auto probability = [](const char* name, double value) {
    require(0.0 <= value && value <= 1.0, "synthetic data: ", name, " ", value, "; expected 0 to 1");
  };
  require(1 <= o.users && o.users <= most, "synthetic data: ", o.users, " users; expected 1 to ", most);
  require(1 <= o.intents && o.intents <= most / 2, "synthetic data: ", o.intents, " intents; expected 1 to ", most / 2);
  require(2 * o.intents <= o.items && o.items <= most, "synthetic data: ", o.items, " items; expected ", 2 * o.intents,
          " (2 an intent) to ", most);
  require(o.min_length >= 2, "synthetic data: min_length ", o.min_length, "; expected at least 2");
  const double longest_mean = static_cast<double>(o.items) / 4.0;
  require(static_cast<double>(o.min_length) <= o.mean_length && o.mean_length <= longest_mean,
          "synthetic data: mean_length ", o.mean_length, "; expected ", o.min_length, " (min_length) to ", longest_mean,
          " (a quarter of the items)");
  require(1 <= o.successors && o.successors <= most, "synthetic data: ", o.successors, " successors; expected 1 to ",
          most);
  require(0.0 <= o.skew && o.skew <= 10.0, "synthetic data: skew ", o.skew, "; expected 0 to 10");
  probability("stay", o.stay);
  probability("follow", o.follow);
}

}  // namespace detail

/// Histories with planted intents. Every item belongs to one intent, every user has a dominant one. From item to item,
/// the next intent is the dominant one with probability `stay`; with probability `follow` the next item is one of the
/// few that tend to follow the current one in that intent, otherwise it is drawn by popularity. No history holds an
/// item twice (an item that would is drawn anew, which lowers `stay` and `follow` for long histories). Lengths are
/// min_length plus a geometric variable, cut at half the catalogue. Some items may occur in no history. The same
/// options give the same data everywhere. Throws ArgumentError for options out of range.
[[nodiscard]] inline SyntheticData make_synthetic(const SyntheticOptions& options) {
  detail::require_valid(options);
  const detail::SyntheticCatalogue catalogue(options);
  const double extra = options.mean_length - static_cast<double>(options.min_length);
  const double log_continue = std::log(extra / (1.0 + extra));  // -inf without extra: the length is min_length then
  const Index longest = options.items / 2;

  std::vector<std::int64_t> names(static_cast<std::size_t>(options.users));
  std::iota(names.begin(), names.end(), std::int64_t{1});
  std::vector<std::int32_t> user_intent;
  std::vector<Index> offsets = {0};
  std::vector<ItemId> items;
  for (Index user = 0; user < options.users; ++user) {
    RandomEngine random(catalogue.stream(2), static_cast<std::uint32_t>(user));
    const auto dominant = static_cast<Index>(random.below(static_cast<std::uint32_t>(options.intents)));
    const double more = std::log(1.0 - random.uniform()) / log_continue;
    const Index length =
        options.min_length + static_cast<Index>((std::min)(more, static_cast<double>(longest - options.min_length)));
    const auto begin = static_cast<std::size_t>(offsets.back());
    for (Index i = 0; i < length; ++i) {
      items.push_back(catalogue.next_item(std::span<const ItemId>(items).subspan(begin), dominant, random));
    }
    user_intent.push_back(static_cast<std::int32_t>(dominant));
    offsets.push_back(static_cast<Index>(items.size()));
  }
  return {SequenceDataset(std::move(names), std::move(offsets), std::move(items), ItemMap::identity(options.items)),
          std::move(user_intent), catalogue.item_intents()};
}

}  // namespace elcrec::inline ELCREC_TARGET
