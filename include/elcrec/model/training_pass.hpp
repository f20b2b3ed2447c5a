#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/data/batch_slice.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/loss/step.hpp"
#include "elcrec/model/check_causality.hpp"
#include "elcrec/model/encoded_views.hpp"
#include "elcrec/model/scored_table.hpp"
#include "elcrec/model/sequential_model.hpp"
#include "elcrec/model/step_batches.hpp"
#include "elcrec/model/step_plan.hpp"
#include "elcrec/model/step_uploads.hpp"
#include "elcrec/nn/embedding_table.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/nn/part.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The value of each objective in one step (before its weight), and their weighted sum.
struct Losses {
  double total = 0;
  std::vector<std::pair<std::string, double>> terms;
};

/// Forward and backward pass of one training step. Every view that an objective reads is encoded once; the objectives
/// add their gradients with respect to the encodings; one backward pass a view follows. A batch is cut into
/// Backend::slices() parts with gradient accumulators of their own, summed in a fixed order: the same bits for any
/// number of threads. Holds all memory of training besides the model and the optimizer's; allocates only while it
/// grows. Encodings that would take more than `memory_budget` bytes pass in phases or are made twice (see StepPlan):
/// then the sums are in another order than with more memory, but the same for any number of threads.
template <class Model>
class TrainingPass {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Model::Scalar;
  using Lane = typename Backend::Lane;
  using In = MatrixView<const Scalar>;
  using Out = MatrixView<Scalar>;
  using Encoder = typename Model::EncoderType;
  using Views = typename Model::Views;
  using SourceList = typename Model::SourceList;

  TrainingPass(const TrainingPass&) = delete;
  TrainingPass& operator=(const TrainingPass&) = delete;
  /// Throws ArgumentError if an objective would train the encoder on targets that it can see, or if the model's
  /// parameters are not those of its parts.
  explicit TrainingPass(Model& model, std::size_t memory_budget = usual_step_memory)
      : model_(checked(model)),
        backend_(model.backend()),
        uploads_(backend_, memory_budget),
        views_(backend_),
        gradients_(make_gradients(model)),
        scored_(model),
        losses_(backend_.template allocate<double>(Model::ObjectiveList::size)) {
    for (Index s = 0; s < backend_.slices(); ++s) {
      auto& cleared = cleared_by_slice_.emplace_back();
      for_each_gradient([&](auto& gradient) {
        const auto views = gradient.cleared_by(s);
        cleared.insert(cleared.end(), views.begin(), views.end());
      });
    }
    check_parameters();
  }

  /// Computes losses and gradients for the batches. Dropout is drawn from (seed, step) when `training`.
  Losses run(const StepBatches<Model>& batches, std::uint64_t seed, std::uint32_t step, bool training = true) {
    upload(batches);
    start(seed, step, training);
    return losses();
  }

  // The parts of run(), for a caller with other work to do while a device computes: upload the batches of the next
  // step after start and before losses. They must live, unchanged, until the losses of their step are there.

  /// Starts to bring the batches of the next step into backend memory.
  void upload(const StepBatches<Model>& batches) { uploads_.upload(model_, batches); }

  /// Computes losses and gradients for the batches uploaded last; on a device, what follows need not wait for it.
  void start(std::uint64_t seed, std::uint32_t step, bool training = true) {
    check_causality(model_);  // weights may have changed
    const std::array<double, Model::ObjectiveList::size> zeros{};
    backend_.template copy<double>(zeros, std::span<double>(losses_.data(), zeros.size()));
    const std::size_t phases = uploads_.plan().phases();
    for (std::size_t phase = 0; phase < phases; ++phase) {
      if (phase > 0) {
        uploads_.upload_phase(model_, phase);
      }
      prepare(phase, {seed, step, 0, training});
      backend_.run_step([&] { run_phase(phase, phase + 1 == phases); });
      uploads_.finished(model_);
    }
  }

  /// The losses of the last start, when they are there.
  [[nodiscard]] Losses losses() const {
    std::array<double, Model::ObjectiveList::size> values{};
    backend_.template copy<double>(std::span<const double>(losses_.data(), values.size()), std::span<double>(values));
    Losses result;
    std::size_t at = 0;
    const auto add = [&](const auto& objective) {
      const double value = values[at++];
      if (objective.weight != 0) {
        result.terms.emplace_back(objective.name, value);
        result.total += objective.weight * value;
      }
    };
    std::apply([&](const auto&... objective) { (add(objective), ...); }, model_.objectives);
    return result;
  }

  /// Gradients of the last run, parallel to parameters(model). Valid until the next run.
  [[nodiscard]] std::vector<Parameter<Scalar>> gradients() {
    std::vector<Parameter<Scalar>> list;
    for_each_gradient([&](auto& gradient) { gradient.append_to(list); });
    return list;
  }

  /// Bytes of memory that the encodings of steps have taken so far.
  [[nodiscard]] std::size_t memory_bytes() const { return views_.bytes(); }

  // ---- what an objective uses: see TrainingStep (loss/step.hpp) --------------------------------------------------

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const Backend& backend() const { return backend_; }
  [[nodiscard]] typename Backend::Workspace& memory() { return views_.memory(); }
  [[nodiscard]] In scored_items() const { return scored_.view(model()); }

  template <class V>
  [[nodiscard]] Encoding<Scalar>& encoding() {
    return views_.of(Views::template index_of<V>());
  }

  template <class O>
  [[nodiscard]] double* loss(const O&) {
    static_assert(Model::ObjectiveList::template contains<O>, "loss(*this) is for the model's own objectives");
    return losses_.data() + Model::ObjectiveList::template index_of<O>();
  }

