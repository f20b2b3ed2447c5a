#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <new>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/negative_sampler.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/model/training_pass.hpp"
#include "elcrec/nn/sums_of_squares.hpp"
#include "elcrec/optim/clip_gradients.hpp"
#include "elcrec/optim/optimizer.hpp"
#include "elcrec/train/options.hpp"
#include "elcrec/train/report.hpp"
#include "elcrec/train/run_state.hpp"
#include "elcrec/train/stage.hpp"
#include "elcrec/train/training_run.hpp"
#include "elcrec/train/weights.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Trains a model: shuffled batches of users, one TrainingPass and one optimizer step each, stages around them,
/// validation after every epoch, early stopping, and the best weights in the model at the end. Every random number
/// follows from `seed` and the number of the step, so the same seed gives the same bits for any number of threads, and
/// a resumed run those of an uninterrupted one. Not thread-safe; uses the model's backend.
template <class Model, Optimizer Opt>
class Trainer {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Model::Scalar;
  static_assert(OptimizerOn<Opt, Backend>, "the optimizer lacks a State for this backend: see optim/optimizer.hpp");

  /// `stages` (train/stage.hpp) are called in their order; a std::optional may hold one. Without any those that the
  /// model brings, a tuple from its stages(), if it has some; with NoStages none.
  template <class... Stages>
  explicit Trainer(Model& model, Opt optimizer, TrainerOptions options = {}, Stages... stages) try
      : model_(model),
        options_(std::move(options)),
        pass_(model, options_.memory),
        run_(model.backend(), optimizer, parameters(model)) {
    check(options_);
    const auto add = [this](auto&&... list) { (stages_.add(std::move(list)), ...); };
    if constexpr (sizeof...(Stages) > 0) {
      add(std::move(stages)...);
    } else if constexpr (requires { model.stages(); }) {
      std::apply(add, model.stages());
    }
  } catch (const std::bad_alloc&) {
    in_memory_for("gradients and the optimizer's state", "a smaller model, or fewer `slices` of the backend,",
                  [] { throw; });
  }

  /// Continues where a checkpoint that this trainer's like wrote left off; `fit` finds out whether on the same data.
  /// Throws FileError when it holds no training state, one that no run can be in, that of another configuration or
  /// something that nobody here knows; model and trainer are then as they were.
  void resume(const std::filesystem::path& path) {
    run_.read(read_checkpoint(path), options_, stages_.state(), terms());
  }

  /// Trains until an end of FitResult; calls each callback(EpochReport) after every epoch. Throws DivergenceError when
  /// a loss, a weight or a score is not finite: the model then holds the best weights so far, and the checkpoint on
  /// disk is the last good one. Throws ArgumentError if a stage cannot do its work on these data and, where an
  /// objective reads negatives, if a user owns every item.
  ///
  /// A run goes on only on the same data: on others, or where a checkpoint does not say, the epoch under way begins
  /// anew. There, and under another validation protocol, the best weights are measured anew; both are noted. Throws
  /// FileError if the rows of the item table would mean other items.
  template <std::invocable<const EpochReport&>... Callbacks>
  FitResult fit(const LeaveOneOut& split, Callbacks&&... callbacks) {
    return run_to_end(split, [&](const EpochReport& report) { (callbacks(report), ...); });
  }

  /// One step on these users, by themselves: it counts for no epoch, and the best weights of a fit stay what they are.
  /// `negatives` may be null where no objective reads them. Random numbers follow from the seed and the number of
  /// updates so far. Returns the losses; throws DivergenceError before the update if they are not finite, ArgumentError
  /// for no users or others than the data have.
  Losses step(const LeaveOneOut& split, const UniformNegativeSampler* negatives, std::span<const Index> users) {
    require_items(split);
    require(!users.empty(), "training step: found no users, expected at least one");
    for (const Index user : users) {
      require(0 <= user && user < split.user_count(), "training step: found user number ", user, ", expected 0 to ",
              split.user_count() - 1);
    }
    require(negatives != nullptr || !reads_negatives_now(),
            "training step: found no negative sampler, expected one: an objective reads negatives");
    const long steps = run_.optimizer.steps();
    const auto number = static_cast<std::uint32_t>(steps);
    return in_memory_for_step(ssize(users), [&] {
      upload(split, negatives, users, number);
      return update(
          split, number, steps, [&] { return message("step ", steps + 1); }, [] {});
    });
  }

