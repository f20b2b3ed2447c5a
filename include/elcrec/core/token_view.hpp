#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// S sequences with T tokens in all, one after the other, without gaps between them (a ragged batch). Every per-token
/// matrix of the library is (T, columns) in this order. Under Padding::paper each sequence has L tokens, some of them
/// item 0; under Padding::masked only real tokens are here. Operations need not know which: item 0 is never a key of
/// attention, and a query without any key attends to its whole sequence.
///
/// Non-owning. A part of a batch (`subrange`) is a TokenView again. The arrays are in host memory until a backend has
/// staged the batch; then only that backend's operations may read them, `host_offsets` excepted.
struct TokenView {
  Index max_length = 0;    ///< L; positions are in [0, L), the last item of a sequence at L - 1
  Index longest = 0;       ///< no sequence has more tokens
  Index first_sample = 0;  ///< number of the first sequence in its batch: random numbers are addressed by it
  Index first_token = 0;   ///< offsets[0], known without reading `offsets`
  Index token_count = 0;   ///< T
  std::span<const std::int32_t> offsets;    ///< (S + 1) sequence s starts at offsets[s] - first_token
  std::span<const ItemId> items;            ///< (T)
  std::span<const std::int32_t> positions;  ///< (T)
  std::span<const ItemId> targets;          ///< (T) next item, 0 where there is none; or empty
  std::span<const ItemId> negatives;        ///< (T) sampled negative beside a target; or empty
  /// `offsets` in host memory, whatever memory the other arrays are in: by these a batch is cut into parts.
  std::span<const std::int32_t> host_offsets;

  // What concerns a batch as a whole; a subrange has none of it.
  Index target_count = 0;                       ///< tokens with a target
  std::span<const std::int32_t> target_tokens;  ///< (target_count) those tokens, ascending
  std::span<const std::int32_t> labels;         ///< a label for each user of an augmented pair: its target item
  GramIndex by_position;                        ///< which tokens share a position, where a view asks for it

  [[nodiscard]] constexpr Index sequences() const { return ssize(offsets) - 1; }
  [[nodiscard]] constexpr Index tokens() const { return token_count; }

  /// Sequence s holds the tokens [begin(s), begin(s + 1)). Reads backend memory.
  [[nodiscard]] constexpr Index begin(Index s) const { return offsets[static_cast<std::size_t>(s)] - first_token; }
  [[nodiscard]] constexpr Index end(Index s) const { return begin(s + 1); }
  [[nodiscard]] constexpr Index length(Index s) const { return end(s) - begin(s); }
  /// begin(s), from host memory.
  [[nodiscard]] Index host_begin(Index s) const { return host_offsets[static_cast<std::size_t>(s)] - first_token; }

  [[nodiscard]] constexpr ItemId item(Index t) const { return items[static_cast<std::size_t>(t)]; }
  [[nodiscard]] constexpr Index position(Index t) const { return positions[static_cast<std::size_t>(t)]; }

  /// Address of a token's random numbers: the same under both paddings and for any split of the batch.
  [[nodiscard]] constexpr std::uint64_t random_row(Index s, Index t) const {
    return static_cast<std::uint64_t>((first_sample + s) * max_length + position(t));
  }

  /// Sequences [first, last), in the same memory.
  [[nodiscard]] TokenView subrange(Index first, Index last) const {
    const Index t0 = host_begin(first);
    const Index t1 = host_begin(last);
    TokenView part = *this;
    part.first_sample += first;
    part.first_token += t0;
    part.token_count = t1 - t0;
    part.offsets = slice(offsets, first, last + 1);
    part.host_offsets = slice(host_offsets, first, last + 1);
    part.items = slice(items, t0, t1);
    part.positions = slice(positions, t0, t1);
    part.targets = targets.empty() ? targets : slice(targets, t0, t1);
    part.negatives = negatives.empty() ? negatives : slice(negatives, t0, t1);
    part.target_count = 0;
    part.target_tokens = {};
    part.labels = {};
    part.by_position = {};
    part.longest = 0;
    for (Index s = first; s < last; ++s) {
      part.longest = (std::max)(part.longest, host_begin(s + 1) - host_begin(s));
    }
    return part;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
