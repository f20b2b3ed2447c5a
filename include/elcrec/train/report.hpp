#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/eval/ranking_metrics.hpp"
#include "elcrec/model/training_pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What is known after an epoch.
struct EpochReport {
  Index epoch = 0;  ///< from 1
  Index epochs = 0;
  Losses losses{};  ///< means over the epoch's batches
  double train_seconds = 0;
  double users_per_second = 0;
  double seconds_left = 0;  ///< if no early stop comes
  RankingMetrics valid{};
  bool best = false;
  Index best_epoch = 0;
};

struct FitResult {
  enum class End { epochs_done, early_stop, interrupted };
  End end = End::epochs_done;
  Index epochs = 0;  ///< finished in all, resumed ones included
  Index best_epoch = 0;
  double best_ndcg = 0;  ///< on the validation split
  std::string note{};    ///< what of a run on other data or by another protocol could not be taken over; or empty
};

/// The losses of an epoch's steps, summed up.
class LossSums {
 public:
  void add(const Losses& losses) {
    values_.resize(losses.terms.size() + 1, 0.0);
    values_[0] += losses.total;
    names_.clear();
    for (std::size_t i = 0; i < losses.terms.size(); ++i) {
      values_[i + 1] += losses.terms[i].second;
      names_.push_back(losses.terms[i].first);
    }
  }

  /// Of at least one step that this object saw.
  [[nodiscard]] Losses means(Index steps) const {
    Losses losses;
    losses.total = values_[0] / static_cast<double>(steps);
    for (std::size_t i = 0; i < names_.size(); ++i) {
      losses.terms.emplace_back(names_[i], values_[i + 1] / static_cast<double>(steps));
    }
    return losses;
  }

  void clear() { values_.clear(); }

  /// Total, then each term; empty before the first step.
  [[nodiscard]] const std::vector<double>& values() const { return values_; }
  void set_values(std::vector<double> values) { values_ = std::move(values); }

 private:
  std::vector<double> values_;
  std::vector<std::string> names_;
};

/// `place` is where in a run the losses are not finite.
[[noreturn]] inline void fail_for_losses(const std::string& place, const Losses& losses) {
  std::string terms;
  for (const auto& [name, value] : losses.terms) {
    terms += (terms.empty() ? "" : ", ") + message(name, " = ", value);
  }
  throw DivergenceError(
      message(place, ": the loss is not finite (", terms, "); expected finite terms. Lower the learning rate?"));
}

}  // namespace elcrec::inline ELCREC_TARGET
