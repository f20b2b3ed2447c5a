#pragma once

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "program/option_flags.hpp"
#include "program/run_options.hpp"

namespace program {

class Train {
 public:
  /// A run to be started or continued.
  struct Plan {
    elcrec::ELCRecOptions model;
    RunOptions run{};
    std::optional<elcrec::ItemMap> items{};  ///< of the checkpoint to continue
  };

  explicit Train(CLI::App& app) {
    auto& command = *app.add_subcommand("train", "Train a model on a file of histories");
    command.add_option("--data", data_, "lines \"user item item ...\", oldest item first")->required();
    command.add_option("--out", out_, "where the checkpoint goes; an older one there is replaced")->required();
    add_preset(command, preset_,
               "where flags start from: best (unless an ablation is asked for), elcrec (the paper's losses on masked "
               "padding), or the paper's configuration for a data set");
    add_choice<Ablation>(
        command, "--ablation", ablation_,
        {{"full", Ablation::full}, {"b", Ablation::b}, {"icl", Ablation::icl}, {"elcm", Ablation::elcm}},
        "the paper's ablations: all terms, none but the next item, with contrast, with the cluster loss");
    command.add_flag("--resume", resume_, "continue the run whose checkpoint is at --out, with its configuration");
    command.add_option("--log", log_, "file for one JSON line an epoch; --resume appends, otherwise it starts anew");
    common_.add_to(command);
    common_.add_backend_to(command, true);
    flags_.add_to<RunOptions>(command, "Training", run_preset("best"));
    flags_.add_to<elcrec::ELCRecOptions>(command, "Model", model_preset("best"));
    command.footer(
        "Examples:\n"
        "  elcrec train --data clicks.txt --out clicks.safetensors --intents 64 --log clicks.jsonl\n"
        "  elcrec train --data clicks.txt --out clicks.safetensors --preset elcrec\n"
        "  elcrec train --data Beauty.txt --out beauty.safetensors --preset beauty --padding masked --trade-off 0.1\n"
        "  elcrec train --data clicks.txt --out clicks.safetensors --resume --epochs 400\n"
        "SIGINT (Ctrl-C) or SIGTERM saves the checkpoint and ends with exit code 0. --resume continues from there to "
        "the\n"
        "bits of an uninterrupted run.");
    command.callback([this] { run(); });
  }
  Train(const Train&) = delete;
  Train& operator=(const Train&) = delete;

  /// Carries the plan out, with progress on the way and a report at the end.
  template <elcrec::Backend B>
  void train_on(const B& backend, const Plan& plan, const elcrec::LeaveOneOut& split) const {
    TrainedModel model(plan.model, plan.run, backend);
    const elcrec::StopSignal stop;
    auto options = trainer_options(plan.run, plan.model.seed, stop.requested());
    options.checkpoint = out_;
    options.notice = [this](const std::string& what) { common_.progress() << what << std::endl; };
    elcrec::KMeansOptions k_means;
    k_means.progress = elcrec::console_k_means_progress(common_.progress());
    elcrec::Trainer trainer(model, optimizer(plan.run), options, k_means_start(plan.run, k_means),
                            k_means_end(plan.run, k_means));
    if (resume_) {
      trainer.resume(out_);
    }
    std::optional<elcrec::RunLog> log = open_log();
    print_setting(common_.progress(), split, model);
    const auto result = trainer.fit(split, elcrec::console_progress(common_.progress()), [&](const auto& report) {
      if (log) {
        (*log)(report);
      }
    });
    if (result.end == elcrec::FitResult::End::interrupted) {
      report_interruption(result);
    } else {
      report(result, elcrec::evaluate(model, split, elcrec::Split::test, {.protocol = plan.run.protocol}),
             elcrec::evaluate_popularity(split, elcrec::Split::test));
    }
  }

 private:
  enum class Ablation { full, b, icl, elcm };

  /// train_on an EigenCpu, compiled by itself.
  void train_on_eigen(const Plan& plan, const elcrec::LeaveOneOut& split) const;
#ifdef ELCREC_PROGRAM_HAS_CUDA
  /// train_on(elcrec::Cuda(), ...), compiled by nvcc.
  static void train_on_cuda(const Train& train, const Plan& plan, const elcrec::LeaveOneOut& split);
#endif

  void run() {
    check_files();
    Plan plan = resume_ ? resumed_plan() : new_plan({});
    auto data = plan.items ? elcrec::read_sequences(data_, *plan.items) : elcrec::read_sequences(data_);
    const auto split = elcrec::leave_one_out(std::move(data), plan.run.short_histories);
    plan.model.items = split.item_count();
    if (!resume_) {
      fit_intents(plan.model, plan.run, split.user_count(), flags_.given("intents"), common_.progress());
    }
    switch (common_.on()) {
      case Common::On::cpu:
        return train_on(common_.backend<elcrec::Cpu>(), plan, split);
      case Common::On::eigen:
        return train_on_eigen(plan, split);
      case Common::On::cuda:
#ifdef ELCREC_PROGRAM_HAS_CUDA
        return train_on_cuda(*this, plan, split);
#else
        break;
#endif
    }
  }

