#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"

/// The vocabulary of a backend's operations: small structs and enumerations that every backend understands.
namespace elcrec::inline ELCREC_TARGET {

/// Whether a product replaces its output or is added to it.
enum class Write { replace, add };

/// Which keys of its sequence a query sees, besides that item 0 is never a key.
enum class AttentionMask { causal, bidirectional };

/// Next-item losses that compare a target with one sampled negative.
enum class PairwiseLoss {
  bce,        ///< -log s(x·e_pos) - log(1 - s(x·e_neg)), with s the logistic function
  bpr,        ///< -log s(x·e_pos - x·e_neg)
  bpr_capped  ///< -log(1e-10 + s(x·e_pos - x·e_neg)), RecBole's: no pair costs more than 23, or teaches beyond it
};

/// What RecBole adds to the probability of PairwiseLoss::bpr_capped.
inline constexpr double bpr_cap = 1e-10;

/// One step of Adam (Kingma & Ba, ICLR 2015) with the bias corrections of step t already taken:
/// p = keep * p - rate / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + epsilon).
struct AdamStep {
  double rate;
  double beta1;
  double beta2;
  double epsilon;
  double correction1;  ///< 1 - beta1^t
  double correction2;  ///< 1 - beta2^t
  double keep = 1;     ///< 1 - rate * weight decay, of what decays (AdamW: Loshchilov & Hutter, ICLR 2019)
};

/// The factors of an AdamStep, rounded to T once: p = keep p - rate m / (sqrt(v) root + eps).
template <class T>
struct AdamFactors {
  T b1;
  T b2;
  T rate;
  T root;
  T eps;
  T keep;

  explicit AdamFactors(const AdamStep& step)
      : b1(static_cast<T>(step.beta1)),
        b2(static_cast<T>(step.beta2)),
        rate(static_cast<T>(step.rate / step.correction1)),
        root(static_cast<T>(1.0 / std::sqrt(step.correction2))),
        eps(static_cast<T>(step.epsilon)),
        keep(static_cast<T>(step.keep)) {}
};

/// One array of parameters beside its gradient and Adam's moments: four spans of one length.
template <class T>
struct AdamSlot {
  std::span<T> p;
  std::span<const T> g;
  std::span<T> m;
  std::span<T> v;
  bool decays = false;  ///< whether the step's `keep` is meant for it

  [[nodiscard]] AdamSlot part(Index first, Index last) const {
    return {slice(p, first, last), slice(g, first, last), slice(m, first, last), slice(v, first, last), decays};
  }
};

/// f(part of a slot) for the elements [first, last) of the slots laid end to end.
template <class T, class F>
constexpr void for_each_part(std::span<const AdamSlot<T>> slots, Index first, Index last, F f) {
  Index begin = 0;
  for (const auto& slot : slots) {
    const Index end = begin + ssize(slot.p);
    if (first < end && begin < last) {
      f(slot.part((std::max)(first, begin) - begin, (std::min)(last, end) - begin));
    }
    begin = end;
  }
}

/// Rows to be added to a table: table[ids[r]] += coefficients[r] * rows[r]. Empty coefficients mean 1; id 0 is skipped.
template <class T>
struct RowContribution {
  std::span<const std::int32_t> ids;
  std::span<const T> coefficients;
  MatrixView<const T> rows;
};

/// Which tokens of N samples stand at the same position: entries sorted by position, then by sample. The similarity of
/// two samples is the sum over their common positions (the dot product of the flattened, zero-padded sequences).
struct GramIndex {
  Index samples = 0;                     ///< N
  Index positions = 0;                   ///< P
  bool dense = false;                    ///< token(i, p) = i * P + p, and the three lists are empty
  std::span<const std::int32_t> begins;  ///< (P + 1) entries of position p
  std::span<const std::int32_t> sample;  ///< sample of an entry
  std::span<const std::int32_t> token;   ///< token of an entry

  /// Samples of one token each: their similarities are plain dot products of rows.
  static GramIndex rows(Index n) {
    return {.samples = n, .positions = 1, .dense = true, .begins = {}, .sample = {}, .token = {}};
  }
};

/// How the candidates of a ranking are chosen.
struct RankingRule {
  enum class Seen {
    keep,     ///< seen items compete like the others
    zero,     ///< their score is set to 0, as the released evaluation does
    exclude,  ///< they are no candidates
  };
  Seen seen = Seen::exclude;
  ItemId first = 1;  ///< candidates are the ids [first, last)
  ItemId last = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
