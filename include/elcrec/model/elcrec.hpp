#pragma once

#include <cstdint>
#include <string_view>
#include <tuple>

#include "elcrec/cluster/learnable_clusters.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/cluster_loss.hpp"
#include "elcrec/loss/intent_contrastive.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/model/sequential_model.hpp"

namespace elcrec {

/// Every hyper-parameter of the ELCRec model. The defaults are the paper's for Beauty, but for `trade_off` and `padding`:
/// masked padding needs a small trade-off, see `preset`.
struct ELCRecOptions {
  Index items = 0;  ///< real items; ids 1 .. items
  Index max_length = 50;
  Index hidden = 64;
  Index layers = 1;
  Index heads = 2;
  Index intents = 256;
  double dropout = 0.5;
  double attention_dropout = 0.5;
  Padding padding = Padding::masked;
  std::uint64_t seed = 0;  ///< of the initial weights

  double next_item_weight = 1.0;
  double sequence_weight = 0.1;  ///< of ICL at the sequence level
  double intent_weight = 0.1;    ///< of ICL at the intent level
  double trade_off = 0.1;        ///< α, of the cluster loss
  double temperature = 1.0;      ///< of both InfoNCE losses
  Prototype prototype = Prototype::shift;
  Pooling pooling = Pooling::mean;
  CenterPairs center_pairs = CenterPairs::all;
  Assignment assignment = Assignment::every;
  bool mask_false_negatives = false;
  bool share_views = false;
  CropMaskReorder augmentation{};
};

/// ELCRec (Liu et al., "End-to-end Learnable Clustering for Intent Learning in Recommendation", NeurIPS 2024): SASRec's
/// encoder, learnable intents, next-item loss, intent-assisted contrast on two levels, cluster loss. The terms are evaluated
/// in the order of the released code: the sequence level still sees the centers where the optimizer left them, then they
/// are projected.
template <Backend B, class NextItem = NextItemBce, Index Hidden = Dynamic, Index Intents = Dynamic>
class ELCRec : public SequentialModel<TransformerEncoder<Hidden, B>, LearnableClusters<Intents, Dynamic, B>, NextItem,
                                      SequenceContrast, ClusterLoss, IntentContrast> {
 public:
  using Base = SequentialModel<TransformerEncoder<Hidden, B>, LearnableClusters<Intents, Dynamic, B>, NextItem, SequenceContrast,
                               ClusterLoss, IntentContrast>;

  explicit ELCRec(const ELCRecOptions& o, const B& backend = B())
      : Base(backend, o.items,
             TransformerEncoder<Hidden, B>(backend,
                                           {.hidden = o.hidden,
                                            .layers = o.layers,
                                            .heads = o.heads,
                                            .max_length = o.max_length,
                                            .dropout = o.dropout,
                                            .attention_dropout = o.attention_dropout},
                                           o.seed),
             LearnableClusters<Intents, Dynamic, B>(backend, o.intents, pooled_columns(o.pooling, o.max_length, o.hidden), o.seed),
             o.seed),
        options_(o) {
    require(o.temperature > 0, "temperature: found ", o.temperature, ", expected a positive number");
    this->padding = o.padding;
    this->objectives = {
        NextItem{.weight = o.next_item_weight},
        SequenceContrast{.weight = o.sequence_weight,
                         .temperature = o.temperature,
                         .prototype = o.prototype,
                         .pooling = o.pooling,
                         .mask_false_negatives = o.mask_false_negatives},
        ClusterLoss{.weight = o.trade_off, .pairs = o.center_pairs, .assignment = o.assignment, .pooling = o.pooling},
        IntentContrast{.weight = o.intent_weight,
                       .temperature = o.temperature,
                       .pooling = o.pooling,
                       .mask_false_negatives = o.mask_false_negatives,
                       .share_views = o.share_views}};
    this->template view<AugmentedPair<>>().augmentation = o.augmentation;
  }

  [[nodiscard]] const ELCRecOptions& options() const { return options_; }

 private:
  ELCRecOptions options_;
};

/// The paper's ablations, each a composition.
template <Backend B, class NextItem = NextItemBce>
using SasRec = SequentialModel<TransformerEncoder<Dynamic, B>, NoClusters<B>, NextItem>;
template <Backend B, class NextItem = NextItemBce>
using SasRecWithContrast =
    SequentialModel<TransformerEncoder<Dynamic, B>, LearnableClusters<Dynamic, Dynamic, B>, NextItem, SequenceContrast, IntentContrast>;
template <Backend B, class NextItem = NextItemBce>
using SasRecWithClusters =
    SequentialModel<TransformerEncoder<Dynamic, B>, LearnableClusters<Dynamic, Dynamic, B>, NextItem, ClusterLoss>;

/// The paper's configuration for "beauty", "sports", "toys" or "yelp", with Padding::paper. `items` is left at 0.
[[nodiscard]] inline ELCRecOptions preset(std::string_view name) {
  ELCRecOptions o;
  o.padding = Padding::paper;
  if (name == "beauty") {
    o.trade_off = 10;
    return o;
  }
  o.prototype = Prototype::concat;
  if (name == "sports") {
    o.layers = 2;
    o.intents = 512;
    o.trade_off = 1;
  } else if (name == "toys") {
    o.layers = 3;
    o.intents = 512;
    o.trade_off = 1;
  } else {
    require(name == "yelp", "preset: found '", name, "', expected beauty, sports, toys or yelp");
    o.layers = 2;
  }
  return o;
}

}  // namespace elcrec
