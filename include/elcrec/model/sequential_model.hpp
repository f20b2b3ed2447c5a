#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "elcrec/cluster/k_means_stages.hpp"
#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/head/dot.hpp"
#include "elcrec/head/scoring_head.hpp"
#include "elcrec/io/checkpoint_keys.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/model/model_options.hpp"
#include "elcrec/model/query.hpp"
#include "elcrec/model/scored_items.hpp"
#include "elcrec/nn/clone.hpp"
#include "elcrec/nn/embedding_table.hpp"
#include "elcrec/nn/part.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The catalogue of a model and how its table starts: rows N(0, deviation²).
struct ItemTableOptions {
  Index items = 0;  ///< real items, ids 1 .. items
  std::uint64_t seed = 0;
  double deviation = 0.02;

  // NOLINTNEXTLINE(google-explicit-constructor): a number of items says enough
  ItemTableOptions(Index item_count, std::uint64_t random_seed = 0, double standard_deviation = 0.02)
      : items(item_count), seed(random_seed), deviation(standard_deviation) {}
};

namespace detail {

template <class C>
struct IsPart : std::bool_constant<Part<C>> {};
template <class C>
struct IsObjective : std::bool_constant<Objective<C>> {};
template <class C>
struct IsUpdate : std::bool_constant<ModelUpdate<C>> {};
template <class C>
struct IsClusters : std::bool_constant<Part<C> && Clusters<C>> {};
template <class C>
struct IsHead : std::bool_constant<ScoringHead<C>> {};
template <class C>
struct IsQuery : std::bool_constant<QueryRule<C>> {};
template <class C>
struct TakesTurns : std::bool_constant<Objective<C> || ModelUpdate<C>> {};

}  // namespace detail

/// What a SequentialModel is composed of besides its encoder: true, or a compile-time error that says what C lacks.
template <class C>
consteval bool check_component() {
  if constexpr (!Part<C> && !ModelUpdate<C> && !QueryRule<C>) {
    static_assert(
        requires { typename C::Views; },
        "a component of the model is no Part, no ModelUpdate, no QueryRule and no Objective: as one it lacks `Views`");
    static_assert(
        requires(const C& c) {
          { C::name } -> std::convertible_to<std::string_view>;
          { c.weight } -> std::convertible_to<double>;
        },
        "a component of the model is no Objective: it lacks a `name` for logs or a `weight`");
    static_assert(
        requires(const C& c, StepArchetype& step) { c.evaluate(step); },
        "a component of the model is no Objective: it lacks `void evaluate(TrainingStep auto& step) const`");
    static_assert(std::copy_constructible<C>, "a component of the model is no Objective: it cannot be copied");
  }
  return true;
}

/// A sequential recommender: an item table, an encoder over it, further parts (as LearnableClusters), and the
/// objectives that train them, evaluated in the order in which they stand here; what changes the model at its place
/// among them (ModelUpdate) stands there too. The score of item v after a history is what the model's head (head/)
/// makes of the encoding of its last token and row v; of a model that names none, their product y_last · E[v]. Encoding
/// and scoring are const and may run on many threads.
///
///   SequentialModel<TransformerEncoder<64, Cpu>, LearnableClusters<128, 64, Cpu>, NextItemSoftmax, ProjectCenters,
///                   ClusterLoss, IntentContrastiveLoss<>>
template <SequenceEncoder Encoder, class... Components>
class SequentialModel {
  static_assert((check_component<Components>() && ...));

 public:
  using Backend = typename Encoder::Backend;
  using Scalar = typename Backend::Scalar;
  using Lane = typename Backend::Lane;
  using EncoderType = Encoder;
  using Composition = SequentialModel;
  using ComponentList = TypeList<Components...>;
  using PartList = FilteredList<detail::IsPart, Components...>;
  using ObjectiveList = FilteredList<detail::IsObjective, Components...>;
  using UpdateList = FilteredList<detail::IsUpdate, Components...>;
  /// Objectives and updates in the order of a step.
  using TurnList = FilteredList<detail::TakesTurns, Components...>;

 private:
  template <class List>
  struct Lists;
  template <class... Ts>
  struct Lists<TypeList<Ts...>> {
    template <class... Os>
    static UnionOf<typename Os::Views...> views(TypeList<Os...>);
    using Sources = UnionOf<TypeList<typename SourceOf<Ts>::Type>...>;
  };

