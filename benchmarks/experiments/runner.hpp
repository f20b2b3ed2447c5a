#pragma once

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "commit.hpp"
#include "comparison.hpp"
#include "epoch_log.hpp"
#include "results.hpp"
#include "run.hpp"
#include "users.hpp"

namespace experiments {

struct RunnerOptions {
  std::filesystem::path data;     ///< folder of the data sets
  std::filesystem::path results;  ///< file of rows
  std::filesystem::path work;     ///< folder of checkpoints, logs and ranks of users
  Index threads = 1;              ///< of each run
  Index jobs = 1;                 ///< runs at a time
  bool on_cuda = false;
};

/// Trains a run, or continues it from its checkpoint, evaluates it and writes its row. Of finished runs it gives what
/// they left behind. `run` is safe to call from several threads for runs of different file_stem().
class Runner {
 public:
  Runner(RunnerOptions options, const std::atomic<bool>& stop)
      : options_(std::move(options)), results_(options_.results), stop_(stop) {
    std::filesystem::create_directories(options_.work);
  }

  enum class State { finished, under_way, open };

  [[nodiscard]] State state(const Run& run) const {
    return results_.holds(run)                           ? State::finished
           : std::filesystem::exists(checkpoint_of(run)) ? State::under_way
                                                         : State::open;
  }

  /// The run's row under its own names, and its ranks where they are in the folder of work. Null row if there is none
  /// with metrics.
  [[nodiscard]] Comparison::Result result(const Run& run) const {
    Comparison::Result result;
    if (const auto* row = results_.find(run); results_.holds(run) && row->contains("test")) {
      result.row = *row;
      std::ifstream in(file_of(run, ".ranks"));
      for (Index rank = 0; in >> rank;) {
        result.ranks.push_back(rank);
      }
    }
    return result;
  }

  /// describe_users of a finished run whose checkpoint is in the folder of work; null otherwise.
  [[nodiscard]] ordered_json users(const Run& run, Index sample) {
    if (result(run).row.is_null() || !std::filesystem::exists(checkpoint_of(run))) {
      return nullptr;
    }
    const auto loaded =
        elcrec::load_elcrec<elcrec::Cpu>(checkpoint_of(run), elcrec::Cpu({.threads = options_.threads}));
    ordered_json line = names_of(run);
    line.update(describe_users(loaded.model, split_of(run).dataset(), sample));
    return line;
  }

  /// False when it was interrupted. A run whose loss is not finite gets a row that says so. A run that has a row is not
  /// run again; one that has a row under another name gets a copy of it.
  bool run(const Run& run) {
    if (copy_row(run)) {
      return true;
    }
    const auto& split = split_of(run);
#ifdef ELCREC_EXPERIMENT_HAS_CUDA
    if (options_.on_cuda) {
      return train_on_cuda(run, split);
    }
#endif
    return train_on(elcrec::Cpu({.threads = options_.threads}), run, split);
  }

 private:
  template <elcrec::Backend B>
  bool train_on(const B& backend, const Run& run, const elcrec::LeaveOneOut& split) {
    Run sized = run;
    sized.model.items = split.item_count();
    program::TrainedModel model(sized.model, sized.training, backend);
    auto trainer_options = program::trainer_options(run.training, run.model.seed, stop_);
    trainer_options.checkpoint = checkpoint_of(run);
    elcrec::KMeansOptions k_means;
    if (alone()) {
      k_means.progress = elcrec::console_k_means_progress();
    }
    elcrec::Trainer trainer(model, program::optimizer(run.training), trainer_options,
                            program::k_means_start(run.training, k_means), program::k_means_end(run.training, k_means));
    Index finished = 0;
    if (std::filesystem::exists(trainer_options.checkpoint)) {
      trainer.resume(trainer_options.checkpoint);
      finished = trainer.epoch();
    }
    EpochLog log(file_of(run, ".jsonl"), finished, alone() ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_THREAD_CPUTIME_ID);
    say("== ", run.name(), finished > 0 ? " continued after epoch " + std::to_string(finished) : "");
    if (alone()) {
      forget_peak_memory();
    }
    try {
      const auto result = trainer.fit(split, [&](const elcrec::EpochReport& report) {
        if (alone()) {
          elcrec::console_progress()(report);
        }
        log(report);
      });
      if (result.end == elcrec::FitResult::End::interrupted) {
        log.interrupted(result.epochs);
        return false;
      }
      finish(run, model, split, log, result);
    } catch (const elcrec::DivergenceError& error) {  // an outcome too: it would diverge again
      ordered_json row = start_of_row(run, log);
      row["diverged"] = error.what();
      append(std::move(row));
      say("-- ", run.name(), ' ', error.what());
    }
    return true;
  }

#ifdef ELCREC_EXPERIMENT_HAS_CUDA
  /// train_on(elcrec::Cuda(...), ...), compiled by nvcc.
  bool train_on_cuda(const Run& run, const elcrec::LeaveOneOut& split);
#endif

