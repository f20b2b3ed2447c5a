#pragma once

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What a stage of training is called with.
template <class M>
struct StageContext {
  using Model = M;

  Model& model;
  const LeaveOneOut& split;
  std::uint64_t seed;             ///< of the run
  const std::atomic<bool>* stop;  ///< where one that takes long looks every second or oftener; null if nothing stops it
  Index epoch;                    ///< finished
  long steps;                     ///< updates that the optimizer made

  [[nodiscard]] const typename Model::Backend& backend() const { return model.backend(); }
  [[nodiscard]] bool stop_requested() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
};

/// When a stage is called.
enum class StageEvent {
  before_first,  ///< once, before the first step of a run
  before_epoch,  ///< once in an epoch, before its first step
  after_step,    ///< after each step of the optimizer
  after_last     ///< when a fit ends uninterrupted, with the best weights in the model; what it changes belongs to them
};

/// What a stage keeps across a resumption: its visit_state(visitor) calls visitor(name, value) for each.
template <class Scalar>
class StageState {
 public:
  struct Number {
    std::string name;
    std::variant<bool*, Index*, double*> value;
  };

  void operator()(const std::string& name, MatrixView<Scalar> values) { arrays.push_back({prefix + name, values}); }
  void operator()(const std::string& name, bool& value) { numbers.push_back({prefix + name, &value}); }
  void operator()(const std::string& name, Index& value) { numbers.push_back({prefix + name, &value}); }
  void operator()(const std::string& name, double& value) { numbers.push_back({prefix + name, &value}); }

  Index before_first = 0;  ///< stages that are called then
  Index before_epoch = 0;
  std::string prefix;  ///< before the names that follow
  std::vector<Parameter<Scalar>> arrays;
  std::vector<Number> numbers;
};

/// Something that happens around the steps of training: weights that start from a search, weights that are averaged. It
/// has the functions of StageEvent's names that it needs, `f(context)` with a StageContext of the model:
///
/// - before_first, before_epoch and after_last may return false: context.stop_requested() interrupted them, and they
///   left the model as it was. The run then ends, and calls this one again when it is resumed;
/// - check(context) throws ArgumentError where it could not do its work: it is called before anything starts;
/// - visit_state(visitor), with `name`: visitor(key, value) for each MatrixView in backend memory, bool, Index or
/// double
///   that must be in a checkpoint, as `training.<name>.<key>`.
///
/// after_last comes again when a run goes on for more epochs, maybe for weights that it has changed already.
template <class S, class Model>
concept StageOf = std::move_constructible<S> &&(
    requires(S& stage, StageContext<Model>& context) { stage.before_first(context); } ||
    requires(S & stage, StageContext<Model>& context) { stage.before_epoch(context); } ||
    requires(S & stage, StageContext<Model>& context) { stage.after_step(context); } ||
    requires(S & stage, StageContext<Model>& context) { stage.after_last(context); });

/// Given to a trainer in place of stages: none, not even the model's own.
struct NoStages {};

namespace detail {

/// A stage whose type the trainer need not know.
template <class Model>
class AnyStage {
 public:
  using Context = StageContext<Model>;
  using State = StageState<typename Model::Scalar>;

  AnyStage() = default;
  AnyStage(const AnyStage&) = delete;
  AnyStage& operator=(const AnyStage&) = delete;
  virtual ~AnyStage() = default;

  [[nodiscard]] virtual bool has(StageEvent event) const = 0;
  /// False when it was interrupted.
  [[nodiscard]] virtual bool at(StageEvent event, Context& context) = 0;
  virtual void check(const Context& context) const = 0;
  virtual void visit_state(State& state) = 0;
};

template <class Model, StageOf<Model> S>
class HeldStage final : public AnyStage<Model> {
 public:
  using typename AnyStage<Model>::Context;
  using typename AnyStage<Model>::State;

  explicit HeldStage(S stage) : stage_(std::move(stage)) {}

