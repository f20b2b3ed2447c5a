#pragma once

#include <string_view>
#include <type_traits>

#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// c_j = c_j / |c_j| for the intents of a model: the optimizer leaves the unit sphere, and a term that asks for centers
/// on it stands after this one in the model's list of components, as in the released code.
struct ProjectCenters {
  static constexpr std::string_view name = "project_centers";

  void update(auto& model) const {
    using Lane = typename std::remove_cvref_t<decltype(model.backend())>::Lane;
    model.backend().parallel_for(1, [&](Lane& lane, Index) { model.clusters().project(lane); });
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
