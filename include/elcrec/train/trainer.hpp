#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/cluster/k_means.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
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
#include "elcrec/optim/schedule.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct TrainerOptions {
  Index epochs = 300;
  Index batch_size = 256;
  int patience = 40;       ///< stop after so many epochs without a better validation NDCG
  int metric_cutoff = 20;  ///< k of that NDCG
  std::uint64_t seed = 0;
  bool k_means_start = true;  ///< centers start from k-means over the users' pooled encodings
  bool k_means_end = false;   ///< centers are set by it after training: for objectives that leave them alone
  KMeansOptions k_means{};
  double clip_norm = 0;  ///< limit of the joint gradient norm; 0 for none
  Schedule schedule{};
  EvaluationOptions validation{};
  std::filesystem::path checkpoint{};       ///< where to save; empty for nowhere
  Index checkpoint_every = 1;               ///< epochs between saves (a better model and an interruption always save)
  const std::atomic<bool>* stop = nullptr;  ///< when it turns true, training or k-means saves and ends at the next step
  std::function<void(const std::string&)> notice{};  ///< is told at once what becomes FitResult::note
};

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

/// Trains a model: shuffled batches of users, one TrainingPass and one optimizer step each, validation after every
/// epoch, early stopping, and the best weights in the model at the end. Every random number follows from `seed` and the
/// number of the step, so the same seed gives the same bits for any number of threads, and a resumed run those of an
/// uninterrupted one. Not thread-safe; uses the model's backend.
template <class Model, Optimizer Opt>
class Trainer {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Model::Scalar;
  using Lane = typename Backend::Lane;
  static_assert(OptimizerOn<Opt, Backend>, "the optimizer lacks a State for this backend: see optim/optimizer.hpp");

  Trainer(Model& model, Opt optimizer, TrainerOptions options = {}) try
      : model_(model),
        options_(std::move(options)),
        pass_(model),
        parameters_(parameters(model)),
        optimizer_(optimizer, model.backend(), parameters_) {
    require(options_.epochs >= 1, "epochs: found ", options_.epochs, ", expected at least 1");
    require(options_.batch_size >= 1, "batch size: found ", options_.batch_size, ", expected at least 1");
    require(options_.patience >= 1, "patience: found ", options_.patience, ", expected at least 1");
    require(options_.checkpoint_every >= 1, "checkpoint_every: found ", options_.checkpoint_every,
            ", expected at least 1");
    require(options_.metric_cutoff >= 1, "metric cutoff: found ", options_.metric_cutoff, ", expected at least 1");
    require(options_.clip_norm >= 0, "clip norm: found ", options_.clip_norm, ", expected 0 (off) or more");
    require(options_.schedule.warmup_steps >= 0, "warm-up steps: found ", options_.schedule.warmup_steps,
            ", expected 0 or more");
    if (Model::has_clusters && (options_.k_means_start || options_.k_means_end)) {
      check(options_.k_means);
    }
  } catch (const std::bad_alloc&) {
    in_memory_for("gradients and the optimizer's state", "a smaller model, or fewer `slices` of the backend,",
                  [] { throw; });
  }

  /// Continues where a checkpoint that this trainer's like wrote left off; `fit` finds out whether on the same data.
  /// Throws FileError when it holds no training state, one that no run can be in, or that of another configuration;
  /// model and trainer are then as they were.
  void resume(const std::filesystem::path& path) {
    const SafetensorsFile file = read_checkpoint(path);
    Saved saved = read_state(file, path.string());
    Weights before;
    snapshot(before);
    try {
      read_parameters(file, path.string(), model_.backend(), model_);
    } catch (...) {
      restore(before);
      throw;
    }
    snapshot(best_);
    auto values = saved.arrays.begin();
    for_each_state(
        [&](const std::string&, auto array) { model_.backend().template copy<Scalar>(*values++, array.flat()); });
    optimizer_.set_steps(saved.optimizer_steps);
    progress_ = saved.progress;
    ground_ = std::move(saved.ground);
    sums_ = std::move(saved.sums);
    centers_started_ = progress_.step > 0;  // a run stopped before its first step finds the same centers again
  }

