#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/optim/optimizer.hpp"
#include "elcrec/train/options.hpp"
#include "elcrec/train/report.hpp"
#include "elcrec/train/run_state.hpp"
#include "elcrec/train/stage.hpp"
#include "elcrec/train/weights.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A training run as it stands, and its way into a checkpoint and back. Knows the parameters of a model, not the model:
/// one for all models of a backend and an optimizer.
template <Backend B, Optimizer Opt>
struct TrainingRun {
  using Scalar = typename B::Scalar;
  using State = typename Opt::template State<B>;

  /// `parameters` are the model's own, which must live.
  TrainingRun(const B& on, const Opt& update, std::vector<Parameter<Scalar>> list)
      : backend(on), parameters(std::move(list)), optimizer(update, backend, parameters) {}

  void keep_best() { best.copy_from(backend, parameters); }
  /// Without best weights the model keeps those it has.
  void restore_best() const { best.copy_to(backend, parameters); }

  /// f() while the model has the best weights.
  template <class F>
  auto with_best(F f) const {
    Weights<B> current;
    current.copy_from(backend, parameters);
    restore_best();
    try {
      const auto result = f();
      current.copy_to(backend, parameters);
      return result;
    } catch (...) {
      current.copy_to(backend, parameters);
      throw;
    }
  }

  /// The best weights under their names, where there are none yet the model's, and the rest under `training.`.
  void write(const TrainerOptions& options, const StageState<Scalar>& stages, CheckpointWriter& writer) {
    const auto named = [](const std::string& key) { return std::string(training_prefix).append(key); };
    write_run_state({progress, ground, optimizer.steps()}, Opt::name, options, writer);
    for (const auto& number : stages.numbers) {
      std::visit([&](const auto* value) { writer.metadata(named(number.name), to_text(*value)); }, number.value);
    }
    for (const auto& array : arrays(stages)) {
      writer.add<B, Scalar>(backend, named(array.name), {array.values.size()}, array.values.flat());
    }
    writer.add<B, double>(backend, named("loss_sums"), {static_cast<Index>(sums.values().size())}, sums.values());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto& p = parameters[i];
      writer.add<B, Scalar>(backend, p.name, p.shape(), best.empty() ? p.values.flat() : best.of(i));
    }
  }

  /// What write wrote of a run with these stages and so many terms of the loss. Throws FileError and leaves all as it
  /// was for what is missing, cannot be, is another configuration's or unknown.
  void read(const SafetensorsFile& file, const TrainerOptions& options, const StageState<Scalar>& stages,
            std::size_t terms) {
    TrainingState found(file);
    RunState saved = found.read(Opt::name, options, stages.before_first, stages.before_epoch);
    const auto kept = arrays(stages);
    std::vector<std::vector<Scalar>> values;
    values.reserve(kept.size());
    for (const auto& array : kept) {
      values.push_back(
          found.array<Scalar>(array.name, static_cast<std::size_t>(array.values.size()), never_negative(array.name)));
    }
    auto loss_sums = found.array<double>("loss_sums", saved.progress.batch > 0 ? 1 + terms : 0);
    const auto setters = read_numbers(found, stages);
    found.nothing_else();
    Weights<B> weights;
    weights.read(file, parameters);

    for (std::size_t i = 0; i < kept.size(); ++i) {
      backend.template copy<Scalar>(values[i], kept[i].values.flat());
    }
    for (const auto& set : setters) {
      set();
    }
    optimizer.set_steps(saved.optimizer_steps);
    progress = saved.progress;
    ground = std::move(saved.ground);
    sums.set_values(std::move(loss_sums));
    best = std::move(weights);
  }

  B backend;
  std::vector<Parameter<Scalar>> parameters;
  State optimizer;
  Progress progress{};
  Ground ground{};
  Weights<B> best{};
  LossSums sums{};  ///< of the epoch under way

 private:
  /// All that is an array of scalars, besides the best weights.
  [[nodiscard]] std::vector<Parameter<Scalar>> arrays(const StageState<Scalar>& stages) {
    std::vector<Parameter<Scalar>> list;
    for (const auto& p : parameters) {
      list.push_back({"current." + p.name, p.values});
    }
    optimizer.visit([&](const std::string& name, MatrixView<Scalar> values) {
      list.push_back({std::string(Opt::name).append(".").append(name), values});
    });
    list.insert(list.end(), stages.arrays.begin(), stages.arrays.end());
    return list;
  }

  /// Whether the optimizer says so of this one of `arrays`.
  [[nodiscard]] static bool never_negative(std::string_view name) {
    constexpr std::string_view prefix = Opt::name;
    if constexpr (requires { State::never_negative(name); }) {
      return name.starts_with(prefix) && State::never_negative(name.substr(prefix.size() + 1));
    } else {
      return false;
    }
  }

  /// What sets the numbers of the stages to those that were found.
  [[nodiscard]] static std::vector<std::function<void()>> read_numbers(TrainingState& found,
                                                                       const StageState<Scalar>& stages) {
    std::vector<std::function<void()>> setters;
    for (const auto& number : stages.numbers) {
      const auto read = [&]<class T>(T* to) {
        T value{};
        if constexpr (std::is_same_v<T, bool>) {
          value = found.flag(number.name);
        } else {
          value = found.number(number.name, std::numeric_limits<T>::lowest(), (std::numeric_limits<T>::max)());
        }
        setters.emplace_back([to, value] { *to = value; });
      };
      std::visit(read, number.value);
    }
    return setters;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
