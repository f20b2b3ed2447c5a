#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What a batch holds besides real items. Both give the same encoder output at real positions, next-item loss and
/// scores.
enum class Padding {
  paper,  ///< every sequence is filled up to L tokens with item 0 on the left, and padding takes part in means and sums
          ///< over positions, as in the released code
  masked  ///< real tokens only: 5 to 8 times less work on the paper's data
};

/// Owns the tokens of a batch in host memory and grows sequence by sequence. Reuse one object: its capacity stays.
class TokenBatch {
 public:
  /// Empties the batch.
  void start(Index max_length, Padding padding) {
    require(1 <= max_length && max_length <= most_tokens, "maximum length: found ", max_length, ", expected 1 to ",
            most_tokens);
    max_length_ = max_length;
    padding_ = padding;
    longest_ = 0;
    has_targets_ = false;
    has_negatives_ = false;
    offsets_.assign(1, 0);
    for (auto* list :
         {&items_, &positions_, &targets_, &negatives_, &target_tokens_, &labels_, &begins_, &samples_, &tokens_}) {
      list->clear();
    }
    index_ = {};
  }

  /// Appends a sequence: its last L items, the last one at position L - 1. Targets and negatives are parallel to the
  /// items, 0 where there is none, or empty. Throws ArgumentError if their number differs from the items', and for
  /// more tokens than an offset can count.
  void add(std::span<const ItemId> items, std::span<const ItemId> targets = {},
           std::span<const ItemId> negatives = {}) {
    const Index n = ssize(items);
    for (const Index count : {ssize(targets), ssize(negatives)}) {
      require(count == 0 || count == n, "batch: found ", count, " targets or negatives for ", n,
              " items, expected as many or none");
    }
    const Index most_added = padding_ == Padding::paper ? max_length_ : (std::min)(n, max_length_);
    require(most_added <= most_tokens - tokens(), "batch: found ", most_added, " tokens more than the ", tokens(),
            " in it, expected at most ", most_tokens, "; a smaller batch size or maximum length takes fewer");
    has_targets_ = has_targets_ || !targets.empty();
    has_negatives_ = has_negatives_ || !negatives.empty();
    const Index first = std::max<Index>(0, n - max_length_);
    const Index pad = max_length_ - (n - first);
    if (padding_ == Padding::paper) {
      for (Index p = 0; p < pad; ++p) {
        push(padding_item, p, padding_item, padding_item);
      }
    }
    for (Index i = first; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (padding_ == Padding::paper || items[at] != padding_item) {
        push(items[at], pad + i - first, targets.empty() ? padding_item : targets[at],
             negatives.empty() ? padding_item : negatives[at]);
      }
    }
    const auto end = static_cast<std::int32_t>(items_.size());
    longest_ = std::max<Index>(longest_, end - offsets_.back());
    offsets_.push_back(end);
  }

  /// Appends a label (see TokenView::labels).
  void add_label(ItemId label) { labels_.push_back(label); }

  /// Lists the tokens by position, for similarities of flattened sequences.
  void index_positions() {
    index_ = {.samples = sequences(),
              .positions = max_length_,
              .dense = tokens() == sequences() * max_length_,
              .begins = {},
              .sample = {},
              .token = {}};
    if (index_.dense) {
      return;
    }
    begins_.assign(static_cast<std::size_t>(max_length_) + 1, 0);
    for (const auto p : positions_) {
      ++begins_[static_cast<std::size_t>(p) + 1];
    }
    for (std::size_t p = 1; p < begins_.size(); ++p) {
      begins_[p] += begins_[p - 1];
    }
    samples_.resize(items_.size());
    tokens_.resize(items_.size());
    std::vector<std::int32_t> next(begins_.begin(), begins_.end() - 1);
    for (std::size_t s = 0; s + 1 < offsets_.size(); ++s) {
      for (std::int32_t t = offsets_[s]; t < offsets_[s + 1]; ++t) {
        const auto entry =
            static_cast<std::size_t>(next[static_cast<std::size_t>(positions_[static_cast<std::size_t>(t)])]++);
        samples_[entry] = static_cast<std::int32_t>(s);
        tokens_[entry] = t;
      }
    }
  }

  [[nodiscard]] Index sequences() const { return offsets_.empty() ? 0 : static_cast<Index>(offsets_.size()) - 1; }
  [[nodiscard]] Index tokens() const { return static_cast<Index>(items_.size()); }

  /// Valid until the batch changes.
  [[nodiscard]] TokenView view() const {
    TokenView v;
    v.max_length = max_length_;
    v.longest = longest_;
    v.token_count = tokens();
    v.offsets = offsets_.empty() ? std::span(no_sequences) : std::span(offsets_);
    v.host_offsets = v.offsets;
    v.items = items_;
    v.positions = positions_;
    v.targets = has_targets_ ? std::span(targets_) : std::span<const ItemId>{};
    v.negatives = has_negatives_ ? std::span(negatives_) : std::span<const ItemId>{};
    v.target_count = static_cast<Index>(target_tokens_.size());
    v.target_tokens = target_tokens_;
    v.labels = labels_;
    v.by_position = index_;
    v.by_position.begins = begins_;
    v.by_position.sample = samples_;
    v.by_position.token = tokens_;
    return v;
  }

 private:
  void push(ItemId item, Index position, ItemId target, ItemId negative) {
    if (target != padding_item) {
      target_tokens_.push_back(static_cast<std::int32_t>(items_.size()));
    }
    targets_.push_back(target);
    negatives_.push_back(negative);
    items_.push_back(item);
    positions_.push_back(static_cast<std::int32_t>(position));
  }

  static constexpr Index most_tokens = (std::numeric_limits<std::int32_t>::max)();

  static constexpr std::array<std::int32_t, 1> no_sequences{0};

  Index max_length_ = 1;
  Padding padding_ = Padding::masked;
  Index longest_ = 0;
  bool has_targets_ = false;
  bool has_negatives_ = false;
  std::vector<std::int32_t> offsets_;  // empty as long as nothing was added: a new batch allocates nothing
  std::vector<std::int32_t> items_;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> targets_;
  std::vector<std::int32_t> negatives_;
  std::vector<std::int32_t> target_tokens_;
  std::vector<std::int32_t> labels_;
  std::vector<std::int32_t> begins_;
  std::vector<std::int32_t> samples_;
  std::vector<std::int32_t> tokens_;
  GramIndex index_;  // without its lists, which are the three vectors: a copy has its own
};

}  // namespace elcrec::inline ELCREC_TARGET