  /// Trains until an end of FitResult; calls each callback(EpochReport) after every epoch. Throws DivergenceError when
  /// a loss, a weight or a score is not finite: the model then holds the best weights so far, and the checkpoint on
  /// disk is the last good one. Throws ArgumentError if k-means is to find more centers than there are users, and,
  /// where an objective reads negatives, if a user owns every item.
  ///
  /// A run goes on only on the same data: on others, or where a checkpoint does not say, the epoch under way begins
  /// anew. There, and under another validation protocol, the best weights are measured anew; both are noted. Throws
  /// FileError if the rows of the item table would mean other items.
  template <std::invocable<const EpochReport&>... Callbacks>
  FitResult fit(const LeaveOneOut& split, Callbacks&&... callbacks) {
    require(split.item_count() <= model_.item_count(), "training: found data with ", split.item_count(),
            " items, expected at most the model's ", model_.item_count());
    require(options_.checkpoint.empty() || split.item_count() == model_.item_count(),
            "training with a checkpoint: found data with ", split.item_count(), " items, expected the model's ",
            model_.item_count(), ", each of which needs an id in the file");
    check_centers(split);
    const std::string note = go_on_with(split);
    std::optional<UniformNegativeSampler> negatives;
    if (reads_negatives_now()) {
      negatives.emplace(split.dataset());
    }
    FitResult::End end = FitResult::End::epochs_done;
    if (!centers_started_ && options_.k_means_start && !find_centers(split)) {
      save(split);
      return {FitResult::End::interrupted, progress_.epoch, progress_.best_epoch, progress_.best_ndcg, note};
    }
    centers_started_ = true;
    while (progress_.epoch < options_.epochs) {
      if (progress_.epoch - (std::max)(progress_.best_epoch, progress_.measured_anew) >= options_.patience) {
        end = FitResult::End::early_stop;
        break;
      }
      const auto began = std::chrono::steady_clock::now();
      const Index first_batch = progress_.batch;
      const auto what = message("a training step of ", (std::min)(options_.batch_size, split.user_count()), " users");
      const bool whole = in_memory_for(what, "a smaller `batch_size`, `max_length` or `hidden`",
                                       [&] { return train_epoch(split, negatives ? &*negatives : nullptr); });
      if (!whole) {
        save(split);
        end = FitResult::End::interrupted;
        break;
      }
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      const EpochReport report = finish_epoch(split, seconds, first_batch);
      (callbacks(report), ...);
    }
    if (end != FitResult::End::interrupted && !end_with_best(split)) {
      end = FitResult::End::interrupted;
    }
    return {end, progress_.epoch, progress_.best_epoch, progress_.best_ndcg, note};
  }

