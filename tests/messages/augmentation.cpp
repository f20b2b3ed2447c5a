// expect: Augmentation
// An augmentation that returns its view instead of filling it.
#include "elcrec/data/views.hpp"

struct Returns {
  std::vector<elcrec::ItemId> operator()(std::span<const elcrec::ItemId>, elcrec::RandomEngine&) const { return {}; }
};

elcrec::AugmentedPair<Returns> pair;
