#pragma once

#include <cstdint>
#include <tuple>
#include <utility>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/nn/clone.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Whether a model part is a set of intents (LearnableClusters) and not NoClusters.
template <class C>
concept Clusters = requires(const C& clusters) {
  clusters.centers();
};

/// A sequential recommender: an item table, an encoder over it, perhaps intents, and the objectives that train them.
/// The score of item v after a history is y_last · E[v]. Encoding and scoring are const and may run on many threads.
/// A copy has parameters of its own and shares the backend, a handle; clone (nn/clone.hpp) puts them on another.
template <SequenceEncoder Encoder, class ClustersOrNone, Objective... Objectives>
class SequentialModel {
 public:
  using Backend = typename Encoder::Backend;
  using Scalar = typename Backend::Scalar;
  using Lane = typename Backend::Lane;
  using EncoderType = Encoder;
  using ClustersType = ClustersOrNone;
  using ObjectiveList = TypeList<Objectives...>;
  /// The views that the objectives name, and the ones among them that bring sequences of their own.
  using Views = UnionOf<typename Objectives::Views...>;
  template <class List>
  struct Sources;
  template <class... Vs>
  struct Sources<TypeList<Vs...>> {
    using Type = UnionOf<TypeList<typename SourceOf<Vs>::Type>...>;
  };
  using SourceList = typename Sources<Views>::Type;

  static constexpr bool has_clusters = Clusters<ClustersOrNone>;

  /// The item table has two rows besides the items: padding (row 0, drawn like the others and never trained) and, last,
  /// a mask id, as in the released code. It starts as N(0, deviation²).
  SequentialModel(const Backend& backend, Index items, Encoder encoder_part, ClustersOrNone clusters_part,
                  std::uint64_t seed = 0, double deviation = 0.02)
      : encoder(std::move(encoder_part)),
        clusters(std::move(clusters_part)),
        backend_(backend),
        items_(item_table(backend, checked(items) + 2, encoder.hidden())) {
    initialise_normal(backend, seed, 0, deviation, items_.view());
  }

  /// A model of the same parts and settings on another backend, its parameters anything (see clone).
  template <class To>
  [[nodiscard]] auto remake(const To& backend) const {
    auto encoder_part = elcrec::remake(encoder, backend);
    auto clusters_part = elcrec::remake(clusters, backend);
    using Remade = SequentialModel<decltype(encoder_part), decltype(clusters_part), Objectives...>;
    Remade model(backend, Remade::item_table(backend, items_.rows(), hidden()), std::move(encoder_part),
                 std::move(clusters_part));
    model.objectives = objectives;
    model.padding = padding;
    model.pooling = pooling;
    model.views_ = views_;
    return model;
  }

  [[nodiscard]] const Backend& backend() const { return backend_; }
  /// Real items, ids 1 .. item_count().
  [[nodiscard]] Index item_count() const { return items_.rows() - 2; }
  [[nodiscard]] Index hidden() const { return encoder.hidden(); }
  [[nodiscard]] Index max_length() const { return encoder.max_length(); }

  [[nodiscard]] MatrixView<Scalar> items() { return items_.view(); }              // (V, D), V = items + 2
  [[nodiscard]] MatrixView<const Scalar> items() const { return items_.view(); }  // (V, D)

  template <class O>
  [[nodiscard]] O& objective() {
    return std::get<O>(objectives);
  }
  /// The view object of type V, whose options may be set.
  template <class V>
  [[nodiscard]] V& view() {
    return std::get<V>(views_);
  }
  template <class V>
  [[nodiscard]] const V& view() const {
    return std::get<V>(views_);
  }

  /// y (S, D): the encoding of each sequence's last token, without dropout. Uses the lane's workspace only; throws
  /// nothing.
  void encode_last(Lane& lane, const TokenView& tokens, MatrixView<Scalar> y) const {
    if constexpr (EncodesLast<Encoder>) {
      const auto frame = lane.workspace().frame();
      encoder.forward_last(Pass<Backend>{lane, lane.workspace(), {}}, tokens, items(), y);
    } else {
      encode(lane, tokens, [&](MatrixView<const Scalar> x) { lane.last_pool(tokens, x, y); });
    }
  }

  /// y (S, pooled_columns): the user embedding before its normalisation, without dropout.
  void encode_user(Lane& lane, const TokenView& tokens, MatrixView<Scalar> y) const {
    if (pooling == Pooling::last) {
      encode_last(lane, tokens, y);
    } else {
      encode(lane, tokens, [&](MatrixView<const Scalar> x) { pool(lane, pooling, tokens, x, y); });
    }
  }

  /// consume(x) with the encoding x (T, D) of all tokens, without dropout; x lives in the lane's workspace.
  template <class Consume>
  void encode(Lane& lane, const TokenView& tokens, Consume consume) const {
    const auto frame = lane.workspace().frame();
    const Pass<Backend> pass{lane, lane.workspace(), {}};
    const auto x = pass.keep(tokens.tokens(), hidden());
    typename Encoder::Cache cache;
    encoder.forward(pass, tokens, items(), cache, x);
    consume(MatrixView<const Scalar>(x));
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    ClustersOrNone::visit_parameters(self.clusters, visitor);
    visitor("item_embeddings.weight", self.items(), 2);
    Encoder::visit_parameters(self.encoder, visitor);
  }

  Encoder encoder;
  ClustersOrNone clusters;
  std::tuple<Objectives...> objectives;
  Padding padding = Padding::masked;
  Pooling pooling = Pooling::mean;  ///< of a user's tokens to what has an intent

 private:
  template <SequenceEncoder, class, Objective...>
  friend class SequentialModel;

  SequentialModel(const Backend& backend, Matrix<Backend> items, Encoder encoder_part, ClustersOrNone clusters_part)
      : encoder(std::move(encoder_part)),
        clusters(std::move(clusters_part)),
        backend_(backend),
        items_(std::move(items)) {}

  static Matrix<Backend> item_table(const Backend& backend, Index rows, Index hidden) {
    return in_memory_for(message("the item table, ", rows, " x ", hidden), "a smaller `hidden`",
                         [&] { return Matrix<Backend>(backend, rows, hidden); });
  }
  static Index checked(Index items) {
    require(items >= 1 && items < (std::int64_t{1} << 31) - 2, "items: found ", items, ", expected 1 to 2^31 - 3");
    return items;
  }

  template <class List>
  struct TupleOf;
  template <class... Vs>
  struct TupleOf<TypeList<Vs...>> {
    using Type = std::tuple<Vs...>;
  };

  Backend backend_;
  Matrix<Backend> items_;  // (V, D)
  typename TupleOf<SourceList>::Type views_;
};

}  // namespace elcrec::inline ELCREC_TARGET
