#pragma once

#include <concepts>
#include <cstdint>
#include <numeric>
#include <span>
#include <type_traits>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/data/augmentation.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/negative_sampler.hpp"
#include "elcrec/data/token_batch.hpp"

namespace elcrec {

/// What views of users are made from, and the random numbers of one training step.
struct BatchSource {
  const LeaveOneOut* split = nullptr;
  const UniformNegativeSampler* negatives = nullptr;
  std::uint64_t seed = 0;
  std::uint32_t step = 0;

  /// Draws for the n-th sequence that a view builds.
  [[nodiscard]] RandomEngine random(RandomTensor tensor, std::size_t n) const {
    return RandomEngine({seed, step, static_cast<std::uint32_t>(tensor)}, static_cast<std::uint32_t>(n));
  }
};

/// A way to look at users: makes the sequences that an objective wants encoded. `batch` was started by the caller.
template <class V>
concept View = std::default_initializable<V> &&
    requires(const V& view, const BatchSource& source, std::span<const Index> users, TokenBatch& batch) {
  view.build(source, users, batch);
};

/// The training input items[:-3] of each user with its targets items[1:-2] and one sampled negative for each target.
struct InputView {
  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      auto random = source.random(RandomTensor::negatives, n);
      const auto input = source.split->input(users[n], Split::train);
      negatives.resize(input.size());
      for (auto& item : negatives) {
        item = (*source.negatives)(users[n], random);
      }
      batch.add(input, source.split->targets(users[n]), negatives);
    }
  }
};

/// Prefixes of the training input of each user as sequences of their own, each with what follows it as the target of
/// its last token, and a sampled negative beside it. The targets are those of InputView, one a sequence; an encoder may
/// look at the whole of it, so it need not be causal. All prefixes of a user are in a batch, or `limit` of them, drawn
/// anew each step: then long histories cost no more than others, and weigh less.
struct PrefixView {
  Index limit = 0;  ///< most prefixes of a user in a step; 0 for all

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> targets;
    std::vector<ItemId> negatives;
    for_each_user(source, users, [&](std::size_t n, std::span<const Index> lengths) {
      auto random = source.random(RandomTensor::negatives, n);
      for (const Index length : lengths) {
        const auto at = static_cast<std::size_t>(length);
        targets.assign(at, padding_item);
        negatives.assign(at, padding_item);
        targets.back() = source.split->targets(users[n])[at - 1];
        negatives.back() = (*source.negatives)(users[n], random);
        batch.add(source.split->input(users[n], Split::train).first(at), targets, negatives);
      }
    });
  }

  /// f(n, lengths): the prefixes of the n-th user that are drawn in this step.
  void for_each_user(const BatchSource& source, std::span<const Index> users, auto f) const {
    require(limit >= 0, "prefixes of a user in a step: found ", limit, ", expected 0 (all) or more");
    std::vector<Index> lengths;
    for (std::size_t n = 0; n < users.size(); ++n) {
      lengths.resize(source.split->targets(users[n]).size());
      std::iota(lengths.begin(), lengths.end(), Index{1});
      if (limit > 0 && limit < static_cast<Index>(lengths.size())) {
        auto random = source.random(RandomTensor::prefixes, n);
        random.shuffle(std::span(lengths));
        lengths.resize(static_cast<std::size_t>(limit));
      }
      f(n, std::span<const Index>(lengths));
    }
  }
};

/// For each sequence of PrefixView, in its order, another prefix of the training data with the same target, drawn at
/// random among all; the sequence itself where it is the only one. Who is about to want the same has an intent in
/// common (ICSRec, Qin et al., WSDM 2024).
struct TwinView {
  PrefixView prefixes;  ///< as the model's PrefixView is set

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> targets;
    prefixes.for_each_user(source, users, [&](std::size_t n, std::span<const Index> lengths) {
      auto random = source.random(RandomTensor::twins, n);
      for (const Index length : lengths) {
        const ItemId target = source.split->targets(users[n])[static_cast<std::size_t>(length) - 1];
        const auto places = source.split->places_before(target);
        const auto itself = [&](const Place& place) { return place.user == users[n] && place.length == length; };
        Place twin{};
        do {
          twin = places[random.below(static_cast<std::uint32_t>(places.size()))];
        } while (places.size() > 1 && itself(twin));
        targets.assign(static_cast<std::size_t>(twin.length), padding_item);
        targets.back() = target;
        batch.add(source.split->input(twin.user, Split::train).first(targets.size()), targets);
      }
    });
  }
};

/// The paper's random augmentation.
using CropMaskReorder = RandomView<Crop, Mask, Reorder>;

/// Two augmented versions of each user's training input: sequences [0, B) are the first ones, [B, 2B) the second. The
/// whole history is augmented, then cut to L, as in the released code. Labels are the users' last target items.
template <Augmentation A = CropMaskReorder>
struct AugmentedPair {
  A augmentation{};

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> augmented;
    for (std::size_t n = 0; n < 2 * users.size(); ++n) {
      auto random = source.random(RandomTensor::augmentation, n);
      augmentation(source.split->input(users[n % users.size()], Split::train), random, augmented);
      batch.add(augmented);
    }
    for (const Index user : users) {
      batch.add_label(source.split->target(user, Split::train));
    }
    batch.index_positions();
  }
};

/// The sequences of V encoded once more, with dropout of its own.
template <class V>
struct Again {
  using Source = V;
};

/// The view whose sequences V encodes: V itself, or what it encodes again.
template <class V>
struct SourceOf {
  using Type = V;
};
template <class V>
struct SourceOf<Again<V>> {
  using Type = V;
};

}  // namespace elcrec