  /// Epochs finished, those before a resumption included.
  [[nodiscard]] Index epoch() const { return progress_.epoch; }

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
    const auto state = [&](const std::string& key, const std::string& value) {
      writer.metadata(std::string(training_prefix) + key, value);
    };
    state("optimizer", std::string(Opt::name));
    state("seed", to_text(options_.seed));
    state("batch_size", to_text(options_.batch_size));
    state("epoch", to_text(progress_.epoch));
    state("step", to_text(progress_.step));
    state("batch", to_text(progress_.batch));
    state("best_ndcg", to_text(progress_.best_ndcg));
    state("best_epoch", to_text(progress_.best_epoch));
    state("measured_anew", to_text(progress_.measured_anew));
    if (!ground_.data.empty()) {
      state("data", ground_.data);
      state("users", to_text(ground_.users));
      state("protocol", ground_.protocol);
      state("metric_cutoff", to_text(ground_.metric_cutoff));
    }
    state("optimizer_steps", to_text(optimizer_.steps()));
    const auto& backend = model_.backend();
    for_each_state([&](const std::string& name, auto values) {
      writer.add<Backend, Scalar>(backend, std::string(training_prefix) + name, {values.size()}, values.flat());
    });
    writer.add<Backend, double>(backend, std::string(training_prefix) + "loss_sums", {static_cast<Index>(sums_.size())},
                                sums_);
    with_best([&] { writer.add_parameters(backend, model_); });
    writer.add(split.dataset().item_map());
    writer.write(options_.checkpoint);
  }

 private:
  using Weights = std::vector<std::vector<Scalar>>;

  struct Progress {
    Index epoch = 0;  ///< finished
    Index batch = 0;  ///< finished of the epoch under way
    std::uint32_t step = 0;
    double best_ndcg = -1;
    Index best_epoch = 0;
    Index measured_anew = 0;  ///< the epoch after which best_ndcg was measured on another ground than before
  };

  /// What best_ndcg and the place within an epoch belong to.
  struct Ground {
    std::string data{};  ///< fingerprint of the split; empty where it is not known
    Index users = 0;
    std::string protocol{};  ///< of validation: "strict" or "paper"
    int metric_cutoff = 0;
    std::vector<std::int64_t> items{};  ///< what rows 1, 2, ... of the item table are called
    std::string source = "the run so far";

    [[nodiscard]] bool same_data(const Ground& other) const { return data == other.data && users == other.users; }
    [[nodiscard]] std::string measure() const { return message(protocol, " NDCG@", metric_cutoff); }
  };

  /// The training state of a checkpoint.
  struct Saved {
    Progress progress{};
    Ground ground{};
    long optimizer_steps = 0;
    Weights arrays{};  ///< in the order of for_each_state
    std::vector<double> sums{};
  };

  [[nodiscard]] Ground ground_of(const LeaveOneOut& split) const {
    const auto names = split.dataset().item_names();
    return {.data = fingerprint(split).text(),
            .users = split.user_count(),
            .protocol = options_.validation.protocol == Protocol::paper ? "paper" : "strict",
            .metric_cutoff = options_.metric_cutoff,
            .items = {names.begin(), names.end()}};
  }

  /// Makes what was reached so far comparable on `split`. Says what had to be done for it.
  std::string go_on_with(const LeaveOneOut& split) {
    Ground now = ground_of(split);
    for (std::size_t i = 0; i < (std::min)(now.items.size(), ground_.items.size()); ++i) {
      require<FileError>(now.items[i] == ground_.items[i], "training: row ", i + 1, " is item ", now.items[i],
                         " in the data, expected item ", ground_.items[i], " as in ", ground_.source);
    }
    const bool same_data = now.same_data(ground_);
    const bool same_measure = same_data && now.measure() == ground_.measure();
    std::string note;
    if (!same_data) {
      if (progress_.batch > 0) {
        note += message("; epoch ", progress_.epoch + 1, " begins anew");
      }
      progress_.batch = 0;
      progress_.step = step_at(progress_.epoch, 0, split.user_count());
      sums_.clear();
    }
    if (!same_measure && progress_.best_epoch > 0) {
      double ndcg = 0;
      with_best([&] {
        ndcg = evaluate(std::as_const(model_), split, Split::valid, options_.validation).ndcg(options_.metric_cutoff);
      });
      note += message("; the best weights, of epoch ", progress_.best_epoch, ", have ", now.measure(), ' ', ndcg,
                      " there (", progress_.best_ndcg, " before)");
      if (ndcg != progress_.best_ndcg) {
        progress_.measured_anew = progress_.epoch;
      }
      progress_.best_ndcg = ndcg;
    }
    if (!note.empty()) {
      note = (same_data              ? message("validation by ", now.measure(), ", until now by ", ground_.measure())
              : ground_.data.empty() ? message(ground_.source, " does not say what data and protocol it is from")
                                     : message("other data than in ", ground_.source)) +
             note;
      if (options_.notice) {
        options_.notice(note);
      }
    }
    ground_ = std::move(now);
    return note;
  }

  /// Reads and checks all of a training state but the weights that are the model's. Throws FileError.
  Saved read_state(const SafetensorsFile& file, const std::string& path) {
    const auto text = [&](const std::string& key) -> const std::string& {
      const auto found = file.metadata().find(std::string(training_prefix) + key);
      require<FileError>(found != file.metadata().end(), path, ": found no '", training_prefix, key,
                         "' in the metadata, expected a checkpoint with training state");
      return found->second;
    };
    const auto expect = [&](const std::string& key, const std::string& wanted) {
      require<FileError>(text(key) == wanted, path, ": found ", key, " = ", detail::excerpt(text(key)), ", expected ",
                         wanted, " as in this run");
    };
    const auto number = [&]<class T>(const std::string& key, T lowest, T highest) {
      T value{};
      bool reads = true;
      try {
        from_text(key, text(key), value);
      } catch (const ArgumentError&) {
        reads = false;
      }
      if constexpr (std::is_floating_point_v<T>) {
        reads = reads && is_finite(value);
      }
      require<FileError>(reads && lowest <= value && value <= highest, path, ": ", training_prefix, key, ": found '",
                         detail::excerpt(text(key)), "', expected a ", std::is_floating_point_v<T> ? "" : "whole ",
                         "number from ", lowest, " to ", highest);
      return value;
    };
    expect("optimizer", std::string(Opt::name));
    expect("seed", to_text(options_.seed));
    expect("batch_size", to_text(options_.batch_size));

    constexpr Index most = (std::numeric_limits<Index>::max)();
    Saved saved;
    auto& p = saved.progress;
    p.epoch = number("epoch", Index{0}, most);
    p.best_epoch = number("best_epoch", Index{p.epoch > 0 ? 1 : 0}, p.epoch);
    p.best_ndcg = p.epoch > 0 ? number("best_ndcg", 0.0, 1.0) : number("best_ndcg", -1.0, -1.0);
    saved.ground.source = path;
    if (file.metadata().contains(std::string(training_prefix) + "data")) {
      saved.ground.data = text("data");
      saved.ground.users = number("users", Index{1}, most);
      saved.ground.protocol = text("protocol");
      require<FileError>(saved.ground.protocol == "strict" || saved.ground.protocol == "paper", path, ": ",
                         training_prefix, "protocol: found '", detail::excerpt(saved.ground.protocol),
                         "', expected strict or paper");
      saved.ground.metric_cutoff = number("metric_cutoff", 1, (std::numeric_limits<int>::max)());
      p.measured_anew = number("measured_anew", Index{0}, p.epoch);
      p.batch = number("batch", Index{0}, batches_of(saved.ground.users) - 1);
      const std::uint32_t step = step_at(p.epoch, p.batch, saved.ground.users);
      p.step = number("step", step, step);
    } else {
      p.batch = number("batch", Index{0}, most);
      p.step = number("step", std::uint32_t{0}, (std::numeric_limits<std::uint32_t>::max)());
    }
    saved.optimizer_steps = number("optimizer_steps", 0L, (std::numeric_limits<long>::max)() / 2);

    const auto expect_size = [&](const std::string& name, std::size_t found, std::size_t expected) {
      require<FileError>(found == expected, path, ": tensor '", name, "': found ", found, " values, expected ",
                         expected);
    };
    for_each_state([&](const std::string& key, auto values) {
      const std::string name = std::string(training_prefix) + key;
      const auto& array = saved.arrays.emplace_back(file.read<Scalar>(name));
      expect_size(name, array.size(), static_cast<std::size_t>(values.size()));
      const auto negative = std::find_if(array.begin(), array.end(), [](Scalar x) { return x < 0; });
      require<FileError>(negative == array.end() || !never_negative(key), path, ": tensor '", name, "': found ",
                         negative == array.end() ? Scalar(0) : *negative, " at element ", negative - array.begin(),
                         ", expected no negative value");
    });
    const std::string sums = std::string(training_prefix) + "loss_sums";
    saved.sums = file.read<double>(sums);
    expect_size(sums, saved.sums.size(), p.batch > 0 ? 1 + terms() : 0);
    if (file.contains(item_ids_tensor)) {
      saved.ground.items = file.read<std::int64_t>(item_ids_tensor);
    }
    return saved;
  }

  /// Whether the optimizer says so of this name of for_each_state.
  [[nodiscard]] static bool never_negative(std::string_view key) {
    constexpr std::string_view prefix = Opt::name;
    using State = typename Opt::template State<Backend>;
    if constexpr (requires { State::never_negative(key); }) {
      return key.starts_with(prefix) && State::never_negative(key.substr(prefix.size() + 1));
    } else {
      return false;
    }
  }

  /// Losses that an epoch sums up, besides their total.
  [[nodiscard]] std::size_t terms() const {
    return std::apply([](const auto&... objective) { return (std::size_t{objective.weight != 0} + ... + 0); },
                      model_.objectives);
  }

  /// Everything of a run under way that is an array of scalars.
  template <class F>
  void for_each_state(F f) {
    for (const auto& p : parameters_) {
      f("current." + p.name, p.values);
    }
    optimizer_.visit(
        [&](const std::string& name, MatrixView<Scalar> values) { f(std::string(Opt::name) + "." + name, values); });
  }

  void snapshot(Weights& weights) const {
    weights.clear();
    for (const auto& p : parameters_) {
      auto& host = weights.emplace_back(static_cast<std::size_t>(p.values.size()));
      model_.backend().template copy<Scalar>(p.values.flat(), std::span<Scalar>(host));
    }
  }

  void restore(const Weights& weights) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
      model_.backend().template copy<Scalar>(weights[i], parameters_[i].values.flat());
    }
  }

  /// f() while the model has the best weights, if there are any yet.
  template <class F>
  void with_best(F f) {
    Weights current;
    snapshot(current);
    restore(best_);
    try {
      f();
    } catch (...) {
      restore(current);
      throw;
    }
    restore(current);
  }

  void check_centers(const LeaveOneOut& split) const {
    if constexpr (Model::has_clusters) {
      const bool k_means_comes = (options_.k_means_start && !centers_started_) || options_.k_means_end;
      require(!k_means_comes || model_.clusters().count() <= split.user_count(),
              "intents: found K = ", model_.clusters().count(), " for ", split.user_count(),
              " users, expected at most one for each user");
    }
  }

  [[nodiscard]] bool reads_negatives_now() const {
    return std::apply([](const auto&... objective) { return (reads_negatives(objective) || ...); }, model_.objectives);
  }

  [[nodiscard]] bool stop_requested() const { return options_.stop != nullptr && options_.stop->load(); }

  /// The best weights go into the model, with centers of their own if these come last. False when those were
  /// interrupted: the model then holds the last weights.
  bool end_with_best(const LeaveOneOut& split) {
    bool complete = true;
    if (options_.k_means_end) {
      Weights last;
      snapshot(last);
      restore(best_);
      complete = find_centers(split);
      if (complete) {
        snapshot(best_);
      }
      restore(last);  // what a resumption with more epochs goes on from
      save(split);
    }
    if (complete) {
      restore(best_);
    }
    return complete;
  }

  /// Centers by k-means over the users' pooled encodings. False when interrupted.
  bool find_centers(const LeaveOneOut& split) {
    if constexpr (Model::has_clusters) {
      const Index n = split.user_count();
      auto& clusters = model_.clusters();
      Matrix<Backend> users(model_.backend(), n, clusters.hidden());
      const Index block = model_.backend().encoded_sequences();
      model_.backend().parallel_for((n + block - 1) / block, [&](Lane& lane, Index b) {
        const Index first = b * block;
        const Index last = (std::min)(n, first + block);
        if (stop_requested()) {
          return;
        }
        TokenBatch batch;
        batch.start(model_.max_length(), model_.padding);
        for (Index user = first; user < last; ++user) {
          batch.add(split.input(user, Split::train));
        }
        const auto frame = lane.workspace().frame();
        const TokenView tokens = lane.stage(batch.view());
        model_.encode_user(lane, tokens, users.view().slice_rows(first, last));
      });
      KMeansOptions k_means_options = options_.k_means;
      k_means_options.seed = options_.seed;
      k_means_options.stop = options_.stop;
      k_means(model_.backend(), MatrixView<const Scalar>(users.view()), k_means_options,
              MatrixView<Scalar>(clusters.centers()));
      if (stop_requested()) {
        return false;
      }
      model_.backend().parallel_for(1, [&](Lane& lane, Index) { clusters.project(lane); });
    }
    return true;
  }

  [[nodiscard]] Index batches_of(Index users) const { return 1 + (users - 1) / options_.batch_size; }
  [[nodiscard]] Index batches_of(const LeaveOneOut& split) const { return batches_of(split.user_count()); }

  /// Steps before a batch; modulo 2^32, as random numbers are addressed.
  [[nodiscard]] std::uint32_t step_at(Index epoch, Index batch, Index users) const {
    return static_cast<std::uint32_t>(static_cast<std::uint64_t>(epoch) *
                                          static_cast<std::uint64_t>(batches_of(users)) +
                                      static_cast<std::uint64_t>(batch));
  }

  /// The rest of the epoch under way. False when it was interrupted.
  bool train_epoch(const LeaveOneOut& split, const UniformNegativeSampler* negatives) {
    std::vector<Index> order(static_cast<std::size_t>(split.user_count()));
    std::iota(order.begin(), order.end(), Index{0});
    RandomEngine({options_.seed, static_cast<std::uint32_t>(progress_.epoch),
                  static_cast<std::uint32_t>(RandomTensor::user_order)})
        .shuffle(std::span(order));
    constexpr Index most = (std::numeric_limits<Index>::max)();
    const Index total_steps = options_.epochs > most / batches_of(split) ? most : options_.epochs * batches_of(split);
    // A device computes one step while the host makes the batches of the next.
    const auto prepare = [&](Index batch, std::uint32_t step) {
      const Index first = batch * options_.batch_size;
      const auto users = slice(std::span<const Index>(order), first,
                               first + (std::min)(split.user_count() - first, options_.batch_size));
      auto& batches = batches_[step % 2];
      batches.build(model_, {&split, negatives, options_.seed, step}, users);
      pass_.upload(batches);
    };
    if (progress_.batch < batches_of(split)) {
      prepare(progress_.batch, progress_.step);
    }
    while (progress_.batch < batches_of(split)) {
      if (stop_requested()) {
        return false;
      }
      pass_.start(options_.seed, progress_.step);
      if (progress_.batch + 1 < batches_of(split)) {
        prepare(progress_.batch + 1, progress_.step + 1);
      }
      add_losses(pass_.losses());
      const auto gradients = pass_.gradients();
      if (options_.clip_norm > 0) {
        clip_gradients(model_.backend(), std::span(gradients), options_.clip_norm);
      }
      optimizer_.step(model_.backend(), parameters_, gradients, options_.schedule.factor(progress_.step, total_steps));
      ++progress_.step;
      ++progress_.batch;
    }
    return true;
  }

  void add_losses(const Losses& losses) {
    if (!is_finite(losses.total)) {
      std::string terms;
      for (const auto& [name, value] : losses.terms) {
        terms += (terms.empty() ? "" : ", ") + message(name, " = ", value);
      }
      restore(best_);
      throw DivergenceError(message("epoch ", progress_.epoch + 1, ", batch ", progress_.batch + 1,
                                    ": the loss is not finite (", terms,
                                    "); expected finite terms. Lower the learning rate?"));
    }
    sums_.resize(losses.terms.size() + 1, 0.0);
    sums_[0] += losses.total;
    names_.clear();
    for (std::size_t i = 0; i < losses.terms.size(); ++i) {
      sums_[i + 1] += losses.terms[i].second;
      names_.push_back(losses.terms[i].first);
    }
  }

  /// Throws DivergenceError, with the best weights back in the model, for weights or scores that are not finite: the
  /// loss of the epoch's last batch does not show what its step did.
  RankingMetrics validate(const LeaveOneOut& split) {
    try {
      require_finite(model_.backend(), std::as_const(model_), message("epoch ", progress_.epoch));
      return evaluate(std::as_const(model_), split, Split::valid, options_.validation);
    } catch (const DivergenceError&) {
      restore(best_);
      throw;
    }
  }

  EpochReport finish_epoch(const LeaveOneOut& split, double seconds, Index first_batch) {
    const auto batches = static_cast<double>(batches_of(split));
    EpochReport report;
    report.losses.total = sums_[0] / batches;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      report.losses.terms.emplace_back(names_[i], sums_[i + 1] / batches);
    }
    sums_.clear();
    progress_.batch = 0;
    report.epoch = ++progress_.epoch;
    report.epochs = options_.epochs;
    report.train_seconds = seconds;
    const auto users = static_cast<double>(split.user_count() - first_batch * options_.batch_size);
    report.users_per_second = users / (std::max)(seconds, 1e-9);
    report.seconds_left = seconds * static_cast<double>(options_.epochs - progress_.epoch);
    report.valid = validate(split);
    const double ndcg = report.valid.ndcg(options_.metric_cutoff);
    report.best = ndcg > progress_.best_ndcg;
    if (report.best) {
      progress_.best_ndcg = ndcg;
      progress_.best_epoch = progress_.epoch;
      snapshot(best_);
    }
    report.best_epoch = progress_.best_epoch;
    if (report.best || progress_.epoch % options_.checkpoint_every == 0 || progress_.epoch == options_.epochs) {
      save(split);
    }
    return report;
  }

  Model& model_;
  TrainerOptions options_;
  TrainingPass<Model> pass_;
  std::array<StepBatches<Model>, 2> batches_;
  std::vector<Parameter<Scalar>> parameters_;
  typename Opt::template State<Backend> optimizer_;
  Progress progress_;
  Ground ground_;
  Weights best_;
  std::vector<double> sums_;  // of the epoch under way: total, then each term
  std::vector<std::string> names_;
  bool centers_started_ = false;
};

}  // namespace elcrec::inline ELCREC_TARGET
