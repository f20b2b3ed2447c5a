#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/cluster_loss.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/loss/sequence_contrast.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Every hyper-parameter of the ELCRec model. The defaults are the paper's for Beauty but for two: `padding` is masked
/// and `trade_off` is 0.1, since with masked padding the paper's 10 pulls all users into one direction.
struct ELCRecOptions {
  Index items = 0;  ///< real items; ids 1 .. items
  Index max_length = 50;
  Index hidden = 64;
  Index layers = 1;
  Index heads = 2;
  Index intents = 256;
  double dropout = 0.5;
  double attention_dropout = 0.5;
  AttentionMask attention_mask = AttentionMask::causal;
  double filter_share = 0;       ///< of a low-pass filter beside attention (BSARec), in [0, 1)
  Index filter_frequencies = 3;  ///< that it lets pass
  Padding padding = Padding::masked;
  std::uint64_t seed = 0;  ///< of the initial weights

  NextItemLoss objective = NextItemLoss::bce;
  NextItemSamples samples = NextItemSamples::positions;
  double label_smoothing = 0;  ///< share of the softmax's labels that is spread over all items
  double label_agreement = 0;  ///< share that another encoding of the sequence predicts; the two together below 1
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
  bool share_views = true;  ///< three encoder passes a step instead of the released code's five
  double crop = 0.2;        ///< share of a history that a crop keeps
  double mask = 0.7;        ///< share that a mask hides
  double reorder = 0.2;     ///< share that a reorder shuffles
};

/// visitor(name, field, description) for every option. Command lines and logs hang on this one list, and checkpoints
/// from before model_format.
void visit_options(auto& o, auto&& visitor) {
  visitor("items", o.items, "number of items");
  visitor("max_length", o.max_length, "positions L: the last L items of a history are read");
  visitor("hidden", o.hidden, "hidden size D");
  visitor("layers", o.layers, "Transformer layers");
  visitor("heads", o.heads, "attention heads");
  visitor("intents", o.intents, "intents K");
  visitor("dropout", o.dropout, "dropout on embeddings and block outputs");
  visitor("attention_dropout", o.attention_dropout, "dropout on attention probabilities");
  visitor("attention_mask", o.attention_mask,
          "a position attends to those before it (causal) or to all (bidirectional)");
  visitor("filter_share", o.filter_share, "share of a low-pass filter beside attention; needs samples = prefixes");
  visitor("filter_frequencies", o.filter_frequencies, "frequencies that the filter lets pass");
  visitor("padding", o.padding, "paper (padding takes part, as in the released code) or masked (real tokens only)");
  visitor("seed", o.seed, "seed of weights, batches, views, negatives and dropout");
  visitor("objective", o.objective, "next-item loss: bce (sampled, the paper's), bpr, or softmax over all items");
  visitor("samples", o.samples,
          "the next item is predicted at all positions of an input, or after each of its prefixes");
  visitor("label_smoothing", o.label_smoothing, "share of the softmax's labels that is spread over all items");
  visitor("label_agreement", o.label_agreement,
          "share of the softmax's labels that is what the same sequence predicts under other dropout (R-Drop)");
  visitor("next_item_weight", o.next_item_weight, "weight of the next-item loss");
  visitor("sequence_weight", o.sequence_weight, "weight of the sequence-level contrast");
  visitor("intent_weight", o.intent_weight, "weight of the intent-level contrast");
  visitor("trade_off", o.trade_off, "weight of the cluster loss (the paper's alpha)");
  visitor("temperature", o.temperature, "temperature of both contrasts");
  visitor("prototype", o.prototype, "how a view joins its center: shift or concat");
  visitor("pooling", o.pooling, "user embedding: mean or concat of positions, or the last one");
  visitor("center_pairs", o.center_pairs, "pairs of centers that repel are counted as all (K^2) or distinct (K(K-1))");
  visitor("assignment", o.assignment, "a user is attracted by every center (paper) or by the nearest");
  visitor("mask_false_negatives", o.mask_false_negatives, "pairs with the same target or intent are not negatives");
  visitor("share_views", o.share_views, "encode the augmented pair once for both contrasts");
  visitor("crop", o.crop, "share of a history that a crop keeps");
  visitor("mask", o.mask, "share of a history that a mask hides");
  visitor("reorder", o.reorder, "share of a history that a reorder shuffles");
}