 public:
  /// The views that the objectives name, and the ones among them that bring sequences of their own.
  using Views = decltype(Lists<TypeList<>>::views(ObjectiveList()));
  using SourceList = typename Lists<Views>::Sources;

  static constexpr bool has_clusters = FilteredList<detail::IsClusters, Components...>::size > 0;
  static_assert(FilteredList<detail::IsClusters, Components...>::size <= 1, "a model has one set of intents at most");
  static_assert(FilteredList<detail::IsHead, Components...>::size <= 1, "a model has one head at most");
  /// What turns an encoding and the item table into scores.
  using HeadType = typename FirstOf<AppendedList<FilteredList<detail::IsHead, Components...>, DotHead<Backend>>>::Type;

  /// The item table has two rows besides the items: padding (row 0, drawn like the others and never trained) and, last,
  /// a mask id, as in the released code. `parts` are the components that are parts, in their order.
  template <class... Parts>
  SequentialModel(const Backend& backend, const ItemTableOptions& table, Encoder encoder_part, Parts... parts)
      : encoder(std::move(encoder_part)),
        backend_(backend),
        items_(backend, std::string(item_table_tensor), checked(table.items) + 2, encoder.hidden(), padding_item,
               "the item table"),
        parts_(std::move(parts)...),
        seed_(table.seed) {
    static_assert(std::is_same_v<TypeList<Parts...>, PartList>, "a model is made of its parts, in their order");
    if constexpr (requires { head().table_rows(); }) {
      require(head().table_rows() == items_.rows(), "head: found one for a table of ", head().table_rows(),
              " rows, expected the items and two more, ", items_.rows());
    }
    initialise_normal(backend, table.seed, 0, table.deviation, items_.view());
  }

  /// A model of the same components and settings on another backend, its parameters anything (see clone).
  template <class To>
  [[nodiscard]] auto remake(const To& backend) const {
    using Remade = SequentialModel<decltype(elcrec::remake(encoder, backend)),
                                   decltype(elcrec::remake(std::declval<const Components&>(), backend))...>;
    Remade made(backend, elcrec::remake(encoder, backend), items_.remake(backend),
                std::apply([&](const auto&... part) { return std::tuple(elcrec::remake(part, backend)...); }, parts_));
    made.objectives = objectives;
    made.updates = updates;
    made.padding = padding;
    made.pooling = pooling;
    made.views_ = views_;
    made.seed_ = seed_;
    return made;
  }

  [[nodiscard]] const Backend& backend() const { return backend_; }
  /// Real items, ids 1 .. item_count().
  [[nodiscard]] Index item_count() const { return items_.rows() - 2; }
  /// The id of the mask, the last row of the item table.
  [[nodiscard]] ItemId mask_item() const { return static_cast<ItemId>(items_.rows() - 1); }
  [[nodiscard]] Index hidden() const { return encoder.hidden(); }
  [[nodiscard]] Index max_length() const { return encoder.max_length(); }
  /// That the item table started from.
  [[nodiscard]] std::uint64_t seed() const { return seed_; }

  /// What a file says of the model besides its parameters: every setting as it is now (see ModelOptions). For
  /// compositions of described components. Throws ArgumentError if a part's visit_shapes is not what the part has.
  [[nodiscard]] std::map<std::string, std::string> metadata() const requires DescribedModel<SequentialModel> {
    const auto options = options_of(*this);
    check_shapes(*this, options);
    return to_metadata(options);
  }

  [[nodiscard]] MatrixView<Scalar> items() { return items_.view(); }              // (V, D), V = items + 2
  [[nodiscard]] MatrixView<const Scalar> items() const { return items_.view(); }  // (V, D)

  template <class O>
  [[nodiscard]] O& objective() {
    return std::get<O>(objectives);
  }
  template <class P>
  [[nodiscard]] P& part() {
    return std::get<P>(parts_);
  }
  template <class P>
  [[nodiscard]] const P& part() const {
    return std::get<P>(parts_);
  }
  /// The part that is a set of intents.
  [[nodiscard]] auto& clusters() requires has_clusters { return part<ClustersType>(); }
  [[nodiscard]] const auto& clusters() const requires has_clusters { return part<ClustersType>(); }

