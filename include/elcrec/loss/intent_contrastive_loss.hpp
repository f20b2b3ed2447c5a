#pragma once

#include <string_view>

#include "elcrec/core/options.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/intent_contrast.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/sequence_contrast.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Intent-assisted contrastive learning (ICL, ELCRec's equations 8 to 11): the sequence level and the intent level as
/// one loss, L = w_s L_sequence + w_i L_intent, on one pair of views of each user. In a model with intents; put
/// ProjectCenters before it. ELCRec itself has the two parts as objectives of their own, because the released code
/// projects the centers between them.
template <class V = AugmentedPair<>>
struct IntentContrastiveLoss {
  using Views = typename IntentContrast<V>::Views;
  static constexpr std::string_view name = "intent_contrastive";
  static constexpr bool predicts = false;

  double weight = 1.0;           ///< of the sum
  SequenceContrast<V> sequence;  ///< with its weight w_s
  IntentContrast<V> intent;      ///< with its weight w_i

  static void visit_options(auto& self, auto&& visitor) {
    visitor("weight", self.weight);
    visitor("sequence", self.sequence);
    visitor("intent", self.intent);
  }
  void check() const { check_weight("weight", weight); }

  template <class Read>
  [[nodiscard]] bool reads() const {
    return reads_view<Read>(sequence) || reads_view<Read>(intent);
  }

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(TrainingStep auto& step) const {
    if (sequence.weight != 0) {
      sequence.add_to(step, sequence.weight, weight, step.loss(*this));
    }
    if (intent.weight != 0) {
      intent.add_to(step, intent.weight, weight, step.loss(*this));
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