  /// Epochs finished, those before a resumption included.
  [[nodiscard]] Index epoch() const { return run_.progress.epoch; }

  /// Writes the checkpoint now: the best weights as the model, and under `training.` all that resume needs.
  void save(const LeaveOneOut& split) {
    if (options_.checkpoint.empty()) {
      return;
    }
    CheckpointWriter writer;
    if constexpr (requires { model_.metadata(); }) {
      for (const auto& [key, value] : model_.metadata()) {
        writer.metadata(key, value);
      }
    }
    run_.write(options_, stages_.state(), writer);
    writer.add(split.dataset().item_map());
    writer.write(options_.checkpoint);
  }

 private:
  using Context = StageContext<Model>;

  [[nodiscard]] const Backend& backend() const { return model_.backend(); }
  [[nodiscard]] bool stop_requested() const { return options_.stop != nullptr && options_.stop->load(); }

  [[nodiscard]] Context context(const LeaveOneOut& split) {
    return {model_, split, options_.seed, options_.stop, run_.progress.epoch, run_.optimizer.steps()};
  }

  void require_items(const LeaveOneOut& split) const {
    require(split.item_count() <= model_.item_count(), "training: found data with ", split.item_count(),
            " items, expected at most the model's ", model_.item_count());
  }

  /// Losses that an epoch sums up, besides their total.
  [[nodiscard]] std::size_t terms() const {
    return std::apply([](const auto&... objective) { return (std::size_t{objective.weight != 0} + ... + 0); },
                      model_.objectives);
  }

  // ---- a run ----------------------------------------------------------------------------------------------------

  FitResult run_to_end(const LeaveOneOut& split, const std::function<void(const EpochReport&)>& report) {
    require_items(split);
    require(options_.checkpoint.empty() || split.item_count() == model_.item_count(),
            "training with a checkpoint: found data with ", split.item_count(), " items, expected the model's ",
            model_.item_count(), ", each of which needs an id in the file");
    stages_.check(context(split));
    const std::string note = go_on_with(split);
    std::optional<UniformNegativeSampler> negatives;
    if (reads_negatives_now()) {
      negatives.emplace(split.dataset());
    }
    FitResult::End end = run_epochs(split, negatives ? &*negatives : nullptr, report);
    if (end != FitResult::End::interrupted && !end_with_best(split)) {
      end = FitResult::End::interrupted;
    }
    return {end, run_.progress.epoch, run_.progress.best_epoch, run_.progress.best_ndcg, note};
  }

  FitResult::End run_epochs(const LeaveOneOut& split, const UniformNegativeSampler* negatives,
                            const std::function<void(const EpochReport&)>& report) {
    while (run_.progress.epoch < options_.epochs) {
      if (run_.progress.epoch - (std::max)(run_.progress.best_epoch, run_.progress.measured_anew) >=
          options_.patience) {
        return FitResult::End::early_stop;
      }
      const auto began = std::chrono::steady_clock::now();
      const Index first_batch = run_.progress.batch;
      if (!call_stages_before(split) || !in_memory_for_step((std::min)(options_.batch_size, split.user_count()),
                                                            [&] { return train_epoch(split, negatives); })) {
        save(split);
        return FitResult::End::interrupted;
      }
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      report(finish_epoch(split, seconds, first_batch));
    }
    return FitResult::End::epochs_done;
  }

  /// Those of the stages that are called before the next step and were not yet. False when one was interrupted.
  bool call_stages_before(const LeaveOneOut& split) {
    if (run_.progress.batch > 0) {
      return true;
    }
    Context now = context(split);
    Index& done = run_.progress.stages;
    const Index firsts = now.steps == 0 ? stages_.count(StageEvent::before_first) : 0;
    if (done < firsts && !stages_.call(StageEvent::before_first, now, done)) {
      return false;
    }
    Index done_of_epoch = done - firsts;
    const bool whole = stages_.call(StageEvent::before_epoch, now, done_of_epoch);
    done = firsts + done_of_epoch;
    return whole;
  }

