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
#include "elcrec/loss/step.hpp"
#include "elcrec/model/check_causality.hpp"
#include "elcrec/model/scored_table.hpp"
#include "elcrec/model/sequential_model.hpp"
#include "elcrec/model/step_batches.hpp"
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
/// grows.
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
  explicit TrainingPass(Model& model)
      : model_(checked(model)),
        backend_(model.backend()),
        memory_(backend_.make_workspace()),
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
    for (std::size_t i = 0; i < Views::size * cleared_by_slice_.size(); ++i) {
      slice_memory_.push_back(backend_.make_workspace());
    }
    for (std::size_t i = 0; i < 2 * SourceList::size; ++i) {
      stagings_.emplace_back(backend_);
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
  void upload(const StepBatches<Model>& batches) {
    set_ = 1 - set_;
    SourceList::for_each([&]<class Source>(std::type_identity<Source>) {
      if (reads_source<Source>()) {
        staging<Source>(set_).upload(batches.template of<Source>().view());
      }
    });
  }

  /// Computes losses and gradients for the batches uploaded last; on a device, what follows need not wait for it.
  void start(std::uint64_t seed, std::uint32_t step, bool training = true) {
    check_causality(model_);  // weights may have changed
    prepare(seed, step, training);
    backend_.run_step([this] {
      for_each_gradient([this](auto& gradient) { gradient.start(backend_); });
      scored_.prepare(model_);
      forward();
      model_.for_each_turn([this](const auto& component) { take_turn(component); });
      backward();
      if constexpr (!Head::plain) {
        scored_.backward(model_, gradient(model_.head()).get(), items_gradient());
      }
      for_each_gradient([this](auto& gradient) { gradient.sum(backend_); });
    });
    SourceList::for_each([&]<class Source>(std::type_identity<Source>) { staging<Source>(set_).finished(); });
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

  // ---- what an objective uses: see TrainingStep (loss/step.hpp) --------------------------------------------------

  [[nodiscard]] const Model& model() const { return model_; }
  [[nodiscard]] const Backend& backend() const { return backend_; }
  [[nodiscard]] typename Backend::Workspace& memory() { return memory_; }
  [[nodiscard]] In scored_items() const { return scored_.view(model()); }

  template <class V>
  [[nodiscard]] Encoding<Scalar>& encoding() {
    return encodings_[Views::template index_of<V>()].shared;
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

  /// One encoded view and what its backward pass needs.
  struct Encoded {
    struct Shard {
      BatchSlice part;
      typename Encoder::Cache cache;
    };
    Encoding<Scalar> shared;
    Out dembedded;                           // (T, D) gradient of the item rows looked up, after the backward pass
    Out query_norms;                         // (1, T)
    std::vector<std::vector<Shard>> shards;  // of each slice
    DropoutBits dropout;
    bool active = false;
    bool predicts = false;  // whether an objective reads its queries
  };

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

  template <class Source>
  [[nodiscard]] bool reads_source() const {
    bool any = false;
    Views::for_each([&]<class V>(std::type_identity<V>) {
      any =
          any || (std::is_same_v<typename SourceOf<V>::Type, Source> && StepBatches<Model>::template reads<V>(model_));
    });
    return any;
  }

  template <class Source>
  [[nodiscard]] typename Backend::Staging& staging(std::size_t set) {
    return stagings_[set * SourceList::size + SourceList::template index_of<Source>()];
  }

  void prepare(std::uint64_t seed, std::uint32_t step, bool training) {
    memory_.clear();
    for (auto& memory : slice_memory_) {
      memory.clear();
    }
    const std::array<double, Model::ObjectiveList::size> zeros{};
    backend_.template copy<double>(zeros, std::span<double>(losses_.data(), zeros.size()));
    std::uint32_t view = 0;
    Views::for_each([&]<class V>(std::type_identity<V>) {
      auto& e = encodings_[Views::template index_of<V>()];
      e.active = StepBatches<Model>::template reads<V>(model_);
      e.predicts = std::apply(
          []<class... Os>(const Os&... objective) {
            return ((elcrec::predicts<Os>() && reads_view<V>(objective)) || ...);
          },
          model_.objectives);
      e.dropout = {seed, step, view++, training};
      if (e.active) {
        prepare(e, staging<typename SourceOf<V>::Type>(set_).view());
      }
    });
  }

  void prepare(Encoded& e, const TokenView& tokens) {
    const Index t = tokens.tokens();
    e.shared.tokens = tokens;
    e.shared.y = memory_.template matrix<Scalar>(t, model_.hidden());
    e.shared.dy = memory_.template matrix<Scalar>(t, model_.hidden());
    e.shared.q = e.shared.y;
    e.shared.dq = e.shared.dy;
    if (!Head::plain && e.predicts) {
      e.shared.q = memory_.template matrix<Scalar>(t, model_.query_columns());
      e.shared.dq = memory_.template matrix<Scalar>(t, model_.query_columns());
      e.query_norms = memory_.template matrix<Scalar>(1, t);
    }
    e.dembedded = memory_.template matrix<Scalar>(t, model_.hidden());
    e.shared.slices = slices_of(tokens, backend_.slices());
    e.shards.clear();
    for (const auto& slice : e.shared.slices) {
      auto& shards = e.shards.emplace_back();
      for (auto& run : runs_of(tokens, slice.first_sequence, slice.last_sequence, backend_.shard_tokens())) {
        shards.push_back({std::move(run), {}});
      }
    }
  }

  /// Memory of slice s of view v: what its backward pass needs.
  [[nodiscard]] typename Backend::Workspace& memory_of(std::size_t view, std::size_t slice) {
    return slice_memory_[view * cleared_by_slice_.size() + slice];
  }

  void forward() {
    const Index slices = backend_.slices();
    backend_.parallel_for(static_cast<Index>(Views::size) * slices, [&](Lane& lane, Index task) {
      const auto view = static_cast<std::size_t>(task / slices);
      const auto at = static_cast<std::size_t>(task % slices);
      auto& e = encodings_[view];
      if (e.active) {
        for (auto& shard : e.shards[at]) {
          const Pass<Backend> pass{lane, memory_of(view, at), e.dropout};
          model_.encoder.forward(pass, shard.part.tokens, model().items(), shard.cache, shard.part.rows(e.shared.y));
          lane.fill(shard.part.rows(e.shared.dy), Scalar(0));
          if (!Head::plain && e.predicts) {
            model_.head().queries(lane, shard.part.rows(e.shared.y), shard.part.columns(e.query_norms),
                                  shard.part.rows(e.shared.q));
            lane.fill(shard.part.rows(e.shared.dq), Scalar(0));
          }
        }
      }
      if (view == 0) {
        lane.clear(std::span<const Out>(cleared_by_slice_[at]));
      }
    });
  }

  void take_turn(const auto& component) {
    if constexpr (requires { component.weight; }) {
      if (component.weight != 0) {
        component.evaluate(*this);
      }
    } else {
      component.update(model_);
    }
  }

  void backward() {
    auto& encoder_gradient = gradient(model_.encoder);
    backend_.parallel_for(backend_.slices(), [&](Lane& lane, Index s) {
      const auto at = static_cast<std::size_t>(s);
      for (std::size_t view = 0; view < Views::size; ++view) {
        auto& e = encodings_[view];
        if (!e.active) {
          continue;
        }
        for (auto& shard : e.shards[at]) {
          const Pass<Backend> pass{lane, memory_of(view, at), e.dropout};
          if (!Head::plain && e.predicts) {
            model_.head().queries_backward(lane, shard.part.rows(e.shared.q), shard.part.columns(e.query_norms),
                                           shard.part.rows(e.shared.dq), shard.part.rows(e.shared.dy));
          }
          model_.encoder.backward(pass, shard.part.tokens, shard.cache, shard.part.rows(e.shared.dy),
                                  encoder_gradient.of(s), shard.part.rows(e.dembedded));
        }
      }
    });
    for (auto& e : encodings_) {
      if (e.active) {
        items_gradient().add({e.shared.tokens.items, {}, e.dembedded});
      }
    }
  }

  Model& model_;
  Backend backend_;
  typename Backend::Workspace memory_;
  std::vector<typename Backend::Workspace> slice_memory_;  // of each view's slices
  std::vector<typename Backend::Staging> stagings_;        // two sets, one for each source of views
  std::size_t set_ = 0;
  std::array<Encoded, Views::size> encodings_;
  GradientTuple gradients_;
  ScoredTable<Model> scored_;
  std::vector<std::vector<Out>> cleared_by_slice_;
  typename Backend::template Buffer<double> losses_;
};

}  // namespace elcrec::inline ELCREC_TARGET
