#pragma once

#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <VectorLane L>
void exponentials(L&, typename L::Out z, typename L::Out largest, typename L::Out sum) {
  for (Index r = 0; r < z.rows(); ++r) {
    const auto found = L::Vector::exponentials(z.row(r), z.cols(), typename L::Scalar(1));
    largest(0, r) = found.largest;
    sum(0, r) = found.sum;
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