/// Throws ArgumentError for weights and ratios outside their range, and for an encoder that would see the items that it
/// is to predict. Sizes are checked by the parts that use them.
inline void check(const ELCRecOptions& o) {
  check_temperature(o.temperature);
  for (const auto& [name, weight] : {std::pair{"next_item_weight", o.next_item_weight},
                                     {"sequence_weight", o.sequence_weight},
                                     {"intent_weight", o.intent_weight},
                                     {"trade_off", o.trade_off}}) {
    check_weight(name, weight);
  }
  const bool causal = o.attention_mask == AttentionMask::causal && o.filter_share == 0;
  require(
      causal || o.samples == NextItemSamples::prefixes,
      "samples: found positions with a filter or bidirectional attention, which see what follows; expected prefixes");
  for (const auto& [name, share] :
       {std::pair{"label_smoothing", o.label_smoothing}, {"label_agreement", o.label_agreement}}) {
    require(share >= 0 && share < 1, name, ": found ", share, ", expected a share in [0, 1)");
  }
  require(o.label_smoothing + o.label_agreement < 1, "label_smoothing and label_agreement: found ",
          o.label_smoothing + o.label_agreement, " together, expected less than 1");
  for (const auto& [name, ratio] : {std::pair{"crop", o.crop}, {"mask", o.mask}, {"reorder", o.reorder}}) {
    check_share(name, ratio);
  }
}

[[nodiscard]] inline std::map<std::string, std::string> to_metadata(const ELCRecOptions& o) {
  std::map<std::string, std::string> metadata;
  visit_options(o, [&](const char* name, const auto& value, const char*) { metadata[name] = to_text(value); });
  return metadata;
}

/// The options that `to_metadata` wrote, over `o`; other keys are ignored. Throws ArgumentError.
[[nodiscard]] inline ELCRecOptions options_from_metadata(const std::map<std::string, std::string>& metadata,
                                                         ELCRecOptions o = {}) {
  visit_options(o, [&](const char* name, auto& value, const char*) {
    if (const auto found = metadata.find(name); found != metadata.end()) {
      from_text(name, found->second, value);
    }
  });
  return o;
}

/// "best" is what recommends best of all that RESULTS.md measures: full softmax on every prefix, whose labels are
/// smoothed and agree with what the prefix predicts under other dropout, and a filter beside attention. Nothing in it
/// trains the intents: no form that was tried made it recommend better, so they are to be fitted to the trained model
/// (the stage KMeansEnd). It was measured with Adam at 2e-3 on a cosine over 40 epochs, weight decay 0.5.
/// "beauty", "sports", "toys" and "yelp" are the paper's configurations, with Padding::paper. `items` is left at 0.
[[nodiscard]] inline ELCRecOptions preset(std::string_view name) {
  ELCRecOptions o;
  if (name == "best") {
    o.layers = 2;
    o.heads = 1;
    o.attention_mask = AttentionMask::bidirectional;
    o.filter_share = 0.9;
    o.objective = NextItemLoss::softmax;
    o.samples = NextItemSamples::prefixes;
    o.label_smoothing = 0.1;
    o.label_agreement = 0.3;
    o.sequence_weight = o.intent_weight = o.trade_off = 0;
    o.pooling = Pooling::last;
    return o;
  }
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
    require(name == "yelp", "preset: found '", detail::excerpt(name), "', expected best, beauty, sports, toys or yelp");
    o.layers = 2;
  }
  return o;
}

}  // namespace elcrec::inline ELCREC_TARGET
