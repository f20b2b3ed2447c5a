#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/model/sequential_model.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Throws ArgumentError if an objective would train the encoder on targets that it can see.
template <class Model>
void check_causality(const Model& model) {
  if (is_causal(model.encoder)) {
    return;
  }
  const auto check = [&]<class O>(const O& objective) {
    O::Views::for_each([&]<class V>(std::type_identity<V>) {
      if constexpr (predicts<O>() && needs_causal<V>()) {
        require(!reads_view<V>(objective), "encoder: found one that ",
                TellsCausality<typename Model::EncoderType> ? "sees the tokens that follow"
                                                            : "does not say whether it is causal",
                " under the objective '", O::name, "', which predicts those of ", view_name<V>(),
                "; expected a causal encoder (causal() is true), or PrefixView");
      }
    });
  };
  std::apply([&](const auto&... objective) { (check(objective), ...); }, model.objectives);
}

/// The value of each objective in one step (before its weight), and their weighted sum.
struct Losses {
  double total = 0;
  std::vector<std::pair<std::string, double>> terms;
};

/// The sequences of one training step, a TokenBatch for every view that brings sequences of its own.
template <class Model>
class StepBatches {
 public:
  using SourceList = typename Model::SourceList;

  template <class V>
  [[nodiscard]] TokenBatch& of() {
    return batches_[SourceList::template index_of<V>()];
  }
  template <class V>
  [[nodiscard]] const TokenBatch& of() const {
    return batches_[SourceList::template index_of<V>()];
  }

  /// Builds the views that the model's objectives read, for these users.
  void build(const Model& model, const BatchSource& source, std::span<const Index> users) {
    Model::Views::for_each([&]<class V>(std::type_identity<V>) {
      using Source = typename SourceOf<V>::Type;
      auto& batch = of<Source>();
      const bool first_of_source = std::is_same_v<V, Source> || !reads<Source>(model);
      if (reads<V>(model) && first_of_source) {
        batch.start(model.max_length(), model.padding);
        model.template view<Source>().build(source, users, batch);
      }
    });
  }

  /// Whether any objective of the model reads view V now.
  template <class V>
  [[nodiscard]] static bool reads(const Model& model) {
    return std::apply([](const auto&... objective) { return (reads_view<V>(objective) || ...); }, model.objectives);
  }

 private:
  std::array<TokenBatch, SourceList::size> batches_;
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

  /// Part of a view's batch: sequences [first_sequence, last_sequence), tokens [first_token, last_token).
  struct Slice {
    Index first_sequence;
    Index last_sequence;
    Index first_token;
    Index last_token;
    TokenView tokens;

    /// The slice's rows of a matrix by token.
    template <class View>
    [[nodiscard]] auto rows(View m) const {
      return m.slice_rows(first_token, last_token);
    }
  };

  /// One encoded view.
  struct Encoding {
    TokenView tokens;
    Out y;          // (T, D)
    Out dy;         // (T, D) objectives add their gradients here
    Out dembedded;  // (T, D) gradient of the item rows looked up, after the backward pass
    std::vector<Slice> slices;

   private:
    friend TrainingPass;
    struct Shard {
      Slice part;
      typename Encoder::Cache cache;
    };
    std::vector<std::vector<Shard>> shards;  // of each slice
    DropoutBits dropout;
    bool active = false;
  };

  /// Unit-length pooled encodings: unit (B, C), norms (1, B).
  struct UserEmbeddings {
    Out unit;
    Out norms;
  };

