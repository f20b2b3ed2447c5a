#pragma once

#include "elcrec/data/item_map.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A model and the ids that its data set calls the items by.
template <class Model>
struct LoadedModel {
  Model model;
  ItemMap items;
};

}  // namespace elcrec::inline ELCREC_TARGET
