#pragma once

#include <array>
#include <atomic>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>

#include "program/common.hpp"

namespace elcrec {
template <>
inline constexpr std::array<std::string_view, 2> names_of<Schedule::Shape>{"constant", "cosine"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Protocol>{"strict", "paper"};
template <>
inline constexpr std::array<std::string_view, 2> names_of<ShortHistories>{"reject", "drop"};
}  // namespace elcrec

namespace program {

/// How a model is trained: what the checkpoint keeps besides the model's own configuration, so that --resume needs no
/// flag.
struct RunOptions {
  Index epochs = 300;
  Index batch_size = 256;
  double learning_rate = 1e-3;
  bool lazy_adam = false;
  double weight_decay = 0;
  int patience = 40;
  double clip_norm = 0;
  Index memory = 1024;
  long warmup_steps = 0;
  elcrec::Schedule::Shape schedule = elcrec::Schedule::Shape::constant;
  bool k_means = true;
  bool k_means_end = false;
  elcrec::Protocol protocol = elcrec::Protocol::strict;
  elcrec::ShortHistories short_histories = elcrec::ShortHistories::reject;
};

/// Throws ArgumentError, which names `place`, for a size beyond what any memory holds, whose products with others could
/// leave 64 bits.
template <class T>
void require_sensible(std::string_view place, std::string_view option, const T& value) {
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) {
    const Index most = option == "layers"                             ? Index{1} << 10
                       : option == "hidden" || option == "max_length" ? Index{1} << 16
                       : option == "intents"                          ? Index{1} << 24
                                                                      : std::numeric_limits<std::int32_t>::max();
    elcrec::require(Index{value} <= most, place, ": found ", value, ", expected at most ", most);
  }
}

/// K of a preset suits large data sets: where k-means is to find the centers there is at most one for each user. A K
/// that the user asked for (`given`) is refused instead.
inline void fit_intents(elcrec::ELCRecOptions& model, const RunOptions& run, Index users, bool given,
                        std::ostream& progress) {
  if (!(run.k_means || run.k_means_end) || model.intents <= users) {
    return;
  }
  elcrec::require(!given, "--intents: found K = ", model.intents, " for ", users,
                  " users, expected at most one for each user");
  progress << "intents: " << users << " instead of " << model.intents << ", one for each user (see --intents)"
           << std::endl;
  model.intents = users;
}

/// What goes with elcrec::preset(name).
[[nodiscard]] inline RunOptions run_preset(std::string_view name) {
  RunOptions run;
  if (name == "best") {
    run.epochs = 40;
    run.learning_rate = 2e-3;
    run.patience = 40;  // none: the cosine is to come to its end
    run.schedule = elcrec::Schedule::Shape::cosine;
    run.weight_decay = 0.5;
    run.k_means = false;
    run.k_means_end = true;
  }
  return run;
}

/// visitor(name, field, description) for every option, as for elcrec::ELCRecOptions.
template <class Options>
  requires std::same_as<std::remove_const_t<Options>, RunOptions>
void visit_options(Options& o, auto&& visitor) {
  visitor("epochs", o.epochs, "epochs at most");
  visitor("batch_size", o.batch_size, "users in a step");
  visitor("learning_rate", o.learning_rate, "of Adam");
  visitor("lazy_adam", o.lazy_adam, "items without a gradient in a step stay as they are: for large catalogues");
  visitor("weight_decay", o.weight_decay, "of Adam (as in AdamW), on matrices");
  visitor("patience", o.patience, "epochs without a better validation NDCG@20 before training stops");
  visitor("clip_norm", o.clip_norm, "limit of the joint gradient norm; 0 for none");
  visitor("memory", o.memory, "megabytes that a step may take: longer histories pass in parts");
  visitor("warmup_steps", o.warmup_steps, "steps over which the learning rate rises to its value");
  visitor("schedule", o.schedule, "learning rate after that");
  visitor("k_means", o.k_means, "centers start from k-means over the users; otherwise at random");
  visitor("k_means_end", o.k_means_end, "centers are set by k-means after training: where no loss trains them");
  visitor("protocol", o.protocol,
          "items that compete in validation and test: all unseen ones, or as the paper's code ranks");
  visitor("short_histories", o.short_histories, "users of fewer than 4 items, which cannot be split");
}

[[nodiscard]] inline elcrec::Adam optimizer(const RunOptions& run) {
  return {.learning_rate = run.learning_rate, .lazy = run.lazy_adam, .weight_decay = run.weight_decay};
}

[[nodiscard]] inline elcrec::TrainerOptions trainer_options(const RunOptions& run, std::uint64_t seed,
                                                            const std::atomic<bool>& stop) {
  elcrec::require(run.memory >= 1, "memory: found ", run.memory, " MB, expected at least 1");
  return {.epochs = run.epochs,
          .batch_size = run.batch_size,
          .patience = run.patience,
          .seed = seed,
          .clip_norm = run.clip_norm,
          .memory = static_cast<std::size_t>(run.memory) << 20,
          .schedule = {.shape = run.schedule, .warmup_steps = run.warmup_steps},
          .validation = {.protocol = run.protocol},
          .stop = &stop};
}

[[nodiscard]] inline std::optional<elcrec::KMeansStart> k_means_start(const RunOptions& run,
                                                                      const elcrec::KMeansOptions& options) {
  return run.k_means ? std::optional<elcrec::KMeansStart>(options) : std::nullopt;
}

[[nodiscard]] inline std::optional<elcrec::KMeansEnd> k_means_end(const RunOptions& run,
                                                                  const elcrec::KMeansOptions& options) {
  return run.k_means_end ? std::optional<elcrec::KMeansEnd>(options) : std::nullopt;
}

/// ELCRec whose checkpoints say how it was trained as well.
template <elcrec::Backend B>
class TrainedModel : public elcrec::ELCRec<B> {
 public:
  using Base = elcrec::ELCRec<B>;

  TrainedModel(const elcrec::ELCRecOptions& options, const RunOptions& run, const B& backend)
      : Base(options, backend), run_(run) {}

  [[nodiscard]] std::map<std::string, std::string> metadata() const {
    auto metadata = Base::metadata();
    visit_options(run_, [&](const char* name, const auto& value, const char*) {
      metadata[std::string(elcrec::run_metadata_prefix) + name] = elcrec::to_text(value);
    });
    return metadata;
  }

 private:
  RunOptions run_;
};

/// What TrainedModel::metadata wrote; options that are not there keep their defaults.
[[nodiscard]] inline RunOptions read_run(const std::map<std::string, std::string>& metadata) {
  RunOptions run;
  visit_options(run, [&](const char* name, auto& value, const char*) {
    const std::string key = std::string(elcrec::run_metadata_prefix) + name;
    if (const auto found = metadata.find(key); found != metadata.end()) {
      elcrec::from_text(key, found->second, value);
    }
  });
  return run;
}

}  // namespace program
