#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "elcrec/data/batch_slice.hpp"
#include "elcrec/loss/step.hpp"
#include "elcrec/nn/embedding_table.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The views of a training step that are encoded, with all that their backward pass needs, in memory of each view's
/// slices: the forward and the backward pass of an encoder over a batch.
template <class Model>
class EncodedViews {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Model::Scalar;
  using Lane = typename Backend::Lane;
  using Out = MatrixView<Scalar>;
  using Encoder = typename Model::EncoderType;
  static constexpr std::size_t count = Model::Views::size;

  /// How a view is encoded.
  struct Options {
    DropoutBits dropout{};
    Index run_tokens = 0;   ///< tokens at a time
    bool again = false;     ///< keeps nothing for the backward pass, which encodes once more
    bool predicts = false;  ///< whether an objective reads its queries
  };

  explicit EncodedViews(const Backend& backend) : backend_(backend), memory_(backend.make_workspace()) {
    for (Index i = 0; i < static_cast<Index>(count) * backend.slices(); ++i) {
      slice_memory_.push_back(backend.make_workspace());
    }
    for (Index s = 0; s < backend.slices(); ++s) {
      added_memory_.push_back(backend.make_workspace());
    }
  }

  /// For encodings and what objectives need besides, until the next clear.
  [[nodiscard]] typename Backend::Workspace& memory() { return memory_; }
  [[nodiscard]] Encoding<Scalar>& of(std::size_t view) { return views_[view].shared; }

  /// Bytes of memory held.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t sum = memory_.capacity();
    for (const auto* list : {&slice_memory_, &added_memory_}) {
      for (const auto& memory : *list) {
        sum += memory.capacity();
      }
    }
    return sum;
  }

  /// No view is encoded.
  void clear() {
    memory_.clear();
    for (auto* list : {&slice_memory_, &added_memory_}) {
      for (auto& memory : *list) {
        memory.clear();
      }
    }
    for (auto& view : views_) {
      view.active = false;
    }
  }

  /// A view is to be encoded: `tokens` in backend memory, of a batch with so many targets.
  void prepare(const Model& model, std::size_t view, const TokenView& tokens, Index targets, const Options& options) {
    auto& e = views_[view];
    e.active = true;
    e.options = options;
    e.shared.targets = targets;
    const Index t = tokens.tokens();
    e.shared.tokens = tokens;
    e.shared.y = memory_.template matrix<Scalar>(t, model.hidden());
    e.shared.dy = memory_.template matrix<Scalar>(t, model.hidden());
    e.shared.q = e.shared.y;
    e.shared.dq = e.shared.dy;
    if (!Head::plain && e.options.predicts) {
      e.shared.q = memory_.template matrix<Scalar>(t, model.query_columns());
      e.shared.dq = memory_.template matrix<Scalar>(t, model.query_columns());
      e.query_norms = memory_.template matrix<Scalar>(1, t);
    }
    e.dembedded = memory_.template matrix<Scalar>(t, model.hidden());
    e.shared.slices = slices_of(tokens, backend_.slices());
    e.shards.clear();
    for (const auto& slice : e.shared.slices) {
      auto& shards = e.shards.emplace_back();
      for (auto& run : runs_of(tokens, slice.first_sequence, slice.last_sequence,
                               (std::min)(options.run_tokens, backend_.shard_tokens()))) {
        shards.push_back({std::move(run), {}});
      }
    }
  }

  /// Encodes the views. meanwhile(lane, s) is run by one task for each slice s.
  template <class Meanwhile>
  void forward(const Model& model, Meanwhile meanwhile) {
    const Index slices = backend_.slices();
    backend_.parallel_for(static_cast<Index>(count) * slices, [&](Lane& lane, Index task) {
      const auto view = static_cast<std::size_t>(task / slices);
      const auto at = static_cast<std::size_t>(task % slices);
      auto& e = views_[view];
      if (e.active) {
        for (auto& shard : e.shards[at]) {
          const auto frame = lane.workspace().frame();
          const Pass<Backend> pass{lane, e.options.again ? lane.workspace() : memory_of(view, at), e.options.dropout};
          encode(model, pass, shard, shard.part.rows(e.shared.y));
          lane.fill(shard.part.rows(e.shared.dy), Scalar(0));
          if (!Head::plain && e.options.predicts) {
            model.head().queries(lane, shard.part.rows(e.shared.y), shard.part.columns(e.query_norms),
                                 shard.part.rows(e.shared.q));
            lane.fill(shard.part.rows(e.shared.dq), Scalar(0));
          }
        }
      }
      if (view == 0) {
        meanwhile(lane, static_cast<Index>(at));
      }
    });
  }

  /// Passes the encodings' gradients back, to those of encoder and item table.
  template <class EncoderGradient>
  void backward(const Model& model, EncoderGradient& encoder_gradient, TableGradient<Backend>& items_gradient) {
    backend_.parallel_for(backend_.slices(), [&](Lane& lane, Index s) {
      const auto at = static_cast<std::size_t>(s);
      for (std::size_t view = 0; view < count; ++view) {
        auto& e = views_[view];
        if (!e.active) {
          continue;
        }
        auto& memory = memory_of(view, at);
        for (auto& shard : e.shards[at]) {
          const auto frame = memory.frame();  // of what is encoded again
          if (e.options.again) {
            const Pass<Backend> again{lane, memory, e.options.dropout};
            encode(model, again, shard, again.keep(shard.part.tokens.tokens(), model.hidden()));
          }
          const Pass<Backend> pass{lane, added_memory_[at], e.options.dropout};
          if (!Head::plain && e.options.predicts) {
            model.head().queries_backward(lane, shard.part.rows(e.shared.q), shard.part.columns(e.query_norms),
                                          shard.part.rows(e.shared.dq), shard.part.rows(e.shared.dy));
          }
          model.encoder.backward(pass, shard.part.tokens, shard.cache, shard.part.rows(e.shared.dy),
                                 encoder_gradient.of(s), shard.part.rows(e.dembedded));
        }
      }
    });
    for (auto& e : views_) {
      if (e.active) {
        items_gradient.add({e.shared.tokens.items, {}, e.dembedded});
      }
    }
  }

 private:
  using Head = typename Model::HeadType;

  struct View {
    struct Shard {
      BatchSlice part;
      typename Encoder::Cache cache;
    };
    Encoding<Scalar> shared;
    Out dembedded;                           // (T, D) gradient of the item rows looked up, after the backward pass
    Out query_norms;                         // (1, T)
    std::vector<std::vector<Shard>> shards;  // of each slice
    Options options;
    bool active = false;
  };

  /// Memory of slice s of view v: what its backward pass needs.
  [[nodiscard]] typename Backend::Workspace& memory_of(std::size_t view, std::size_t slice) {
    return slice_memory_[view * static_cast<std::size_t>(backend_.slices()) + slice];
  }

  static void encode(const Model& model, const Pass<Backend>& pass, typename View::Shard& shard, Out y) {
    model.encoder.forward(pass, shard.part.tokens, model.items(), shard.cache, y);
  }

  Backend backend_;
  typename Backend::Workspace memory_;
  std::vector<typename Backend::Workspace> slice_memory_;  // of each view's slices: for their backward pass
  std::vector<typename Backend::Workspace> added_memory_;  // of each slice: for what it adds to gradients by row
  std::array<View, count> views_;
};

}  // namespace elcrec::inline ELCREC_TARGET
