#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/model/step_plan.hpp"
#include "elcrec/optim/schedule.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct TrainerOptions {
  Index epochs = 300;
  Index batch_size = 256;
  int patience = 40;       ///< stop after so many epochs without a better validation NDCG
  int metric_cutoff = 20;  ///< k of that NDCG
  std::uint64_t seed = 0;
  double clip_norm = 0;  ///< limit of the joint gradient norm; 0 for none
  /// Bytes that a step may take beside model and optimizer: one of more tokens passes in parts (StepPlan), whose sums
  /// are in an order of their own. A resumed run has the bits of an uninterrupted one with as much memory.
  std::size_t memory = usual_step_memory;
  Schedule schedule{};
  EvaluationOptions validation{};
  std::filesystem::path checkpoint{};  ///< where to save; empty for nowhere
  Index checkpoint_every = 1;          ///< epochs between saves (a better model and an interruption always save)
  const std::atomic<bool>* stop =
      nullptr;  ///< when it turns true, training or a stage saves and ends as soon as it can
  std::function<void(const std::string&)> notice{};  ///< is told at once what becomes FitResult::note
};

/// Throws ArgumentError for numbers out of their range.
inline void check(const TrainerOptions& options) {
  require(options.epochs >= 1, "epochs: found ", options.epochs, ", expected at least 1");
  require(options.batch_size >= 1, "batch size: found ", options.batch_size, ", expected at least 1");
  require(options.patience >= 1, "patience: found ", options.patience, ", expected at least 1");
  require(options.checkpoint_every >= 1, "checkpoint_every: found ", options.checkpoint_every, ", expected at least 1");
  require(options.metric_cutoff >= 1, "metric cutoff: found ", options.metric_cutoff, ", expected at least 1");
  require(options.clip_norm >= 0, "clip norm: found ", options.clip_norm, ", expected 0 (off) or more");
  require(options.schedule.warmup_steps >= 0, "warm-up steps: found ", options.schedule.warmup_steps,
          ", expected 0 or more");
}

}  // namespace elcrec::inline ELCREC_TARGET