  template <class F>
  void for_each_slice(const Encoding<Scalar>& encoding, F f) {
    backend_.parallel_for(static_cast<Index>(encoding.slices.size()),
                          [&](Lane& lane, Index s) { f(lane, encoding.slices[static_cast<std::size_t>(s)]); });
  }

  template <Part P>
  [[nodiscard]] typename GradientOf<P>::Type& gradient(const P&) {
    static_assert(Model::AllParts::template contains<P>, "gradient(part) is for the model's own parts");
    return std::get<Model::AllParts::template index_of<P>()>(gradients_);
  }
  [[nodiscard]] TableGradient<Backend>& scored_items_gradient() {
    if constexpr (Head::plain) {
      return items_gradient();
    } else {
      return scored_.gradient();
    }
  }

 private:
  using Head = typename Model::HeadType;

  template <class List>
  struct Gradients;
  template <class... Ps>
  struct Gradients<TypeList<Ps...>> {
    using Type = std::tuple<typename GradientOf<Ps>::Type...>;
  };
  using GradientTuple = typename Gradients<typename Model::AllParts>::Type;

  static GradientTuple make_gradients(const Model& model) {
    return Model::apply_to_parts(model, [&]<class... Ps>(const Ps&... parts) {
      return GradientTuple(typename GradientOf<Ps>::Type(model.backend(), parts)...);
    });
  }

  static Model& checked(Model& model) {
    check_causality(model);
    return model;
  }

  [[nodiscard]] TableGradient<Backend>& items_gradient() { return std::get<Model::PartList::size>(gradients_); }

  void for_each_gradient(auto&& f) {
    std::apply([&](auto&... gradient) { (f(gradient), ...); }, gradients_);
  }

  void check_parameters() {
    const auto list = parameters(model_);
    const auto trained = gradients();
    const auto text = [](const auto& parameters, std::size_t i) {
      if (i >= parameters.size()) {
        return std::string("no more");
      }
      const auto& p = parameters[i];
      return message('\'', p.name, "' (", p.values.rows(), ", ", p.values.cols(), ")");
    };
    for (std::size_t i = 0; i < (std::max)(list.size(), trained.size()); ++i) {
      const std::string found = text(list, i);
      const std::string expected = text(trained, i);
      require(found == expected, "parameters of the model: found ", found, ", expected ", expected,
              ": those of its parts have gradients, in their order");
    }
  }

  void prepare(std::size_t phase, DropoutBits dropout) {
    const StepPlan<Model>& plan = uploads_.plan();
    views_.clear();
    Views::for_each([&]<class V>(std::type_identity<V>) {
      constexpr std::size_t view = Views::template index_of<V>();
      constexpr std::size_t source = StepBatches<Model>::template source_of<V>;
      dropout.view = static_cast<std::uint32_t>(view);
      if (StepBatches<Model>::template reads<V>(model_) && plan.takes_part(source, phase)) {
        const bool again = plan.encodes_again() && !plan.in_phases(source);
        views_.prepare(model_, view, uploads_.tokens(source), uploads_.batch(source).template count<TargetTokens>(),
                       {.dropout = dropout,
                        .run_tokens = again ? plan.run_tokens() : backend_.shard_tokens(),
                        .again = again,
                        .predicts = predicts_from<V>()});
      }
    });
  }

  /// Whether an objective reads the queries of view V.
  template <class V>
  [[nodiscard]] bool predicts_from() const {
    return std::apply(
        []<class... Os>(const Os&... objective) { return ((predicts<Os>() && reads_view<V>(objective)) || ...); },
        model_.objectives);
  }

  void run_phase(std::size_t phase, bool last) {
    if (phase == 0) {
      for_each_gradient([this](auto& gradient) { gradient.start(backend_); });
      scored_.prepare(model_);
    }
    views_.forward(model_, [&](Lane& lane, Index slice) {
      if (phase == 0) {
        lane.clear(std::span<const Out>(cleared_by_slice_[static_cast<std::size_t>(slice)]));
      }
    });
    model_.for_each_turn([&](const auto& component) { take_turn(component, uploads_.plan(), phase); });
    views_.backward(model_, gradient(model_.encoder), items_gradient());
    for_each_gradient([this](auto& gradient) { gradient.flush(backend_); });
    scored_.flush(model_);
    if (last) {
      if constexpr (!Head::plain) {
        scored_.backward(model_, gradient(model_.head()).get(), items_gradient());
      }
      for_each_gradient([this](auto& gradient) { gradient.sum(backend_); });
    }
  }

  /// An objective whose sequences pass in phases is evaluated in each of them, everything else in the first.
  template <class Component>
  void take_turn(const Component& component, const StepPlan<Model>& plan, std::size_t phase) {
    if constexpr (Objective<Component>) {
      bool whole = true;
      bool takes_part = false;
      Component::Views::for_each([&]<class V>(std::type_identity<V>) {
        constexpr std::size_t source = StepBatches<Model>::template source_of<V>;
        if (reads_view<V>(component) && plan.in_phases(source)) {
          whole = false;
          takes_part = takes_part || plan.takes_part(source, phase);
        }
      });
      if (component.weight != 0 && (whole ? phase == 0 : takes_part)) {
        component.evaluate(*this);
      }
    } else if (phase == 0) {
      component.update(model_);
    }
  }

  Model& model_;
  Backend backend_;
  StepUploads<Model> uploads_;
  EncodedViews<Model> views_;
  GradientTuple gradients_;
  ScoredTable<Model> scored_;
  std::vector<std::vector<Out>> cleared_by_slice_;
  typename Backend::template Buffer<double> losses_;
};

}  // namespace elcrec::inline ELCREC_TARGET
