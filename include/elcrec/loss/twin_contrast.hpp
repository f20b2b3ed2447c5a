#pragma once

#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/info_nce.hpp"
#include "elcrec/loss/objective.hpp"

namespace elcrec {

/// Contrast between sequences that share an intent in the sense of a common target (ICSRec's coarse-grained intents,
/// Qin et al., WSDM 2024): InfoNCE between the encodings of the last tokens of each prefix and of its twin. Prefixes of
/// the same target are not negatives of each other.
struct TwinContrast {
  using Views = TypeList<PrefixView, TwinView>;
  static constexpr std::string_view name = "twin_contrast";

  double weight = 0.1;
  double temperature = 1.0;
  bool cosine = false;  ///< similarities of unit vectors instead of plain dot products

  void evaluate(auto& step) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    using Lane = typename std::remove_cvref_t<decltype(step)>::Backend::Lane;
    auto& prefix = step.template encoding<PrefixView>();
    auto& twin = step.template encoding<TwinView>();
    const Index n = prefix.tokens.sequences();
    const auto frame = step.memory().frame();
    const auto z = step.memory().template matrix<T>(2 * n, prefix.y.cols());
    const auto dz = step.memory().template matrix<T>(2 * n, prefix.y.cols());
    const auto norms = step.memory().template matrix<T>(1, 2 * n);
    const auto targets = step.memory().template array<std::int32_t>(n);
    const auto first = [n](auto m) { return m.slice_rows(0, n); };
    const auto second = [n](auto m) { return m.slice_rows(n, 2 * n); };
    // The target of a sequence stands at its last token.
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.gather_ids(prefix.tokens.targets, prefix.tokens.target_tokens, targets);
      lane.gather_rows(prefix.y, prefix.tokens.target_tokens, first(z), Write::replace);
      lane.gather_rows(twin.y, twin.tokens.target_tokens, second(z), Write::replace);
      if (cosine) {
        lane.normalize_rows(z, norms, z);
      }
    });
    info_nce(step.backend(), step.memory(), GramIndex::rows(2 * n), z, targets,
             {.temperature = temperature, .weight = weight}, step.loss(*this), dz);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      if (cosine) {
        lane.normalize_rows_backward(z, norms, dz, dz);
      }
      lane.scatter_add_rows(first(dz), prefix.tokens.target_tokens, prefix.dy);
      lane.scatter_add_rows(second(dz), twin.tokens.target_tokens, twin.dy);
    });
  }
};

}  // namespace elcrec
