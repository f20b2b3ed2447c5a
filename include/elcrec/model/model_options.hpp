#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/core/type_list.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/io/checkpoint_keys.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/nn/part.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The `format` of files whose metadata describe their model as ModelOptions does. Files from elsewhere have "pt"
/// there, PyTorch's, or nothing; so have ELCRec's older checkpoints.
inline constexpr std::string_view model_format = "elcrec 2";

namespace detail {

template <class List>
struct AllDescribed;
template <class... Ts>
struct AllDescribed<TypeList<Ts...>> {
  static constexpr bool as_parts = (DescribedPart<Ts> && ...);
  static constexpr bool as_settings = (Described<Ts> && ...);
  static constexpr bool by_name = (Named<Ts> && ...);
};

template <class List>
struct OptionsOfParts;
template <class... Ps>
struct OptionsOfParts<TypeList<Ps...>> {
  using Tuple = std::tuple<typename Ps::Options...>;
};

}  // namespace detail

/// A composition whose every component can be written down: see check_described for what each of them needs.
template <class Model>
concept DescribedModel =
    DescribedPart<typename Model::EncoderType> && detail::AllDescribed<typename Model::ComponentList>::by_name &&
    detail::AllDescribed<typename Model::PartList>::as_parts &&
    detail::AllDescribed<typename Model::ObjectiveList>::as_settings &&
    detail::AllDescribed<typename Model::UpdateList>::as_settings &&
    detail::AllDescribed<typename Model::SourceList>::as_settings;

/// True, or a compile-time error that says which kind of component of the model lacks what to be saved and loaded.
template <class Model>
consteval bool check_described() {
  static_assert(DescribedPart<typename Model::EncoderType>,
                "to be saved or loaded, the model's encoder needs `name`, `Options`, `options()`, `visit_shapes` and a "
                "constructor from (backend, options): see DescribedPart in nn/part.hpp");
  static_assert(detail::AllDescribed<typename Model::PartList>::as_parts,
                "to be saved or loaded, a part of the model needs `name`, `Options`, `options()`, `visit_shapes` and a "
                "constructor from (backend, options): see DescribedPart in nn/part.hpp");
  static_assert(detail::AllDescribed<typename Model::ObjectiveList>::as_settings,
                "to be saved or loaded, an objective of the model needs `visit_options`: see core/options.hpp");
  static_assert(detail::AllDescribed<typename Model::UpdateList>::as_settings,
                "to be saved or loaded, an update of the model needs a `name` and, unless it is empty, "
                "`visit_options`: see core/options.hpp");
  static_assert(detail::AllDescribed<typename Model::SourceList>::as_settings,
                "to be saved or loaded, a view of the model, and what it consists of, needs a `name` and, unless it is "
                "empty, `visit_options`: see core/options.hpp");
  static_assert(detail::AllDescribed<typename Model::ComponentList>::by_name,
                "to be saved or loaded, every component of the model needs a `name`");
  return true;
}

/// The composition's name, which a file is compared with: its components', in their order.
template <class Model>
[[nodiscard]] std::string composition_name() {
  std::string name(Model::EncoderType::name);
  Model::ComponentList::for_each([&]<class C>(std::type_identity<C>) { name.append(" + ").append(C::name); });
  return name;
}

/// All that a model is besides its parameters: every setting of its components by name, so that a model made of them
/// with the same parameters trains on to the same bits. Only what tells how parameters start is left out, but for the
/// seed.
///
///   items, seed, padding, pooling, encoder.hidden, clusters.count, objective.next_item.weight,
///   view.AugmentedPair.random.crop.ratio, ...
template <class Model>
struct ModelOptions {
  Index items = 0;         ///< real items, ids 1 .. items
  std::uint64_t seed = 0;  ///< that the item table started from
  Padding padding = Padding::masked;
  Pooling pooling = Pooling::mean;
  typename Model::EncoderType::Options encoder{};
  typename detail::OptionsOfParts<typename Model::PartList>::Tuple parts{};
  typename Model::ObjectiveList::Tuple objectives{};
  typename Model::UpdateList::Tuple updates{};
  typename Model::SourceList::Tuple views{};

  static void visit_options(auto& self, auto&& visitor) {
    visitor("items", self.items);
    visitor("seed", self.seed);
    visitor("padding", self.padding);
    visitor("pooling", self.pooling);
    visitor("encoder", self.encoder);
    for_each_part(self, [&]<class P>(std::type_identity<P>, auto& options) { visitor(P::name, options); });
    const auto in = [&](const char* group) {
      return
          [&visitor, group](const std::string& name, auto& settings) { visitor(message(group, '.', name), settings); };
    };
    visit_named(self.objectives, in("objective"));
    visit_named(self.updates, in("update"));
    visit_named(self.views, in("view"));
  }

  /// Throws ArgumentError for a mask that no row of the item table stands for.
  void check() const {
    Model::SourceList::for_each([&]<class V>(std::type_identity<V>) {
      if constexpr (requires(const V& view) { view.mask_item; }) {
        const Index mask = std::get<V>(views).mask_item;
        require(mask >= 0 && mask - 1 <= items, "view.", V::name, ".mask_item: found ", mask, ", expected at most ",
                items, " + 1, the last row of the item table");
      }
    });
  }