  [[nodiscard]] const HeadType& head() const {
    if constexpr (PartList::template contains<HeadType>) {
      return part<HeadType>();
    } else {
      static constexpr HeadType none{};
      return none;
    }
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

  // ---- what evaluation and serving ask for: see ScoringModel (model/scoring_model.hpp) ---------------------------

  /// Appends the sequence that asks what comes after a history.
  void add_query(TokenBatch& batch, std::span<const ItemId> history, UserId user = 0) const {
    using Query = typename FirstOf<AppendedList<FilteredList<detail::IsQuery, Components...>, LastItemQuery>>::Type;
    Query().add(batch, history, user, mask_item());
  }
  [[nodiscard]] Index query_columns() const { return head().columns(hidden()); }
  [[nodiscard]] ScoredItems<Backend> scored_items() const { return {backend_, head(), items()}; }
  /// Throws nothing but for want of memory.
  void encode_query(Lane& lane, const TokenView& tokens, MatrixView<Scalar> q) const {
    if constexpr (HeadType::plain) {
      encode_last(lane, tokens, q);
    } else {
      const auto frame = lane.workspace().frame();
      const auto y = lane.workspace().template matrix<Scalar>(tokens.sequences(), hidden());
      const auto norms = lane.workspace().template matrix<Scalar>(1, tokens.sequences());
      encode_last(lane, tokens, y);
      head().queries(lane, y, norms, q);
    }
  }

  /// y (S, D): the encoding of each sequence's last token, without dropout. Uses the lane's workspace only; throws
  /// nothing.
  void encode_last(Lane& lane, const TokenView& tokens, MatrixView<Scalar> y) const {
    if constexpr (EncodesLast<Encoder>) {
      const auto frame = lane.workspace().frame();
      encoder.forward_last(Pass<Backend>{lane, lane.workspace(), {}}, tokens, items(), y);
    } else {
      encode(lane, tokens, [&](MatrixView<const Scalar> x) { last_pool(lane, tokens, x, y); });
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

  /// f(part...) of every part: the further ones in their order, the item table, the encoder.
  static decltype(auto) apply_to_parts(auto& self, auto&& f) {
    return std::apply([&](auto&... part) -> decltype(auto) { return f(part..., self.items_, self.encoder); },
                      self.parts_);
  }
  using AllParts = AppendedList<PartList, EmbeddingTable<Backend>, Encoder>;

  /// The stages of training that a Trainer takes where it is given none: centers start from k-means.
  [[nodiscard]] static auto stages() {
    if constexpr (has_clusters) {
      return std::tuple<KMeansStart>();
    } else {
      return std::tuple<>();
    }
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    apply_to_parts(
        self, [&]<class... Ps>(Ps&... parts) { (std::remove_const_t<Ps>::visit_parameters(parts, visitor), ...); });
  }

  /// f(objective or update) in the order of a step, without the updates that no objective with a weight comes after.
  void for_each_turn(auto&& f) const {
    auto left =
        std::apply([](const auto&... objective) { return ((objective.weight != 0 ? 1 : 0) + ... + 0); }, objectives);
    TurnList::for_each([&]<class C>(std::type_identity<C>) {
      if constexpr (Objective<C>) {
        left -= std::get<C>(objectives).weight != 0 ? 1 : 0;
        f(std::get<C>(objectives));
      } else if (left > 0) {
        f(std::get<C>(updates));
      }
    });
  }

  Encoder encoder;
  typename ObjectiveList::Tuple objectives;
  typename UpdateList::Tuple updates;
  Padding padding = Padding::masked;
  Pooling pooling = Pooling::mean;  ///< of a user's tokens to what has an intent

 private:
  template <SequenceEncoder, class...>
  friend class SequentialModel;

  SequentialModel(const Backend& backend, Encoder encoder_part, EmbeddingTable<Backend> table,
                  typename PartList::Tuple parts)
      : encoder(std::move(encoder_part)), backend_(backend), items_(std::move(table)), parts_(std::move(parts)) {}

  using ClustersType = typename FirstOf<FilteredList<detail::IsClusters, Components...>>::Type;

  static Index checked(Index items) {
    require(items >= 1 && items < (std::int64_t{1} << 31) - 2, "items: found ", items, ", expected 1 to 2^31 - 3");
    return items;
  }

  Backend backend_;
  EmbeddingTable<Backend> items_;  // (V, D)
  typename PartList::Tuple parts_;
  typename SourceList::Tuple views_;
  std::uint64_t seed_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
