#pragma once

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A lane of host memory whose `Vector` works on rows. The walks of this folder over tokens, sequences and heads are
/// written once for all such lanes: overloads that stand before ReferenceLane's, which documents the operations.
template <class L>
concept VectorLane = requires {
  typename L::Vector;
};

}  // namespace elcrec::inline ELCREC_TARGET