  template <elcrec::Backend B>
  void finish(const Run& run, const program::TrainedModel<B>& model, const elcrec::LeaveOneOut& split,
              const EpochLog& log, const elcrec::FitResult& result) {
    ordered_json row = start_of_row(run, log);
    row["epochs"] = result.epochs;
    row["best_epoch"] = result.best_epoch;
    row["stopped_early"] = result.end == elcrec::FitResult::End::early_stop;
    for (const auto protocol : {elcrec::Protocol::paper, elcrec::Protocol::strict}) {
      for (const auto& [name, which] : {std::pair{"valid", elcrec::Split::valid}, {"test", elcrec::Split::test}}) {
        const auto metrics = elcrec::evaluate(model, split, which, {.protocol = protocol});
        row[name][elcrec::to_text(protocol)] = program::metrics_to_json(metrics);
        if (protocol == elcrec::Protocol::paper && which == elcrec::Split::test) {
          write_ranks(run, metrics);
        }
      }
    }
    append(std::move(row));
    say("-- ", run.name(), " best epoch ", result.best_epoch, " of ", result.epochs);
  }

  /// Whether the run has a row, if need be a copy of one under another name.
  bool copy_row(const Run& run) {
    const std::lock_guard lock(mutex_);
    if (results_.holds(run)) {
      return true;
    }
    const auto* row = results_.find(run);
    if (row == nullptr) {
      return false;
    }
    ordered_json copy = *row;
    copy["experiment"] = run.experiment;
    copy["variant"] = run.variant;
    results_.append(std::move(copy));
    return true;
  }

  void append(ordered_json row) {
    const std::lock_guard lock(mutex_);
    results_.append(std::move(row));
  }

  void say(const auto&... parts) {
    const std::lock_guard lock(mutex_);
    (std::cout << ... << parts) << std::endl;
  }

  /// Whether time and memory of the process are the run's.
  [[nodiscard]] bool alone() const { return options_.jobs == 1; }

  [[nodiscard]] ordered_json start_of_row(const Run& run, const EpochLog& log) const {
    ordered_json row = names_of(run);
    row["options"] = options_of(run);
    row["commit"] = commit();
    row["backend"] = options_.on_cuda ? "cuda" : "cpu";
    row["threads"] = options_.threads;
    row["jobs"] = options_.jobs;
    row["train_seconds"] = log.sum("seconds");
    row["cpu_seconds"] = log.sum("cpu_seconds");
    if (alone()) {
      row["peak_rss_mb"] = std::max(peak_megabytes(), log.largest("rss_mb"));
    }
    row["curve"] = log.curve();
    return row;
  }

  static ordered_json names_of(const Run& run) {
    return {
        {"experiment", run.experiment}, {"dataset", run.dataset}, {"variant", run.variant}, {"seed", run.model.seed}};
  }

  /// A rank a line, in the order of the users: for the bootstrap.
  void write_ranks(const Run& run, const elcrec::RankingMetrics& metrics) const {
    const auto path = file_of(run, ".ranks");
    std::ofstream out(path);
    for (const Index rank : metrics.ranks()) {
      out << rank << '\n';
    }
    elcrec::require<elcrec::FileError>(out.flush().good(), path.string(), ": could not be written, expected room");
  }

  const elcrec::LeaveOneOut& split_of(const Run& run) {
    const std::lock_guard lock(mutex_);
    const auto path = options_.data / run.file;
    const auto key = std::pair{path.string(), run.training.short_histories};
    auto found = splits_.find(key);
    if (found == splits_.end()) {
      found =
          splits_.emplace(key, elcrec::leave_one_out(elcrec::read_sequences(path), run.training.short_histories)).first;
    }
    return found->second;
  }

  [[nodiscard]] std::filesystem::path file_of(const Run& run, const char* ending) const {
    return options_.work / (file_stem(run) + ending);
  }
  [[nodiscard]] std::filesystem::path checkpoint_of(const Run& run) const { return file_of(run, ".safetensors"); }

  /// The kernel's high-water mark of resident memory starts again from now, where the kernel can do so.
  static void forget_peak_memory() { std::ofstream("/proc/self/clear_refs") << 5; }

  [[nodiscard]] static double peak_megabytes() {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
      if (double kilobytes = 0; word == "VmHWM:" && status >> kilobytes) {
        return kilobytes * 1024 / 1e6;
      }
    }
    return 0;
  }

  RunnerOptions options_;
  std::mutex mutex_;  // of results_, splits_ and what is printed
  Results results_;
  const std::atomic<bool>& stop_;
  std::map<std::pair<std::string, elcrec::ShortHistories>, elcrec::LeaveOneOut> splits_;
};

}  // namespace experiments
