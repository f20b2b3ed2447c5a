#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include "elcrec/data/token_batch.hpp"
#include "elcrec/model/step_batches.hpp"
#include "elcrec/model/step_plan.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Brings the batches of a training step into backend memory, those of the next one while this one is computed, and
/// plans how they pass.
template <class Model>
class StepUploads {
 public:
  using Backend = typename Model::Backend;
  using Scalar = typename Model::Scalar;
  using Lane = typename Backend::Lane;
  using SourceList = typename Model::SourceList;

  StepUploads(const Backend& backend, std::size_t memory_budget)
      : backend_(backend), memory_budget_(static_cast<Index>(memory_budget)) {
    for (std::size_t i = 0; i < 2 * SourceList::size; ++i) {
      stagings_.emplace_back(backend);
    }
  }

  /// The batches of the next step, which must live until it is over.
  void upload(const Model& model, const StepBatches<Model>& batches) {
    set_ = 1 - set_;
    Uploaded& uploaded = uploaded_[set_];
    uploaded.batches = &batches;
    uploaded.plan = make_plan(model, batches);
    upload_phase(model, 0);
  }

  /// What passes in a phase of the step uploaded last; the first one is on its way already.
  void upload_phase(const Model& model, std::size_t phase) {
    Uploaded& uploaded = uploaded_[set_];
    for_each_read_source(model, [&](std::size_t source) {
      if (!uploaded.plan.takes_part(source, phase)) {
        return;
      }
      const TokenBatch* batch = &uploaded.batches->of(source);
      if (uploaded.plan.in_phases(source)) {
        const auto [first, last] = uploaded.plan.range(source, phase);
        uploaded.parts[source].assign(*batch, first, last);
        batch = &uploaded.parts[source];
      }
      staging(source).upload(batch->view());
    });
  }

  /// Nothing will read what was uploaded after what runs already.
  void finished(const Model& model) {
    for_each_read_source(model, [&](std::size_t source) { staging(source).finished(); });
  }

  // Of the step uploaded last:

  [[nodiscard]] const StepPlan<Model>& plan() const { return uploaded_[set_].plan; }
  [[nodiscard]] const TokenBatch& batch(std::size_t source) const { return uploaded_[set_].batches->of(source); }
  /// In backend memory: the batch, or the part of it that passes in this phase.
  [[nodiscard]] TokenView tokens(std::size_t source) { return staging(source).view(); }

 private:
  /// Batches that are on their way to backend memory, and how they pass.
  struct Uploaded {
    const StepBatches<Model>* batches = nullptr;
    StepPlan<Model> plan;
    std::array<TokenBatch, SourceList::size> parts;  // of sources that pass in phases
  };

  /// f(number of the source) for those whose sequences an objective reads.
  static void for_each_read_source(const Model& model, auto&& f) {
    const auto views = StepBatches<Model>::views_read(model);
    for (std::size_t source = 0; source < SourceList::size; ++source) {
      if (views[source] > 0) {
        f(source);
      }
    }
  }

  [[nodiscard]] typename Backend::Staging& staging(std::size_t source) {
    return stagings_[set_ * SourceList::size + source];
  }

  /// Of a step that might not fit in its memory the longest sequence shows what a token takes.
  [[nodiscard]] StepPlan<Model> make_plan(const Model& model, const StepBatches<Model>& batches) {
    constexpr Index most_bytes = Index{1} << 18;  // of a token, in any encoder of some thousand columns
    Index tokens = 0;
    const TokenBatch* longest = nullptr;
    for_each_read_source(model, [&](std::size_t source) {
      const TokenBatch& batch = batches.of(source);
      tokens += batch.tokens();
      if (longest == nullptr || batch.view().longest > longest->view().longest) {
        longest = &batch;
      }
    });
    const Index budget = memory_budget_ / 4 * 3;  // the rest is for batches and what objectives take besides
    return tokens <= budget / most_bytes
               ? StepPlan<Model>()
               : StepPlan<Model>(model, batches, token_bytes(model, *longest), budget, backend_.slices());
  }

  /// Bytes that a token of the longest sequence of a batch takes in a step.
  [[nodiscard]] Index token_bytes(const Model& model, const TokenBatch& batch) {
    const TokenView tokens = batch.view();
    const auto known = token_bytes_.find(tokens.longest);
    if (known != token_bytes_.end()) {
      return known->second;
    }
    Index s = 0;
    while (tokens.host_begin(s + 1) - tokens.host_begin(s) < tokens.longest) {
      ++s;
    }
    TokenBatch one;
    one.assign(batch, s, s + 1);
    typename Backend::Staging one_staging(backend_);
    one_staging.upload(one.view());
    auto memory = backend_.make_workspace();
    backend_.parallel_for(1, [&](Lane& lane, Index) {
      const Pass<Backend> pass{lane, memory, {0, 0, 0, true}};
      const auto y = pass.keep(tokens.longest, model.hidden());
      typename Model::EncoderType::Cache cache;
      model.encoder.forward(pass, one_staging.view(), model.items(), cache, y);
    });
    one_staging.finished();
    const Index columns = 2 * model.hidden() + (Model::HeadType::plain ? 0 : 2 * model.query_columns());
    const Index bytes =
        static_cast<Index>(memory.used()) / tokens.longest + columns * static_cast<Index>(sizeof(Scalar));
    token_bytes_.emplace(tokens.longest, bytes);
    return bytes;
  }

  Backend backend_;
  Index memory_budget_;
  std::map<Index, Index> token_bytes_;               // by the tokens of the longest sequence
  std::vector<typename Backend::Staging> stagings_;  // two sets, one for each source of views
  std::array<Uploaded, 2> uploaded_;
  std::size_t set_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
