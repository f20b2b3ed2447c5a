#pragma once

#include <map>
#include <string>
#include <utility>

#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/cluster/project_centers.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/cluster_loss.hpp"
#include "elcrec/loss/intent_contrast.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/loss/sequence_contrast.hpp"
#include "elcrec/model/elcrec_options.hpp"
#include "elcrec/model/sequential_model.hpp"

namespace elcrec::inline ELCREC_TARGET {

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

  explicit ELCRec(const ELCRecOptions& o, const B& backend = B())
      : Base(backend, {o.items, o.seed},
             TransformerEncoder<Hidden, B>(backend,
                                           {.hidden = o.hidden,
                                            .layers = o.layers,
                                            .heads = o.heads,
                                            .max_length = o.max_length,
                                            .dropout = o.dropout,
                                            .attention_dropout = o.attention_dropout,
                                            .mask = o.attention_mask,
                                            .filter_share = o.filter_share,
                                            .filter_frequencies = o.filter_frequencies},
                                           o.seed),
             LearnableClusters<Intents, Dynamic, B>(backend, o.intents,
                                                    pooled_columns(o.pooling, o.max_length, o.hidden), o.seed)),
        options_(o) {
    check(o);
    this->padding = o.padding;
    this->pooling = o.pooling;
    this->objectives = {
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
    this->template view<AugmentedPair<>>().augmentation =
        CropMaskReorder(Crop{o.crop}, Mask{o.mask}, Reorder{o.reorder});
  }

  [[nodiscard]] const ELCRecOptions& options() const { return options_; }

  template <class To>
  [[nodiscard]] ELCRec<To, Hidden, Intents> remake(const To& backend) const {
    return {Base::remake(backend), options_};
  }

  /// What a checkpoint needs to build this model again; options_from_metadata reads it.
  [[nodiscard]] std::map<std::string, std::string> metadata() const { return to_metadata(options_); }

 private:
  template <Backend, Index, Index>
  friend class ELCRec;

  ELCRec(Base model, const ELCRecOptions& options) : Base(std::move(model)), options_(options) {}

  ELCRecOptions options_;
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
