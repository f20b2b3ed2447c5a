#pragma once

#include <tuple>
#include <utility>

#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/cluster/project_centers.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/cluster_loss.hpp"
#include "elcrec/loss/intent_contrast.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/loss/sequence_contrast.hpp"
#include "elcrec/model/elcrec_options.hpp"
#include "elcrec/model/model_options.hpp"
#include "elcrec/model/sequential_model.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What ELCRecOptions say, by component: for the composition of an ELCRec, on any backend.
template <class Composition>
[[nodiscard]] ModelOptions<Composition> composition_of(const ELCRecOptions& o) {
  ModelOptions<Composition> m;
  m.items = o.items;
  m.seed = o.seed;
  m.padding = o.padding;
  m.pooling = o.pooling;
  m.encoder = TransformerOptions{.hidden = o.hidden,
                                 .layers = o.layers,
                                 .heads = o.heads,
                                 .max_length = o.max_length,
                                 .dropout = o.dropout,
                                 .attention_dropout = o.attention_dropout,
                                 .mask = o.attention_mask,
                                 .filter_share = o.filter_share,
                                 .filter_frequencies = o.filter_frequencies};
  m.parts = {ClustersOptions{o.intents, pooled_columns(o.pooling, o.max_length, o.hidden)}};
  m.objectives = {
      NextItem{.weight = o.next_item_weight,
               .loss = o.objective,
               .samples = o.samples,
               .labels = {.smoothing = o.label_smoothing, .agreement = o.label_agreement}},
      SequenceContrast<>{.weight = o.sequence_weight,
                         .temperature = o.temperature,
                         .prototype = o.prototype,
                         .pooling = o.pooling,
                         .mask_false_negatives = o.mask_false_negatives},
      ClusterLoss{.weight = o.trade_off, .pairs = o.center_pairs, .assignment = o.assignment, .pooling = o.pooling},
      IntentContrast<>{.weight = o.intent_weight,
                       .temperature = o.temperature,
                       .pooling = o.pooling,
                       .mask_false_negatives = o.mask_false_negatives,
                       .share_views = o.share_views}};
  std::get<AugmentedPair<>>(m.views).augmentation = CropMaskReorder(Crop{o.crop}, Mask{o.mask}, Reorder{o.reorder});
  return m;
}

/// The reverse. What ELCRecOptions have once is that of the sequence level.
template <class Composition>
[[nodiscard]] ELCRecOptions elcrec_options(const ModelOptions<Composition>& m) {
  const auto& encoder = m.encoder;
  const auto& next_item = std::get<NextItem>(m.objectives);
  const auto& sequence = std::get<SequenceContrast<>>(m.objectives);
  const auto& cluster = std::get<ClusterLoss>(m.objectives);
  const auto& intent = std::get<IntentContrast<>>(m.objectives);
  const auto& augmentation = std::get<AugmentedPair<>>(m.views).augmentation;
  return ELCRecOptions{.items = m.items,
                       .max_length = encoder.max_length,
                       .hidden = encoder.hidden,
                       .layers = encoder.layers,
                       .heads = encoder.heads,
                       .intents = std::get<0>(m.parts).count,
                       .dropout = encoder.dropout,
                       .attention_dropout = encoder.attention_dropout,
                       .attention_mask = encoder.mask,
                       .filter_share = encoder.filter_share,
                       .filter_frequencies = encoder.filter_frequencies,
                       .padding = m.padding,
                       .seed = m.seed,
                       .objective = next_item.loss,
                       .samples = next_item.samples,
                       .label_smoothing = next_item.labels.smoothing,
                       .label_agreement = next_item.labels.agreement,
                       .next_item_weight = next_item.weight,
                       .sequence_weight = sequence.weight,
                       .intent_weight = intent.weight,
                       .trade_off = cluster.weight,
                       .temperature = sequence.temperature,
                       .prototype = sequence.prototype,
                       .pooling = m.pooling,
                       .center_pairs = cluster.pairs,
                       .assignment = cluster.assignment,
                       .mask_false_negatives = sequence.mask_false_negatives,
                       .share_views = intent.share_views,
                       .crop = augmentation.template part<Crop>().ratio,
                       .mask = augmentation.template part<Mask>().ratio,
                       .reorder = augmentation.template part<Reorder>().ratio};
}

/// ELCRec (Liu et al., "End-to-end Learnable Clustering for Intent Learning in Recommendation", NeurIPS 2024): SASRec's
/// encoder, learnable intents, next-item loss, intent-assisted contrast on two levels, cluster loss. The terms are
/// evaluated in the order of the released code: the sequence level still sees the centers where the optimizer left
/// them, then they are projected. Beyond the paper, by options: other next-item losses and samples, labels that
/// are smoothed or agree under dropout, a filter beside attention.
template <Backend B, Index Hidden = Dynamic, Index Intents = Dynamic>
class ELCRec : public SequentialModel<TransformerEncoder<Hidden, B>, LearnableClusters<Intents, Dynamic, B>, NextItem,
                                      SequenceContrast<>, ProjectCenters, ClusterLoss, IntentContrast<>> {
 public:
  using Base = typename ELCRec::SequentialModel;

  explicit ELCRec(const ELCRecOptions& o, const B& backend = B()) : ELCRec(o, composition_of<Base>(o), backend) {}
  /// A composition as an ELCRec. Throws ArgumentError for settings that no ELCRec has (see check).
  explicit ELCRec(Base model) : Base(std::move(model)) { check(options()); }

  /// The options as they are now.
  [[nodiscard]] ELCRecOptions options() const { return elcrec_options(options_of<Base>(*this)); }

  template <class To>
  [[nodiscard]] ELCRec<To, Hidden, Intents> remake(const To& backend) const {
    return ELCRec<To, Hidden, Intents>(Base::remake(backend));
  }

 private:
  ELCRec(const ELCRecOptions& o, const ModelOptions<Base>& by_part, const B& backend)
      : Base(backend, {o.items, o.seed}, TransformerEncoder<Hidden, B>(backend, by_part.encoder, o.seed),
             LearnableClusters<Intents, Dynamic, B>(backend, std::get<0>(by_part.parts), o.seed)) {
    check(o);
    set_options<Base>(*this, by_part);
  }
};

/// The paper's ablations, each a composition.
template <Backend B, Objective NextItem = NextItemBce>
using SasRec = SequentialModel<TransformerEncoder<Dynamic, B>, NextItem>;
template <Backend B, Objective NextItem = NextItemBce>
using SasRecWithContrast = SequentialModel<TransformerEncoder<Dynamic, B>, LearnableClusters<Dynamic, Dynamic, B>,
                                           NextItem, SequenceContrast<>, ProjectCenters, IntentContrast<>>;
template <Backend B, Objective NextItem = NextItemBce>
using SasRecWithClusters = SequentialModel<TransformerEncoder<Dynamic, B>, LearnableClusters<Dynamic, Dynamic, B>,
                                           NextItem, ProjectCenters, ClusterLoss>;

}  // namespace elcrec::inline ELCREC_TARGET