  TrainingPass(const TrainingPass&) = delete;
  TrainingPass& operator=(const TrainingPass&) = delete;
  /// Throws ArgumentError if an objective would train the encoder on targets that it can see, or if the model's
  /// parameters are not those of its clusters, items and encoder.
  explicit TrainingPass(Model& model)
      : model_(checked(model)),
        backend_(model.backend()),
        memory_(backend_.make_workspace()),
        item_gradient_(backend_, model.items().rows(), model.hidden()),
        item_scatter_(backend_, model.items().rows(), padding_item),
        losses_(backend_.template allocate<double>(Model::ObjectiveList::size)) {
    slice_gradients_.assign(static_cast<std::size_t>(backend_.slices()), model.encoder);
    for (auto& gradient : slice_gradients_) {
      slice_parameters_.push_back(parameters(gradient));
      auto& views = slice_gradient_views_.emplace_back();
      for (const auto& p : slice_parameters_.back()) {
        views.push_back(p.values);
      }
    }
    for (std::size_t i = 0; i < Views::size * slice_gradients_.size(); ++i) {
      slice_memory_.push_back(backend_.make_workspace());
    }
    if constexpr (Model::has_clusters) {
      cluster_gradient_ = Matrix<Backend>(backend_, model.clusters.count(), model.clusters.hidden());
      slice_gradient_views_.front().push_back(cluster_gradient_.view());
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
      clear_item_gradient();
      forward();
      std::apply([&](const auto&... objective) { (evaluate(objective), ...); }, model_.objectives);
      backward();
      reduce();
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
    if constexpr (Model::has_clusters) {
      list.push_back({"cluster_centers", cluster_gradient_.view(), 2, {}});
    }
    list.push_back({"item_embeddings.weight", item_gradient_.view(), 2, {}});
    if (!all_items_touched_) {
      list.back().rows = item_scatter_.touched();
    }
    list.insert(list.end(), slice_parameters_.front().begin(), slice_parameters_.front().end());
    return list;
  }

  // ---- what an objective uses -----------------------------------------------------------------------------------

  [[nodiscard]] Model& model() { return model_; }
  [[nodiscard]] const Backend& backend() const { return backend_; }
  /// Memory of this step; the calling thread's only.
  [[nodiscard]] typename Backend::Workspace& memory() { return memory_; }
  [[nodiscard]] In items() const { return std::as_const(model_).items(); }

  template <class V>
  [[nodiscard]] Encoding& encoding() {
    return encodings_[Views::template index_of<V>()];
  }

  /// Where an objective adds its loss; backend memory.
  template <class O>
  [[nodiscard]] double* loss(const O&) {
    static_assert(Model::ObjectiveList::template contains<O>, "loss(*this) is for the model's own objectives");
    return losses_.data() + Model::ObjectiveList::template index_of<O>();
  }

  /// f(lane, slice) for the slices of an encoding, in parallel.
  template <class F>
  void for_each_slice(const Encoding& encoding, F f) {
    backend_.parallel_for(static_cast<Index>(encoding.slices.size()),
                          [&](Lane& lane, Index s) { f(lane, encoding.slices[static_cast<std::size_t>(s)]); });
  }

  /// Adds rows to the item gradient at the end of the step, until when they must live.
  void add_item_rows(const RowContribution<Scalar>& rows) { item_rows_.push_back(rows); }

  /// The whole item gradient, for objectives that touch every item.
  [[nodiscard]] Out all_item_gradients() {
    all_items_touched_ = true;
    return item_gradient_.view();
  }

  [[nodiscard]] Out cluster_gradient() { return cluster_gradient_.view(); }  // (K, C)

  /// Adds rows to the cluster gradient now, taken as a table of `rows` rows of equal width.
  void add_center_rows(const RowContribution<Scalar>& contribution, Index rows) {
    auto& scatter = center_scatter_.try_emplace(rows, backend_, rows, -1).first->second;
    const Out table(cluster_gradient_.view().data(), rows, cluster_gradient_.view().size() / rows);
    scatter(backend_, std::span(&contribution, 1), table);
    scatter.clear();
  }

  /// h_i = pooled encoding of sequence i, divided by its length. In `memory()`.
  [[nodiscard]] UserEmbeddings user_embeddings(const Encoding& encoding, Pooling pooling) {
    const Index n = encoding.tokens.sequences();
    const Index columns = pooled_columns(pooling, encoding.tokens.max_length, model_.hidden());
    const UserEmbeddings h{memory_.template matrix<Scalar>(n, columns), memory_.template matrix<Scalar>(1, n)};
    for_each_slice(encoding, [&](Lane& lane, const Slice& s) {
      const Out unit = h.unit.slice_rows(s.first_sequence, s.last_sequence);
      pool(lane, pooling, s.tokens, s.rows(encoding.y), unit);
      lane.normalize_rows(unit, h.norms.slice_cols(s.first_sequence, s.last_sequence), unit);
    });
    return h;
  }

  /// Passes dh (B, C), overwritten, back to the encoding's dy.
  void user_embeddings_backward(Encoding& encoding, Pooling pooling, const UserEmbeddings& h, Out dh) {
    for_each_slice(encoding, [&](Lane& lane, const Slice& s) {
      const Out d = dh.slice_rows(s.first_sequence, s.last_sequence);
      lane.normalize_rows_backward(h.unit.slice_rows(s.first_sequence, s.last_sequence),
                                   h.norms.slice_cols(s.first_sequence, s.last_sequence), d, d);
      pool_backward(lane, pooling, s.tokens, d, s.rows(encoding.dy));
    });
  }

 private:
  static Model& checked(Model& model) {
    check_causality(model);
    return model;
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
              ": those of its clusters, its items and its encoder have gradients, in this order");
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
      auto& e = encoding<V>();
      e.active = StepBatches<Model>::template reads<V>(model_);
      e.dropout = {seed, step, view++, training};
      if (e.active) {
        prepare(e, staging<typename SourceOf<V>::Type>(set_).view());
      }
    });
  }

  void prepare(Encoding& e, const TokenView& tokens) {
    e.tokens = tokens;
    const Index t = tokens.tokens();
    e.y = memory_.template matrix<Scalar>(t, model_.hidden());
    e.dy = memory_.template matrix<Scalar>(t, model_.hidden());
    e.dembedded = memory_.template matrix<Scalar>(t, model_.hidden());
    e.slices.clear();
    e.shards.clear();
    const Index count = backend_.slices();
    Index first = 0;
    for (Index s = 0; s < count; ++s) {
      const Index until = s + 1 == count ? t : (s + 1) * t / count;
      Index last = first;
      while (last < tokens.sequences() && (tokens.host_begin(last + 1) <= until || s + 1 == count)) {
        ++last;
      }
      e.slices.push_back(slice_of(tokens, first, last));
      e.shards.push_back(shards_of(tokens, first, last));
      first = last;
    }
  }

  static Slice slice_of(const TokenView& batch, Index first, Index last) {
    return {first, last, batch.host_begin(first), batch.host_begin(last), batch.subrange(first, last)};
  }

  /// Runs of whole sequences of about Backend::shard_tokens() tokens.
  std::vector<typename Encoding::Shard> shards_of(const TokenView& batch, Index first, Index last) const {
    std::vector<typename Encoding::Shard> shards;
    while (first < last) {
      Index end = first + 1;
      while (end < last && batch.host_begin(end + 1) - batch.host_begin(first) <= backend_.shard_tokens()) {
        ++end;
      }
      shards.push_back({slice_of(batch, first, end), {}});
      first = end;
    }
    return shards;
  }

  /// Memory of slice s of view v: what its backward pass needs.
  [[nodiscard]] typename Backend::Workspace& memory_of(std::size_t view, std::size_t slice) {
    return slice_memory_[view * slice_gradients_.size() + slice];
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
          model_.encoder.forward(pass, shard.part.tokens, items(), shard.cache, shard.part.rows(e.y));
          lane.fill(shard.part.rows(e.dy), Scalar(0));
        }
      }
      if (view == 0) {
        clear_gradients(lane, at);
      }
    });
  }

  void clear_gradients(Lane& lane, std::size_t slice) {
    lane.clear(std::span<const Out>(slice_gradient_views_[slice]));
  }

  void evaluate(const auto& objective) {
    if (objective.weight != 0) {
      objective.evaluate(*this);
    }
  }

  void backward() {
    backend_.parallel_for(backend_.slices(), [&](Lane& lane, Index s) {
      const auto at = static_cast<std::size_t>(s);
      for (std::size_t view = 0; view < Views::size; ++view) {
        auto& e = encodings_[view];
        if (!e.active) {
          continue;
        }
        for (auto& shard : e.shards[at]) {
          const Pass<Backend> pass{lane, memory_of(view, at), e.dropout};
          model_.encoder.backward(pass, shard.part.tokens, shard.cache, shard.part.rows(e.dy), slice_gradients_[at],
                                  shard.part.rows(e.dembedded));
        }
      }
    });
  }

  void reduce() {
    for (auto& e : encodings_) {
      if (e.active) {
        add_item_rows({e.tokens.items, {}, e.dembedded});
      }
    }
    item_scatter_(backend_, item_rows_, item_gradient_.view());
    item_rows_.clear();

    const auto& total = slice_parameters_.front();
    backend_.parallel_for(ssize(std::span(total)), [&](Lane& lane, Index i) {
      const auto p = static_cast<std::size_t>(i);
      for (std::size_t s = 1; s < slice_parameters_.size(); ++s) {
        lane.add_scaled(Scalar(1), slice_parameters_[s][p].values, total[p].values);
      }
    });
  }

  void clear_item_gradient() {
    if (std::exchange(all_items_touched_, false)) {
      backend_.parallel_blocks(item_gradient_.rows(), 1024, [&](Lane& lane, Index first, Index last) {
        lane.fill(item_gradient_.view().slice_rows(first, last), Scalar(0));
      });
      item_scatter_.clear();
    } else {
      item_scatter_.clear_rows(backend_, item_gradient_.view());
    }
  }

  Model& model_;
  Backend backend_;
  typename Backend::Workspace memory_;
  std::vector<typename Backend::Workspace> slice_memory_;  // of each view's slices
  std::vector<typename Backend::Staging> stagings_;        // two sets, one for each source of views
  std::size_t set_ = 0;
  std::array<Encoding, Views::size> encodings_;
  std::vector<Encoder> slice_gradients_;
  std::vector<std::vector<Parameter<Scalar>>> slice_parameters_;  // of each of them
  std::vector<std::vector<Out>> slice_gradient_views_;            // what a step clears
  Matrix<Backend> cluster_gradient_;                              // (K, C)
  Matrix<Backend> item_gradient_;                                 // (V, D)
  typename Backend::RowScatter item_scatter_;
  std::map<Index, typename Backend::RowScatter> center_scatter_;  // by the rows of the table
  std::vector<RowContribution<Scalar>> item_rows_;
  bool all_items_touched_ = false;
  typename Backend::template Buffer<double> losses_;
};

}  // namespace elcrec::inline ELCREC_TARGET