  /// Makes what was reached so far comparable on `split`. Says what had to be done for it.
  std::string go_on_with(const LeaveOneOut& split) {
    Ground now = ground_of(split, options_);
    require_same_rows(now, run_.ground);
    const bool same_data = now.same_data(run_.ground);
    const bool same_measure = same_data && now.measure() == run_.ground.measure();
    std::string note;
    if (!same_data) {
      if (run_.progress.batch > 0) {
        note += message("; epoch ", run_.progress.epoch + 1, " begins anew");
      }
      run_.progress.batch = 0;
      run_.progress.stages = 0;
      run_.progress.step = step_at(run_.progress.epoch, 0, batches_of(split));
      run_.sums.clear();
    }
    if (!same_measure && run_.progress.best_epoch > 0) {
      const double ndcg = run_.with_best([&] {
        return evaluate(std::as_const(model_), split, Split::valid, options_.validation).ndcg(options_.metric_cutoff);
      });
      note += message("; the best weights, of epoch ", run_.progress.best_epoch, ", have ", now.measure(), ' ', ndcg,
                      " there (", run_.progress.best_ndcg, " before)");
      if (ndcg != run_.progress.best_ndcg) {
        run_.progress.measured_anew = run_.progress.epoch;
      }
      run_.progress.best_ndcg = ndcg;
    }
    if (!note.empty()) {
      note.insert(0, difference(now, run_.ground));
      if (options_.notice) {
        options_.notice(note);
      }
    }
    run_.ground = std::move(now);
    return note;
  }

  /// The best weights go into the model, after the last stages have seen them. False when one was interrupted: the
  /// model then holds the last weights.
  bool end_with_best(const LeaveOneOut& split) {
    bool complete = true;
    if (stages_.count(StageEvent::after_last) > 0) {
      Weights<Backend> last;
      last.copy_from(backend(), run_.parameters);
      run_.restore_best();
      Context now = context(split);
      complete = stages_.call(StageEvent::after_last, now);
      if (complete) {
        run_.keep_best();
      }
      last.copy_to(backend(), run_.parameters);  // what a resumption with more epochs goes on from
      save(split);
    }
    if (complete) {
      run_.restore_best();
    }
    return complete;
  }

  // ---- steps ----------------------------------------------------------------------------------------------------

  [[nodiscard]] Index batches_of(const LeaveOneOut& split) const {
    return elcrec::batches_of(split.user_count(), options_.batch_size);
  }

  [[nodiscard]] bool reads_negatives_now() const {
    return std::apply([](const auto&... objective) { return (reads_negatives(objective) || ...); }, model_.objectives);
  }

  template <class F>
  static decltype(auto) in_memory_for_step(Index users, F f) {
    return in_memory_for(message("a training step of ", users, " users"),
                         "a smaller `batch_size`, `max_length` or `hidden`", f);
  }

  /// Starts to bring the sequences of step `number` into backend memory.
  void upload(const LeaveOneOut& split, const UniformNegativeSampler* negatives, std::span<const Index> users,
              std::uint32_t number) {
    auto& batches = batches_[number % 2];
    batches.build(model_, {&split, negatives, options_.seed, number}, users);
    pass_.upload(batches);
  }

