#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/data/augmentation.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/negative_sampler.hpp"
#include "elcrec/data/token_batch.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What views of users are made from, and the random numbers of one training step.
struct BatchSource {
  const LeaveOneOut* split = nullptr;
  const UniformNegativeSampler* negatives = nullptr;  ///< null where no objective reads them: the views bring none
  std::uint64_t seed = 0;
  std::uint32_t step = 0;

  /// Draws for the n-th sequence that a view builds.
  [[nodiscard]] RandomEngine random(RandomTensor tensor, std::size_t n) const {
    return RandomEngine({seed, step, static_cast<std::uint32_t>(tensor)}, static_cast<std::uint32_t>(n));
  }
};

/// A way to look at users: makes the sequences that an objective wants encoded. `batch` was started by the caller.
/// `needs_causal` is false in a view none of whose targets is a later token of its own sequence: any encoder may be
/// trained on it then. A view that does not say needs a causal one. `name` is for messages, if there is one.
template <class V>
concept View = std::default_initializable<V> &&
    requires(const V& view, const BatchSource& source, std::span<const Index> users, TokenBatch& batch) {
  view.build(source, users, batch);
};

/// The training input items[:-3] of each user with its targets items[1:-2] and, if the source draws them, a negative
/// for each target.
struct InputView {
  static constexpr std::string_view name = "InputView";
  static constexpr bool needs_causal = true;

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      auto random = source.random(RandomTensor::negatives, n);
      const auto input = source.split->input(users[n], Split::train);
      negatives.resize(source.negatives != nullptr ? input.size() : 0);
      for (auto& item : negatives) {
        item = (*source.negatives)(users[n], random);
      }
      batch.add(input, source.split->targets(users[n]), negatives);
    }
  }
};

/// Every prefix of the training input of each user as a sequence of its own, with what follows it as the target of its
/// last token, and a sampled negative beside it as in InputView. The targets are those of InputView, one a sequence; an
/// encoder may look at the whole of it, so it need not be causal.
struct PrefixView {
  static constexpr bool needs_causal = false;

  void build(const BatchSource& source, std::span<const Index> users, TokenBatch& batch) const {
    std::vector<ItemId> targets;
    std::vector<ItemId> negatives;
    for (std::size_t n = 0; n < users.size(); ++n) {
      auto random = source.random(RandomTensor::negatives, n);
      const auto input = source.split->input(users[n], Split::train);
      for (std::size_t length = 1; length <= input.size(); ++length) {
        targets.assign(length, padding_item);
        targets.back() = source.split->targets(users[n])[length - 1];
        if (source.negatives != nullptr) {
          negatives.assign(length, padding_item);
          negatives.back() = (*source.negatives)(users[n], random);
        }
        batch.add(input.first(length), targets, negatives);
      }
    }
  }
};

/// The paper's random augmentation.
using CropMaskReorder = RandomView<Crop, Mask, Reorder>;

/// Two augmented versions of each user's training input: sequences [0, B) are the first ones, [B, 2B) the second. The
/// whole history is augmented, then cut to L, as in the released code. Labels are the users' last target items.
template <Augmentation A = CropMaskReorder>
struct AugmentedPair {
  static constexpr bool needs_causal = false;

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

/// Whether a target of V may be a later token of its own sequence.
template <class V>
[[nodiscard]] consteval bool needs_causal() {
  using Source = typename SourceOf<V>::Type;
  if constexpr (requires { Source::needs_causal; }) {
    return Source::needs_causal;
  } else {
    return true;
  }
}

/// V's name in messages.
template <class V>
[[nodiscard]] constexpr std::string_view view_name() {
  using Source = typename SourceOf<V>::Type;
  if constexpr (requires { Source::name; }) {
    return Source::name;
  } else {
    return "a view without `needs_causal = false`";
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
