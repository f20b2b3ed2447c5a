#pragma once

#include <span>
#include <string_view>
#include <type_traits>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/info_nce.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/loss/user_embeddings.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Contrast at the intent level: InfoNCE between each pooled view and the center nearest to its user, averaged over
/// both views. Gradients flow into the centers, which it asks to be on the unit sphere: ProjectCenters stands before it
/// in the released code. `V` as in SequenceContrast.
template <class V = AugmentedPair<>>
struct IntentContrast {
  using Views = TypeList<InputView, V, Again<V>>;
  static constexpr std::string_view name = "intent_contrast";
  static constexpr bool predicts = false;

  double weight = 0.1;
  double temperature = 1.0;
  Pooling pooling = Pooling::mean;
  bool mask_false_negatives = false;  ///< users of the same intent are not negatives
  bool share_views = true;            ///< use the sequence level's encodings instead of encoding the pair again

  static void visit_options(auto& self, auto&& visitor) {
    constexpr std::string_view view = V::name;
    visitor("weight", self.weight);
    visitor("temperature", self.temperature);
    visitor("pooling", self.pooling);
    visitor("mask_false_negatives", self.mask_false_negatives);
    visitor("share_views", self.share_views);
    visitor("view", view);
  }
  void check() const {
    check_weight("weight", weight);
    check_temperature(temperature);
  }

  template <class Read>
  [[nodiscard]] bool reads() const {
    return std::is_same_v<Read, InputView> || std::is_same_v<Read, V> == share_views;
  }

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(TrainingStep auto& step) const { add_to(step, 1.0, weight, step.loss(*this)); }

  /// *loss += share · L, and `weight` times its gradients to the step. For objectives that have this one as a part.
  void add_to(TrainingStep auto& step, double share, double gradient_weight, double* loss) const {
    add_to(step, share_views ? step.template encoding<V>() : step.template encoding<Again<V>>(),
           {.temperature = temperature, .share = 0.5 * share, .weight = gradient_weight}, loss);
  }

 private:
  template <TrainingStep Step>
  void add_to(Step& step, Encoding<typename Step::Scalar>& pair, const InfoNceOptions& options, double* loss) const {
    static_assert(std::remove_cvref_t<decltype(step.model())>::has_clusters,
                  "IntentContrast is for a model with intents: add LearnableClusters to its components");
    using T = typename Step::Scalar;
    using Lane = typename Step::Lane;
    auto& input = step.template encoding<InputView>();
    const auto& clusters = step.model().clusters();
    const Index users = input.tokens.sequences();
    const auto frame = step.memory().frame();
    const Index columns = pooled_columns(pooling, pair.tokens.max_length, pair.y.cols());
    const auto ids = step.memory().template array<std::int32_t>(users);
    const auto z = step.memory().template matrix<T>(4 * users, columns);  // [view 1; centers; view 2; centers]
    const auto dz = step.memory().template matrix<T>(4 * users, columns);
    const auto center_rows = [&](auto m, Index v) { return m.slice_rows((2 * v + 1) * users, (2 * v + 2) * users); };
    // Sequence s of the pair: view s / users of user s % users. Rows of z that the sequences [first, last) pool into.
    const auto for_each_run = [&](Index first, Index last, auto f) {
      for (Index v = 0; v < 2; ++v) {
        const Index a = (std::max)(first, v * users);
        const Index b = (std::min)(last, (v + 1) * users);
        if (a < b) {
          f(a, b, a + v * users);
        }
      }
    };

    const auto user = user_embeddings(step, input, pooling);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      clusters.nearest(lane, user.unit, ids);
      lane.gather_rows(clusters.centers(), ids, center_rows(z, 0), Write::replace);
      lane.copy(center_rows(z, 0), center_rows(z, 1));
    });
    step.for_each_slice(pair, [&](Lane& lane, const BatchSlice& slice) {
      for_each_run(slice.first_sequence, slice.last_sequence, [&](Index a, Index b, Index row) {
        const TokenView part = slice.tokens.subrange(a - slice.first_sequence, b - slice.first_sequence);
        const Index t0 = slice.first_token + part.first_token - slice.tokens.first_token;
        pool(lane, pooling, part, pair.y.slice_rows(t0, t0 + part.tokens()), z.slice_rows(row, row + b - a));
      });
    });
    const std::span<const std::int32_t> labels =
        mask_false_negatives ? std::span<const std::int32_t>(ids) : std::span<const std::int32_t>{};
    for (Index v = 0; v < 2; ++v) {
      info_nce(step.backend(), step.memory(), GramIndex::rows(2 * users),
               z.slice_rows(2 * v * users, (2 * v + 2) * users), labels, options, loss,
               dz.slice_rows(2 * v * users, (2 * v + 2) * users));
    }
    step.for_each_slice(pair, [&](Lane& lane, const BatchSlice& slice) {
      for_each_run(slice.first_sequence, slice.last_sequence, [&](Index a, Index b, Index row) {
        const TokenView part = slice.tokens.subrange(a - slice.first_sequence, b - slice.first_sequence);
        const Index t0 = slice.first_token + part.first_token - slice.tokens.first_token;
        pool_backward(lane, pooling, part, dz.slice_rows(row, row + b - a), pair.dy.slice_rows(t0, t0 + part.tokens()));
      });
    });
    auto& gradient = step.gradient(clusters);
    const MatrixView<T> dcenters(gradient.get().centers());
    gradient.add(step.backend(), {ids, {}, center_rows(dz, 0)}, dcenters);
    gradient.add(step.backend(), {ids, {}, center_rows(dz, 1)}, dcenters);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
