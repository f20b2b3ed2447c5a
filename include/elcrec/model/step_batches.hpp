#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <tuple>
#include <type_traits>

#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The sequences of one training step, a TokenBatch for every view that brings sequences of its own.
template <class Model>
class StepBatches {
 public:
  using SourceList = typename Model::SourceList;

  template <class V>
  [[nodiscard]] TokenBatch& of() {
    return batches_[SourceList::template index_of<V>()];
  }
  template <class V>
  [[nodiscard]] const TokenBatch& of() const {
    return batches_[SourceList::template index_of<V>()];
  }

  /// Of the source of this number in SourceList.
  [[nodiscard]] const TokenBatch& of(std::size_t source) const { return batches_[source]; }

  /// Builds the views that the model's objectives read, for these users.
  void build(const Model& model, const BatchSource& source, std::span<const Index> users) {
    Model::Views::for_each([&]<class V>(std::type_identity<V>) {
      using Source = typename SourceOf<V>::Type;
      auto& batch = of<Source>();
      const bool first_of_source = std::is_same_v<V, Source> || !reads<Source>(model);
      if (reads<V>(model) && first_of_source) {
        batch.start(model.max_length(), model.padding);
        model.template view<Source>().build(source, users, batch);
      }
    });
  }

  /// The number of view V's source in SourceList.
  template <class V>
  static constexpr std::size_t source_of = SourceList::template index_of<typename SourceOf<V>::Type>();

  /// How many views of each source any objective of the model reads now.
  [[nodiscard]] static std::array<Index, SourceList::size> views_read(const Model& model) {
    std::array<Index, SourceList::size> count{};
    Model::Views::for_each([&]<class V>(std::type_identity<V>) { count[source_of<V>] += reads<V>(model) ? 1 : 0; });
    return count;
  }

  /// Whether any objective of the model reads view V now.
  template <class V>
  [[nodiscard]] static bool reads(const Model& model) {
    return std::apply([](const auto&... objective) { return (reads_view<V>(objective) || ...); }, model.objectives);
  }

 private:
  std::array<TokenBatch, SourceList::size> batches_;
};

}  // namespace elcrec::inline ELCREC_TARGET