  // Before hours of training, not after, and before anything is written.
  void check_files() const {
    const NamedFile data{"--data", data_};
    const NamedFile out{"--out", out_};
    const NamedFile log{"--log", log_};
    require_other_file(out, {data});
    require_other_file(log, {data, out});
    const bool exists = std::filesystem::exists(out_);
    elcrec::require<elcrec::FileError>(!exists || std::filesystem::is_regular_file(out_), "--out ", out_.string(),
                                       ": is not a regular file; expected a file or a new name");
    elcrec::require<elcrec::FileError>(!resume_ || exists, "--resume: found no checkpoint ", out_.string(),
                                       "; expected the one that the run left (or start without --resume)");
    require_writable(out);
    if (!log_.empty()) {
      require_appendable(log);
    }
  }

  /// `base` under the preset, the ablation and the flags, in this order.
  [[nodiscard]] Plan new_plan(Plan base) const {
    auto& m = base.model;
    const std::string unless_given = ablation_ == Ablation::full ? "best" : "elcrec";
    if (const auto preset = preset_.empty() && !resume_ ? unless_given : preset_; !preset.empty()) {
      m = model_preset(preset);
      base.run = resume_ ? base.run : run_preset(preset);
    }
    if (ablation_ == Ablation::b || ablation_ == Ablation::elcm) {
      m.sequence_weight = 0;
      m.intent_weight = 0;
    }
    if (ablation_ == Ablation::b || ablation_ == Ablation::icl) {
      m.trade_off = 0;
    }
    flags_.apply(m);
    flags_.apply(base.run);
    return base;
  }

  /// The checkpoint's configuration. Flags may change the rest of the run, such as --epochs, but not the model.
  [[nodiscard]] Plan resumed_plan() const {
    const auto file = elcrec::read_checkpoint(out_);
    const auto found = elcrec::read_options(file);
    Plan saved{.model = found, .run = read_run(file.metadata())};
    Plan plan = new_plan(saved);
    plan.model.items = found.items;
    const auto expected = elcrec::to_metadata(plan.model);
    for (const auto& [name, value] : elcrec::to_metadata(found)) {
      require_same(OptionFlags::flag_of(name), value, expected.at(name));
    }
    plan.items = elcrec::read_item_map(file, found.items);
    return plan;
  }

  void require_same(const std::string& flag, const std::string& found, const std::string& expected) const {
    elcrec::require<elcrec::FileError>(found == expected, "--resume: ", out_.string(), " was trained with ", flag, ' ',
                                       found, "; expected ", expected, ", as this command asks");
  }

  [[nodiscard]] std::optional<elcrec::RunLog> open_log() const {
    if (log_.empty()) {
      return std::nullopt;
    }
    if (!resume_) {
      std::ofstream(log_, std::ios::trunc);
    }
    return elcrec::RunLog(log_);
  }

  void report_interruption(const elcrec::FitResult& result) const {
    if (common_.json()) {
      std::cout << text_of({{"end", "interrupted"}, {"epochs", result.epochs}, {"checkpoint", out_.string()}}) << '\n';
    }
    common_.progress() << "interrupted after " << result.epochs << " whole epochs; saved " << shown(out_)
                       << ". Continue with: elcrec train --data " << shown(data_) << " --out " << shown(out_)
                       << " --resume\n";
  }

  void report(const elcrec::FitResult& result, const elcrec::RankingMetrics& test,
              const elcrec::RankingMetrics& popularity) const {
    const bool early = result.end == elcrec::FitResult::End::early_stop;
    if (common_.json()) {
      const ordered_json object{{"end", early ? "early_stop" : "epochs_done"},
                                {"epochs", result.epochs},
                                {"best_epoch", result.best_epoch},
                                {"checkpoint", out_.string()},
                                {"test", metrics_to_json(test)},
                                {"popularity", metrics_to_json(popularity)}};
      std::cout << text_of(object) << '\n';
      return;
    }
    std::cout << (early ? "stopped early" : "finished") << " after " << result.epochs << " epochs, the best being "
              << result.best_epoch << "; saved " << shown(out_) << "\ntest (" << test.users() << " users)\n";
    print_metrics(std::cout, {{"ELCRec", test}, {"popularity", popularity}});
  }

  Common common_;
  OptionFlags flags_;
  std::filesystem::path data_;
  std::filesystem::path out_;
  std::filesystem::path log_;
  std::string preset_;
  Ablation ablation_ = Ablation::full;
  bool resume_ = false;
};

}  // namespace program
