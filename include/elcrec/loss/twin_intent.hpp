#pragma once

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/info_nce.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec {

/// Predicts the intent of another user about to want the same: InfoNCE between the unit encoding of each prefix's last
/// token and the center nearest to that of its twin. Prefixes whose twins have one intent are not negatives of each
/// other. Gradients flow into the prefixes and the centers. Projects the centers to the sphere first. A model with it
/// asks for the same embedding when it names a user's intent if its pooling is Pooling::last.
struct TwinIntent {
  using Views = TypeList<PrefixView, TwinView>;
  static constexpr std::string_view name = "twin_intent";

  double weight = 0.1;
  double temperature = 1.0;

  void evaluate(auto& step) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    using Lane = typename std::remove_cvref_t<decltype(step)>::Backend::Lane;
    auto& prefix = step.template encoding<PrefixView>();
    auto& twin = step.template encoding<TwinView>();
    auto& clusters = step.model().clusters;
    const Index n = prefix.tokens.sequences();
    const auto frame = step.memory().frame();
    const auto z = step.memory().template matrix<T>(2 * n, prefix.y.cols());  // [prefixes; centers of their twins]
    const auto dz = step.memory().template matrix<T>(2 * n, prefix.y.cols());
    const auto norms = step.memory().template matrix<T>(1, n);
    const auto ids = step.memory().template array<std::int32_t>(n);
    const auto prefixes = [n](auto m) { return m.slice_rows(0, n); };
    const auto centers = [n](auto m) { return m.slice_rows(n, 2 * n); };
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      clusters.project(lane);
      lane.gather_rows(twin.y, twin.tokens.target_tokens, prefixes(z), Write::replace);
      lane.normalize_rows(prefixes(z), norms, prefixes(z));
      clusters.nearest(lane, prefixes(z), ids);
      lane.gather_rows(prefix.y, prefix.tokens.target_tokens, prefixes(z), Write::replace);
      lane.normalize_rows(prefixes(z), norms, prefixes(z));
      lane.gather_rows(clusters.centers(), ids, centers(z), Write::replace);
    });
    info_nce(step.backend(), step.memory(), GramIndex::rows(2 * n), z, ids,
             {.temperature = temperature, .weight = weight}, step.loss(*this), dz);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.normalize_rows_backward(prefixes(z), norms, prefixes(dz), prefixes(dz));
      lane.scatter_add_rows(prefixes(dz), prefix.tokens.target_tokens, prefix.dy);
    });
    step.add_center_rows({ids, {}, centers(dz)}, clusters.count());
  }
};

}  // namespace elcrec
