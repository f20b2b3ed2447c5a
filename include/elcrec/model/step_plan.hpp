#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/data/batch_slice.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/model/step_batches.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Bytes that a training step may take if nothing else is said.
inline constexpr std::size_t usual_step_memory = std::size_t{1} << 30;

/// How a training step keeps within its memory. The sequences of views that are read by sums over samples alone
/// (sums_over_samples) pass in phases of as many as fit; all other views are encoded in the first phase, and where that
/// is too much they keep nothing for the backward pass, which encodes them once more.
template <class Model>
class StepPlan {
 public:
  using SourceList = typename Model::SourceList;

  /// The whole step at once.
  StepPlan() = default;

  /// For batches whose tokens take `bytes` each in each view. What is encoded again passes in runs, `runs` at a time.
  StepPlan(const Model& model, const StepBatches<Model>& batches, Index bytes, Index budget, Index runs) {
    const auto views = StepBatches<Model>::views_read(model);
    const auto tokens = [&](std::size_t source) { return views[source] * batches.of(source).tokens(); };
    const auto sums = read_by_sums(model);
    Index whole = 0;
    Index phased = 0;
    Index phased_sources = 0;
    for (std::size_t s = 0; s < SourceList::size; ++s) {
      (sums[s] ? phased : whole) += tokens(s) * bytes;
      phased_sources += sums[s] && views[s] > 0 ? 1 : 0;
    }
    if (whole + phased <= budget) {
      return;
    }
    encodes_again_ = whole > (phased_sources > 0 ? budget / 2 : budget);
    const Index left = encodes_again_ ? budget / 2 : budget - whole;
    run_tokens_ = left / (bytes * runs);
    for (std::size_t s = 0; s < SourceList::size; ++s) {
      if (sums[s] && views[s] > 0) {
        ranges_[s] = ranges_of(batches.of(s), left / (phased_sources * views[s] * bytes));
        phases_ = (std::max)(phases_, ranges_[s].size());
      }
    }
  }

  [[nodiscard]] std::size_t phases() const { return phases_; }
  /// Whether the sequences of a source pass in phases.
  [[nodiscard]] bool in_phases(std::size_t source) const { return !ranges_[source].empty(); }
  /// Whether any sequence of a source passes in this phase.
  [[nodiscard]] bool takes_part(std::size_t source, std::size_t phase) const {
    return in_phases(source) ? phase < ranges_[source].size() : phase == 0;
  }
  /// The sequences [first, last) of a source in phases that pass in this one.
  [[nodiscard]] std::pair<Index, Index> range(std::size_t source, std::size_t phase) const {
    return ranges_[source][phase];
  }
  /// Whether the backward pass encodes views once more that do not pass in phases, `run_tokens` tokens at a time.
  [[nodiscard]] bool encodes_again() const { return encodes_again_; }
  [[nodiscard]] Index run_tokens() const { return run_tokens_; }

 private:
  template <class O>
  static constexpr bool sums() {
    if constexpr (requires { O::sums_over_samples; }) {
      return O::sums_over_samples;
    } else {
      return false;
    }
  }

  /// Whether nothing reads a source but sums over samples that read no other source and stand before what changes the
  /// model.
  static std::array<bool, SourceList::size> read_by_sums(const Model& model) {
    std::array<bool, SourceList::size> result;
    result.fill(true);
    bool changed = false;
    model.for_each_turn([&]<class C>(const C& component) {
      if constexpr (Objective<C>) {
        std::array<bool, SourceList::size> read{};
        C::Views::for_each([&]<class V>(std::type_identity<V>) {
          auto& source = read[StepBatches<Model>::template source_of<V>];
          source = source || reads_view<V>(component);
        });
        if (changed || !sums<C>() || std::count(read.begin(), read.end(), true) > 1) {
          for (std::size_t s = 0; s < SourceList::size; ++s) {
            result[s] = result[s] && !read[s];
          }
        }
      } else {
        changed = true;
      }
    });
    return result;
  }

  /// Cuts a batch into runs of at most `most` tokens, or of one sequence.
  static std::vector<std::pair<Index, Index>> ranges_of(const TokenBatch& batch, Index most) {
    std::vector<std::pair<Index, Index>> ranges;
    const TokenView tokens = batch.view();
    for (const BatchSlice& run : runs_of(tokens, 0, tokens.sequences(), most)) {
      ranges.emplace_back(run.first_sequence, run.last_sequence);
    }
    return ranges;
  }

  std::array<std::vector<std::pair<Index, Index>>, SourceList::size> ranges_;
  std::size_t phases_ = 1;
  bool encodes_again_ = false;
  Index run_tokens_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
