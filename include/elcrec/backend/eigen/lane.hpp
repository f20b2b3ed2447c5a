#pragma once

#include "elcrec/backend/eigen/adam.hpp"
#include "elcrec/backend/eigen/attention.hpp"
#include "elcrec/backend/eigen/dropout.hpp"
#include "elcrec/backend/eigen/elementwise.hpp"
#include "elcrec/backend/eigen/gelu.hpp"
#include "elcrec/backend/eigen/gram.hpp"
#include "elcrec/backend/eigen/layer_norm.hpp"
#include "elcrec/backend/eigen/nearest.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/backend/eigen/ranking.hpp"
#include "elcrec/backend/eigen/softmax.hpp"
#include "elcrec/backend/reference/lane.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {

/// Each replaces some operations of what it stands on, the first in the list on top.
template <class T>
using Operations =
    Ranking<Nearest<Adam<Gram<Softmax<Attention<LayerNorm<Gelu<Dropout<Products<Elementwise<ReferenceLane<T>>>>>>>>>>>>;

}  // namespace eigen

/// The operations of ReferenceLane, those that cost time as Eigen expressions. What an operation does is documented
/// there. One lane belongs to one thread at a time.
template <class T>
class EigenLane : public eigen::Operations<T> {};

}  // namespace elcrec::inline ELCREC_TARGET
