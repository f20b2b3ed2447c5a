#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/train/options.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How far a run is.
struct Progress {
  Index epoch = 0;  ///< finished
  Index batch = 0;  ///< finished of the epoch under way
  std::uint32_t step = 0;
  Index stages = 0;  ///< of those that are called before the next step, the finished ones
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

[[nodiscard]] inline Ground ground_of(const LeaveOneOut& split, const TrainerOptions& options) {
  const auto names = split.dataset().item_names();
  return {.data = fingerprint(split).text(),
          .users = split.user_count(),
          .protocol = options.validation.protocol == Protocol::paper ? "paper" : "strict",
          .metric_cutoff = options.metric_cutoff,
          .items = {names.begin(), names.end()}};
}

/// Throws FileError if a row of the item table means another item than before.
inline void require_same_rows(const Ground& now, const Ground& before) {
  for (std::size_t i = 0; i < (std::min)(now.items.size(), before.items.size()); ++i) {
    require<FileError>(now.items[i] == before.items[i], "training: row ", i + 1, " is item ", now.items[i],
                       " in the data, expected item ", before.items[i], " as in ", before.source);
  }
}

/// Why something of a run was not taken over to another ground.
[[nodiscard]] inline std::string difference(const Ground& now, const Ground& before) {
  if (now.same_data(before)) {
    return message("validation by ", now.measure(), ", until now by ", before.measure());
  }
  return before.data.empty() ? message(before.source, " does not say what data and protocol it is from")
                             : message("other data than in ", before.source);
}

[[nodiscard]] inline Index batches_of(Index users, Index batch_size) { return 1 + (users - 1) / batch_size; }

/// Steps before a batch; modulo 2^32, as random numbers are addressed.
[[nodiscard]] inline std::uint32_t step_at(Index epoch, Index batch, Index batches) {
  return static_cast<std::uint32_t>(static_cast<std::uint64_t>(epoch) * static_cast<std::uint64_t>(batches) +
                                    static_cast<std::uint64_t>(batch));
}

/// What a checkpoint says of a run, besides tensors and what stages keep.
struct RunState {
  Progress progress{};
  Ground ground{};
  long optimizer_steps = 0;
};

inline void write_run_state(const RunState& state, std::string_view optimizer, const TrainerOptions& options,
                            CheckpointWriter& writer) {
  const auto write = [&](const char* key, const std::string& value) {
    writer.metadata(std::string(training_prefix).append(key), value);
  };
  const auto& p = state.progress;
  write("optimizer", std::string(optimizer));
  write("seed", to_text(options.seed));
  write("batch_size", to_text(options.batch_size));
  write("epoch", to_text(p.epoch));
  write("step", to_text(p.step));
  write("batch", to_text(p.batch));
  write("best_ndcg", to_text(p.best_ndcg));
  write("best_epoch", to_text(p.best_epoch));
  write("measured_anew", to_text(p.measured_anew));
  if (p.stages > 0) {
    write("stages", to_text(p.stages));
  }
  if (!state.ground.data.empty()) {
    write("data", state.ground.data);
    write("users", to_text(state.ground.users));
    write("protocol", state.ground.protocol);
    write("metric_cutoff", to_text(state.ground.metric_cutoff));
  }
  write("optimizer_steps", to_text(state.optimizer_steps));
}

/// What a checkpoint has under `training.`. Every function throws FileError for what is not there or cannot be.
class TrainingState {
 public:
  /// Refers to the file.
  explicit TrainingState(const SafetensorsFile& file) : file_(file) {}

  [[nodiscard]] const std::string& text(const std::string& key) {
    const auto found = file_.metadata().find(named(key));
    require<FileError>(found != file_.metadata().end(), file_.name(), ": found no '", training_prefix, key,
                       "' in the metadata, expected a checkpoint with training state");
    return found->second;
  }

  void expect(const std::string& key, const std::string& wanted) {
    const std::string& found = text(key);
    require<FileError>(found == wanted, file_.name(), ": found ", key, " = ", detail::excerpt(found), ", expected ",
                       wanted, " as in this run");
  }

  [[nodiscard]] bool flag(const std::string& key) {
    const std::string& found = text(key);
    require<FileError>(found == "true" || found == "false", file_.name(), ": ", training_prefix, key, ": found '",
                       detail::excerpt(found), "', expected true or false");
    return found == "true";
  }