  [[nodiscard]] bool has(StageEvent event) const override {
    switch (event) {
      case StageEvent::before_first:
        return has_before_first;
      case StageEvent::before_epoch:
        return has_before_epoch;
      case StageEvent::after_step:
        return has_after_step;
      case StageEvent::after_last:
        return has_after_last;
    }
    return false;
  }

  [[nodiscard]] bool at(StageEvent event, Context& context) override {
    switch (event) {
      case StageEvent::before_first:
        if constexpr (has_before_first) {
          return completed([&] { return stage_.before_first(context); });
        }
        break;
      case StageEvent::before_epoch:
        if constexpr (has_before_epoch) {
          return completed([&] { return stage_.before_epoch(context); });
        }
        break;
      case StageEvent::after_step:
        if constexpr (has_after_step) {
          stage_.after_step(context);
        }
        break;
      case StageEvent::after_last:
        if constexpr (has_after_last) {
          return completed([&] { return stage_.after_last(context); });
        }
        break;
    }
    return true;
  }

  void check(const Context& context) const override {
    if constexpr (requires { stage_.check(context); }) {
      stage_.check(context);
    }
  }

  void visit_state(State& state) override {
    if constexpr (requires { stage_.visit_state(state); }) {
      state.prefix = std::string(S::name).append(".");
      stage_.visit_state(state);
    }
  }

 private:
  static constexpr bool has_before_first = requires(S & stage, Context& context) { stage.before_first(context); };
  static constexpr bool has_before_epoch = requires(S & stage, Context& context) { stage.before_epoch(context); };
  static constexpr bool has_after_step = requires(S & stage, Context& context) { stage.after_step(context); };
  static constexpr bool has_after_last = requires(S & stage, Context& context) { stage.after_last(context); };

  template <class F>
  static bool completed(F f) {
    if constexpr (std::is_void_v<decltype(f())>) {
      f();
      return true;
    } else {
      return f();
    }
  }

  S stage_;
};

}  // namespace detail

/// The stages of a run, called in their order.
template <class Model>
class StageList {
 public:
  using Context = StageContext<Model>;

  template <class S>
  void add(S stage) {
    static_assert(StageOf<S, Model>,
                  "a stage has before_first, before_epoch, after_step or after_last for a StageContext of this model: "
                  "see train/stage.hpp");
    if constexpr (StageOf<S, Model>) {
      stages_.push_back(std::make_unique<detail::HeldStage<Model, S>>(std::move(stage)));
    }
  }
  /// Nothing is no stage.
  template <class S>
  void add(std::optional<S> stage) {
    if (stage) {
      add(std::move(*stage));
    }
  }
  void add(NoStages) {}

  /// Those that an event calls.
  [[nodiscard]] Index count(StageEvent event) const {
    return std::count_if(stages_.begin(), stages_.end(), [event](const auto& stage) { return stage->has(event); });
  }

  /// Calls those of an event but the first `done`, which counts on. False when one was interrupted.
  [[nodiscard]] bool call(StageEvent event, Context& context, Index& done) {
    Index number = 0;
    for (const auto& stage : stages_) {
      if (stage->has(event) && number++ >= done) {
        if (!stage->at(event, context)) {
          return false;
        }
        ++done;
      }
    }
    return true;
  }
  [[nodiscard]] bool call(StageEvent event, Context& context) {
    Index done = 0;
    return call(event, context, done);
  }

  void check(const Context& context) const {
    for (const auto& stage : stages_) {
      stage->check(context);
    }
  }

  [[nodiscard]] StageState<typename Model::Scalar> state() {
    StageState<typename Model::Scalar> state;
    state.before_first = count(StageEvent::before_first);
    state.before_epoch = count(StageEvent::before_epoch);
    for (const auto& stage : stages_) {
      stage->visit_state(state);
    }
    return state;
  }

 private:
  std::vector<std::unique_ptr<detail::AnyStage<Model>>> stages_;
};

}  // namespace elcrec::inline ELCREC_TARGET