  /// visitor(name, shape) for every parameter of the model whose item rows have `hidden` columns, as the model's
  /// visit_parameters names them. Throws ArgumentError for sizes that are no Index.
  void visit_shapes(Index hidden, auto&& visitor) const {
    for_each_part(*this,
                  [&]<class P>(std::type_identity<P>, const auto& options) { P::visit_shapes(options, visitor); });
    visitor(std::string(item_table_tensor), std::vector<Index>{checked_sum("items", items, 2), hidden});
    Model::EncoderType::visit_shapes(encoder, visitor);
  }

  /// Throws ArgumentError if a part would allocate more than a file with an item table of `saved` numbers accounts for.
  void check_unsaved(Index saved) const {
    const auto check_part = [&]<class P>(std::type_identity<P>, const auto& options) {
      if constexpr (requires { P::check_unsaved(options, saved); }) {
        P::check_unsaved(options, saved);
      }
    };
    for_each_part(*this, check_part);
    check_part(std::type_identity<typename Model::EncoderType>(), encoder);
  }

  /// f(type of the part, its options)
  static void for_each_part(auto& self, auto&& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f(std::type_identity<std::tuple_element_t<I, typename Model::PartList::Tuple>>(), std::get<I>(self.parts)), ...);
    }
    (std::make_index_sequence<Model::PartList::size>());
  }
};

namespace detail {

/// A visitor of options: whatever is pooled is as wide as the intents.
struct PoolingCheck {
  Index max_length;
  Index hidden;
  Index width;

  template <class T>
  void operator()(std::string_view name, const T& value) const {
    if constexpr (HasOptions<const T>) {
      T::visit_options(value, *this);
    } else if constexpr (std::is_same_v<T, Pooling>) {
      const Index columns = pooled_columns(value, max_length, hidden);
      require(columns == width, name, ": found ", to_text(value), ", which makes ", columns,
              " columns, expected as many as the intents have, ", width);
    }
  }
};

}  // namespace detail

/// Throws ArgumentError unless the model, and every objective that has a weight, pools a user's tokens to the width of
/// the model's intents, if it has any.
template <DescribedModel Model>
void check_pooling(const Model& model) {
  if constexpr (Model::has_clusters) {
    const detail::PoolingCheck check{model.max_length(), model.hidden(), model.clusters().centers().cols()};
    check("pooling", model.pooling);
    std::apply(
        [&](const auto&... objective) { ((objective.weight != 0 ? check(objective.name, objective) : void()), ...); },
        model.objectives);
  }
}

/// What a model is now.
template <DescribedModel Model>
[[nodiscard]] ModelOptions<Model> options_of(const Model& model) {
  ModelOptions<Model> o;
  o.items = model.item_count();
  o.seed = model.seed();
  o.padding = model.padding;
  o.pooling = model.pooling;
  o.encoder = model.encoder.options();
  o.for_each_part(o,
                  [&]<class P>(std::type_identity<P>, auto& options) { options = model.template part<P>().options(); });
  o.objectives = model.objectives;
  o.updates = model.updates;
  Model::SourceList::for_each([&]<class V>(std::type_identity<V>) { std::get<V>(o.views) = model.template view<V>(); });
  return o;
}

/// Throws ArgumentError unless the model's parameters have the names and shapes that its options say (visit_shapes).
template <DescribedModel Model>
void check_shapes(const Model& model, const ModelOptions<Model>& o) {
  std::map<std::string, std::vector<Index>> shapes;
  o.visit_shapes(model.hidden(), [&](const std::string& name, std::vector<Index> shape) {
    shapes.insert_or_assign(name, std::move(shape));
  });
  const auto list = parameters(model);
  for (const auto& p : list) {
    const auto found = shapes.find(p.name);
    require(found != shapes.end() && found->second == p.shape(), "options: found ",
            found == shapes.end() ? "no" : "another", " shape for '", p.name, "' (", p.values.rows(), " x ",
            p.values.cols(), "), expected what visit_parameters shows");
  }
  require(shapes.size() == list.size(), "options: found ", shapes.size(), " shapes of parameters, expected ",
          list.size(), ", as visit_parameters shows");
}

/// Gives a model the settings that are no sizes of its parts.
template <class Model>
void set_options(Model& model, const ModelOptions<Model>& o) {
  model.padding = o.padding;
  model.pooling = o.pooling;
  model.objectives = o.objectives;
  model.updates = o.updates;
  Model::SourceList::for_each([&]<class V>(std::type_identity<V>) { model.template view<V>() = std::get<V>(o.views); });
}

/// The options as metadata of a file, with its format and the name of the composition.
template <class Model>
[[nodiscard]] std::map<std::string, std::string> to_metadata(const ModelOptions<Model>& o) {
  OptionWriter writer;
  ModelOptions<Model>::visit_options(o, writer);
  auto metadata = writer.text();
  metadata.emplace(format_key, model_format);
  metadata.emplace(model_key, composition_name<Model>());
  return metadata;
}

}  // namespace elcrec::inline ELCREC_TARGET
