#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <locale>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/data/token_batch.hpp"
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

/// visitor(name, field, description) for every option. Checkpoints, command lines and logs hang on this one list.
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

/// The names of an enumeration's values, in the order of the values.
template <class E>
inline constexpr auto names_of = nullptr;
template <>
inline constexpr std::array<std::string_view, 2> names_of<Padding>{"paper", "masked"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<AttentionMask>{"causal", "bidirectional"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<NextItemSamples>{"positions", "prefixes"};
template <>
inline constexpr std::array<std::string_view, 3> names_of<NextItemLoss>{"bce", "bpr", "softmax"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Prototype>{"shift", "concat"};
template <>
inline constexpr std::array<std::string_view, 3> names_of<Pooling>{"mean", "concat", "last"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<CenterPairs>{"all", "distinct"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Assignment>{"every", "nearest"};

/// The text of an option's value; numbers read back to the same bits.
template <class T>
[[nodiscard]] std::string to_text(T value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(names_of<T>[static_cast<std::size_t>(value)]);
  } else if constexpr (std::is_same_v<T, bool>) {
    return value ? "true" : "false";
  } else {
    std::array<char, 64> buffer{};
    return {buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr};
  }
}

/// Reads a value from text. Throws ArgumentError that names the option, what was found and what was expected.
template <class T>
void from_text(std::string_view option, std::string_view text, T& value) {
  if constexpr (std::is_enum_v<T> || std::is_same_v<T, bool>) {
    std::size_t count = 2;
    if constexpr (std::is_enum_v<T>) {
      count = names_of<T>.size();
    }
    std::string expected;
    for (std::size_t i = 0; i < count; ++i) {
      const auto candidate = static_cast<T>(i);
      if (text == to_text(candidate)) {
        value = candidate;
        return;
      }
      expected += (i > 0 ? " or " : "") + to_text(candidate);
    }
    throw ArgumentError(message(option, ": found '", detail::excerpt(text), "', expected ", expected));
  } else {
    bool read = false;
    if constexpr (requires { std::from_chars(text.data(), text.data(), value); }) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      read = error == std::errc{} && end == text.data() + text.size();
    } else {  // libc++ before its version 20 has it for whole numbers alone
      std::istringstream in{std::string(text)};
      in.imbue(std::locale::classic());
      read = text.find_first_not_of("-+.0123456789eE") == text.npos && !text.starts_with('+') && in >> value &&
             in.peek() == std::char_traits<char>::eof();
    }
    require(read, option, ": found '", detail::excerpt(text), "', expected ",
            std::is_floating_point_v<T> ? "a number" : "a whole number");
  }
}

/// Throws ArgumentError for weights and ratios outside their range, and for an encoder that would see the items that it
/// is to predict. Sizes are checked by the parts that use them.
inline void check(const ELCRecOptions& o) {
  require(o.temperature > 0, "temperature: found ", o.temperature, ", expected a positive number");
  for (const auto& [name, weight] : {std::pair{"next_item_weight", o.next_item_weight},
                                     {"sequence_weight", o.sequence_weight},
                                     {"intent_weight", o.intent_weight},
                                     {"trade_off", o.trade_off}}) {
    require(weight >= 0 && weight < 1e9, name, ": found ", weight, ", expected 0 or more");
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
    require(ratio >= 0 && ratio <= 1, name, ": found ", ratio, ", expected a share in [0, 1]");
  }
}

[[nodiscard]] inline std::map<std::string, std::string> to_metadata(const ELCRecOptions& o) {
  std::map<std::string, std::string> metadata;
  visit_options(o, [&](const char* name, const auto& value, const char*) { metadata[name] = to_text(value); });
  return metadata;
}

/// The options that `to_metadata` wrote, over `o`; other keys are ignored.
[[nodiscard]] inline ELCRecOptions options_from_metadata(const std::map<std::string, std::string>& metadata,
                                                         ELCRecOptions o = {}) {
  visit_options(o, [&](const char* name, auto& value, const char*) {
    if (const auto found = metadata.find(name); found != metadata.end()) {
      from_text(name, found->second, value);
    }
  });
  return o;
}

/// visitor(name, shape) for every parameter of the model that the options describe, with visit_parameters' names: what
/// a file must hold is known before anything is built. Throws ArgumentError for sizes that are no Index.
void visit_shapes(const ELCRecOptions& o, auto&& visitor) {
  using Shape = std::vector<Index>;
  const Index d = o.hidden;
  const auto norm = [&](const std::string& name) {
    visitor(name + ".weight", Shape{d});
    visitor(name + ".bias", Shape{d});
  };
  const auto linear = [&](const std::string& name, Index outputs, Index inputs) {
    visitor(name + ".weight", Shape{outputs, inputs});
    visitor(name + ".bias", Shape{outputs});
  };
  visitor("cluster_centers", Shape{o.intents, pooled_columns(o.pooling, o.max_length, d)});
  visitor("item_embeddings.weight", Shape{checked_sum("items", o.items, 2), d});
  visitor("position_embeddings.weight", Shape{o.max_length, d});
  for (Index i = 0; i < o.layers; ++i) {
    const std::string layer = message("item_encoder.layer.", i, '.');
    for (const char* part : {"query", "key", "value", "dense"}) {
      linear(layer + "attention." + part, d, d);
    }
    norm(layer + "attention.LayerNorm");
    if (o.filter_share > 0) {
      visitor(layer + "attention.filter.high.weight", Shape{d, d});
      norm(layer + "attention.filter.LayerNorm");
    }
    const Index wide = checked_product("feed-forward", 4, d);
    linear(layer + "intermediate.dense_1", wide, d);
    linear(layer + "intermediate.dense_2", d, wide);
    norm(layer + "intermediate.LayerNorm");
  }
  norm("LayerNorm");
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