  /// A finite number within the bounds.
  template <class T>
  [[nodiscard]] T number(const std::string& key, T lowest, T highest) {
    const std::string& found = text(key);
    T value{};
    bool reads = true;
    try {
      from_text(key, found, value);
    } catch (const ArgumentError&) {
      reads = false;
    }
    if constexpr (std::is_floating_point_v<T>) {
      reads = reads && is_finite(value);
    }
    require<FileError>(reads && lowest <= value && value <= highest, file_.name(), ": ", training_prefix, key,
                       ": found '", detail::excerpt(found), "', expected a ",
                       std::is_floating_point_v<T> ? "" : "whole ", "number from ", lowest, " to ", highest);
    return value;
  }

  /// A tensor of so many finite values.
  template <class T>
  [[nodiscard]] std::vector<T> array(const std::string& key, std::size_t size, bool never_negative = false) {
    const std::string name = named(key);
    std::vector<T> values = file_.read<T>(name);
    require<FileError>(values.size() == size, file_.name(), ": tensor '", name, "': found ", values.size(),
                       " values, expected ", size);
    const auto negative = std::find_if(values.begin(), values.end(), [](T x) { return x < 0; });
    require<FileError>(!never_negative || negative == values.end(), file_.name(), ": tensor '", name, "': found ",
                       negative == values.end() ? T(0) : *negative, " at element ", negative - values.begin(),
                       ", expected no negative value");
    return values;
  }

  /// Progress, ground and the optimizer's steps of a run like this one, in which so many stages are called before the
  /// first step and before an epoch.
  [[nodiscard]] RunState read(std::string_view optimizer, const TrainerOptions& options, Index before_first,
                              Index before_epoch) {
    expect("optimizer", std::string(optimizer));
    expect("seed", to_text(options.seed));
    expect("batch_size", to_text(options.batch_size));
    constexpr Index most = (std::numeric_limits<Index>::max)();
    RunState state;
    auto& p = state.progress;
    p.epoch = number("epoch", Index{0}, most);
    p.best_epoch = number("best_epoch", Index{p.epoch > 0 ? 1 : 0}, p.epoch);
    p.best_ndcg = p.epoch > 0 ? number("best_ndcg", 0.0, 1.0) : number("best_ndcg", -1.0, -1.0);
    state.ground.source = file_.name();
    if (has("data")) {
      read_ground(state);
      const Index batches = batches_of(state.ground.users, options.batch_size);
      p.batch = number("batch", Index{0}, batches - 1);
      const std::uint32_t step = step_at(p.epoch, p.batch, batches);
      p.step = number("step", step, step);
    } else {
      for (const char* key : {"users", "protocol", "metric_cutoff", "measured_anew"}) {
        static_cast<void>(has(key));  // say nothing without the data
      }
      p.batch = number("batch", Index{0}, most);
      p.step = number("step", std::uint32_t{0}, (std::numeric_limits<std::uint32_t>::max)());
    }
    state.optimizer_steps = number("optimizer_steps", 0L, (std::numeric_limits<long>::max)() / 2);
    if (has("stages")) {
      const Index due = p.batch > 0 ? 0 : before_epoch + (state.optimizer_steps > 0 ? 0 : before_first);
      p.stages = number("stages", Index{0}, due);
    }
    if (file_.contains(item_ids_tensor)) {
      state.ground.items = file_.read<std::int64_t>(item_ids_tensor);
    }
    return state;
  }

  /// After all else was asked for.
  void nothing_else() const {
    const auto require_known = [&](std::string_view what, const std::string& name) {
      require<FileError>(!name.starts_with(training_prefix) || asked_.contains(name), file_.name(), ": found unknown ",
                         what, " '", detail::excerpt(name, 120),
                         "', expected only what this trainer, its optimizer and its stages keep. From a newer version, "
                         "or a run with other stages?");
    };
    for (const auto& [key, value] : file_.metadata()) {
      require_known("metadata", key);
    }
    for (const auto& name : file_.names()) {
      require_known("tensor", name);
    }
  }

 private:
  [[nodiscard]] std::string named(const std::string& key) {
    return *asked_.insert(std::string(training_prefix).append(key)).first;
  }
  [[nodiscard]] bool has(const std::string& key) { return file_.metadata().contains(named(key)); }

  void read_ground(RunState& state) {
    auto& ground = state.ground;
    ground.data = text("data");
    ground.users = number("users", Index{1}, (std::numeric_limits<Index>::max)());
    ground.protocol = text("protocol");
    require<FileError>(ground.protocol == "strict" || ground.protocol == "paper", file_.name(), ": ", training_prefix,
                       "protocol: found '", detail::excerpt(ground.protocol), "', expected strict or paper");
    ground.metric_cutoff = number("metric_cutoff", 1, (std::numeric_limits<int>::max)());
    state.progress.measured_anew = number("measured_anew", Index{0}, state.progress.epoch);
  }

  const SafetensorsFile& file_;
  std::set<std::string> asked_;
};

}  // namespace elcrec::inline ELCREC_TARGET
