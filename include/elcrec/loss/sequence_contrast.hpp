#pragma once

#include <array>
#include <span>
#include <string_view>

#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/position_index.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/info_nce.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How a token joins its nearest center at the sequence level.
enum class Prototype {
  shift,  ///< x + c (the paper on Beauty)
  concat  ///< [x, c] (the paper on Sports, Toys and Yelp)
};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Prototype>{"shift", "concat"};

/// Contrast at the sequence level: InfoNCE between two views of each user, flattened over positions. In a model with
/// intents every token is joined with its nearest center (ELCRec); in one without it stands alone (CL4SRec, as ICLRec's
/// code has it). A token has a nearest center of its own, as in the released code; with concat pooling the sequence has
/// one of width L·D, of which a token takes the part of its position.
///
/// `V` brings the views of user i as sequences i and B + i, and an index of positions; see AugmentedPair.
template <class V = AugmentedPair<>>
struct SequenceContrast {
  using Views = TypeList<V>;
  static constexpr std::string_view name = "sequence_contrast";
  static constexpr bool predicts = false;

  double weight = 0.1;
  double temperature = 1.0;
  Prototype prototype = Prototype::shift;
  Pooling pooling = Pooling::mean;    ///< of what the centers are among
  bool mask_false_negatives = false;  ///< users with the same target item are not negatives

  static void visit_options(auto& self, auto&& visitor) {
    constexpr std::string_view view = V::name;
    visitor("weight", self.weight);
    visitor("temperature", self.temperature);
    visitor("prototype", self.prototype);
    visitor("pooling", self.pooling);
    visitor("mask_false_negatives", self.mask_false_negatives);
    visitor("view", view);
  }
  void check() const {
    check_weight("weight", weight);
    check_temperature(temperature);
  }

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(TrainingStep auto& step) const { add_to(step, 1.0, weight, step.loss(*this)); }

  /// *loss += share · L, and `weight` times its gradients to the step. For objectives that have this one as a part.
  void add_to(TrainingStep auto& step, double share, double gradient_weight, double* loss) const {
    using Step = std::remove_cvref_t<decltype(step)>;
    using T = typename Step::Scalar;
    using Lane = typename Step::Lane;
    using Model = std::remove_cvref_t<decltype(step.model())>;
    auto& pair = step.template encoding<V>();
    const Index t = pair.tokens.tokens();
    const Index d = pair.y.cols();
    const auto frame = step.memory().frame();
    const InfoNceOptions options{.temperature = temperature, .share = share, .weight = gradient_weight};
    const auto labels = mask_false_negatives ? pair.tokens.template column<Labels>() : std::span<const std::int32_t>{};
    const auto contrast = [&](MatrixView<T> z, MatrixView<T> dz) {
      info_nce(step.backend(), step.memory(), position_index(pair.tokens), z, labels, options, loss, dz);
      step.for_each_slice(pair, [&](Lane& lane, const BatchSlice& slice) {
        lane.add_scaled(T(1), slice.rows(dz).slice_cols(0, d), slice.rows(pair.dy));
      });
    };
    if constexpr (Model::has_clusters) {
      // Centers as a table with one row for each center (and position): what `ids` select for each token.
      const auto& clusters = step.model().clusters();
      const auto as_table = [&](auto centers) {
        return MatrixView<std::remove_pointer_t<decltype(centers.data())>>(centers.data(), centers.size() / d, d);
      };
      const auto ids = step.memory().template array<std::int32_t>(t);
      const auto z = step.memory().template matrix<T>(t, prototype == Prototype::shift ? d : 2 * d);
      const auto dz = step.memory().template matrix<T>(t, z.cols());
      const auto center_part = [&](auto m) { return prototype == Prototype::shift ? m : m.slice_cols(d, 2 * d); };
      step.for_each_slice(pair, [&](Lane& lane, const BatchSlice& slice) {
        const auto part_ids = elcrec::slice(ids, slice.first_token, slice.last_token);
        const auto y = slice.rows(pair.y);
        nearest_rows(lane, clusters, slice.tokens, y, part_ids);
        lane.copy(y, slice.rows(z).slice_cols(0, d));
        lane.gather_rows(as_table(clusters.centers()), part_ids, center_part(slice.rows(z)),
                         prototype == Prototype::shift ? Write::add : Write::replace);
      });
      contrast(z, dz);
      auto& gradient = step.gradient(clusters);
      gradient.add(step.backend(), {ids, {}, center_part(dz)}, as_table(gradient.get().centers()));
    } else {
      contrast(pair.y, step.memory().template matrix<T>(t, d));
    }
  }

 private:
  template <class Lane, class Clusters, class In>
  void nearest_rows(Lane& lane, const Clusters& clusters, const TokenView& tokens, In y,
                    std::span<std::int32_t> ids) const {
    static_assert(operation::ExpandIds<Lane>, "SequenceContrast: the lane lacks operations of operation::ExpandIds");
    if (pooling != Pooling::concat) {
      clusters.nearest(lane, y, ids);
      return;
    }
    const auto frame = lane.workspace().frame();
    const auto flat = lane.workspace().template matrix<typename Lane::Scalar>(tokens.sequences(), clusters.hidden());
    const auto sample_ids = lane.workspace().template array<std::int32_t>(tokens.sequences());
    concat_pool(lane, tokens, y, flat);
    clusters.nearest(lane, flat, sample_ids);
    expand_ids(lane, tokens, sample_ids, tokens.max_length, ids);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
