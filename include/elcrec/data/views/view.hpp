#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
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
  Index negatives_per_target = 1;  ///< N, the width of the column Negatives

  /// Draws for the n-th sequence that a view builds.
  [[nodiscard]] RandomEngine random(RandomTensor tensor, std::size_t n) const {
    return RandomEngine({seed, step, static_cast<std::uint32_t>(tensor)}, static_cast<std::uint32_t>(n));
  }

  /// list (T, N), replaced: negatives of the user beside each target that is not 0, in order; empty where none are
  /// drawn.
  void draw_negatives(Index user, std::span<const ItemId> targets, RandomEngine& random,
                      std::vector<ItemId>& list) const {
    list.clear();
    if (negatives == nullptr) {
      return;
    }
    require(negatives_per_target >= 1, "negatives for each target: found ", negatives_per_target,
            ", expected at least 1");
    const auto width = static_cast<std::size_t>(negatives_per_target);
    list.assign(targets.size() * width, padding_item);
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (targets[t] != padding_item) {
        std::generate_n(list.begin() + static_cast<Index>(t * width), width,
                        [&] { return (*negatives)(user, random); });
      }
    }
  }
};

/// A way to look at users: makes the sequences that an objective wants encoded, with the columns (data/columns.hpp and
/// others) that it reads. `batch` was started by the caller. `needs_causal` is false in a view none of whose targets is
/// a later token of its own sequence: any encoder may be trained on it then. A view that does not say needs a causal
/// one. `name` is for messages, if there is one.
template <class V>
concept View = std::default_initializable<V> &&
    requires(const V& view, const BatchSource& source, std::span<const Index> users, TokenBatch& batch) {
  view.build(source, users, batch);
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