  /// One update from what was uploaded last, at the schedule's rate for `step` of a run: `meanwhile()` runs while a
  /// device computes. Where a loss is not finite, `place()` says where; the model then has the best weights.
  template <class Place, class Meanwhile>
  Losses update(const LeaveOneOut& split, std::uint32_t number, long step, Place place, Meanwhile meanwhile) {
    pass_.start(options_.seed, number);
    meanwhile();
    Losses losses = pass_.losses();
    if (!is_finite(losses.total)) {
      run_.restore_best();
      fail_for_losses(place(), losses);
    }
    const auto gradients = pass_.gradients();
    if (options_.clip_norm > 0) {
      clip_gradients(backend(), std::span(gradients), options_.clip_norm);
    }
    constexpr Index most = (std::numeric_limits<Index>::max)();
    const Index batches = batches_of(split);
    const Index total = options_.epochs > most / batches ? most : options_.epochs * batches;
    run_.optimizer.step(backend(), run_.parameters, gradients, options_.schedule.factor(step, total));
    if (stages_.count(StageEvent::after_step) > 0) {
      Context now = context(split);
      static_cast<void>(stages_.call(StageEvent::after_step, now));
    }
    return losses;
  }

  /// The rest of the epoch under way. False when it was interrupted.
  bool train_epoch(const LeaveOneOut& split, const UniformNegativeSampler* negatives) {
    std::vector<Index> order(static_cast<std::size_t>(split.user_count()));
    std::iota(order.begin(), order.end(), Index{0});
    RandomEngine({options_.seed, static_cast<std::uint32_t>(run_.progress.epoch),
                  static_cast<std::uint32_t>(RandomTensor::user_order)})
        .shuffle(std::span(order));
    const auto upload_batch = [&](Index batch, std::uint32_t number) {
      if (batch < batches_of(split)) {
        const Index first = batch * options_.batch_size;
        const Index last = first + (std::min)(split.user_count() - first, options_.batch_size);
        upload(split, negatives, slice(std::span<const Index>(order), first, last), number);
      }
    };
    upload_batch(run_.progress.batch, run_.progress.step);
    while (run_.progress.batch < batches_of(split)) {
      if (stop_requested()) {
        return false;
      }
      run_.sums.add(update(
          split, run_.progress.step, run_.progress.step,
          [&] { return message("epoch ", run_.progress.epoch + 1, ", batch ", run_.progress.batch + 1); },
          [&] { upload_batch(run_.progress.batch + 1, run_.progress.step + 1); }));
      ++run_.progress.step;
      ++run_.progress.batch;
      run_.progress.stages = 0;
    }
    return true;
  }

  /// Throws DivergenceError, with the best weights back in the model, for weights or scores that are not finite: the
  /// loss of the epoch's last batch does not show what its step did.
  RankingMetrics validate(const LeaveOneOut& split) {
    try {
      require_finite(backend(), std::as_const(model_), message("epoch ", run_.progress.epoch));
      return evaluate(std::as_const(model_), split, Split::valid, options_.validation);
    } catch (const DivergenceError&) {
      run_.restore_best();
      throw;
    }
  }

  EpochReport finish_epoch(const LeaveOneOut& split, double seconds, Index first_batch) {
    EpochReport report;
    report.losses = run_.sums.means(batches_of(split));
    run_.sums.clear();
    run_.progress.batch = 0;
    report.epoch = ++run_.progress.epoch;
    report.epochs = options_.epochs;
    report.train_seconds = seconds;
    const auto users = static_cast<double>(split.user_count() - first_batch * options_.batch_size);
    report.users_per_second = users / (std::max)(seconds, 1e-9);
    report.seconds_left = seconds * static_cast<double>(options_.epochs - run_.progress.epoch);
    report.valid = validate(split);
    const double ndcg = report.valid.ndcg(options_.metric_cutoff);
    report.best = ndcg > run_.progress.best_ndcg;
    if (report.best) {
      run_.progress.best_ndcg = ndcg;
      run_.progress.best_epoch = run_.progress.epoch;
      run_.keep_best();
    }
    report.best_epoch = run_.progress.best_epoch;
    if (report.best || run_.progress.epoch % options_.checkpoint_every == 0 || run_.progress.epoch == options_.epochs) {
      save(split);
    }
    return report;
  }

  Model& model_;
  TrainerOptions options_;
  TrainingPass<Model> pass_;
  std::array<StepBatches<Model>, 2> batches_;
  TrainingRun<Backend, Opt> run_;
  StageList<Model> stages_;
};

}  // namespace elcrec::inline ELCREC_TARGET
