#pragma once

#include <algorithm>

#include "elcrec/backend/host/dropout.hpp"
#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// `columns` zeros.
template <VectorLane L>
[[nodiscard]] typename L::Scalar* zero_row(L& lane, Index columns) {
  const auto row = lane.workspace().template array<typename L::Scalar>(columns);
  std::fill(row.begin(), row.end(), typename L::Scalar(0));
  return row.data();
}

}  // namespace detail

template <VectorLane L>
void layer_norm(L&, typename L::In x, typename L::In gamma, typename L::In beta, typename L::Scalar eps,
                typename L::Out normalised, typename L::Out rstd, typename L::Out y) {
  for (Index t = 0; t < x.rows(); ++t) {
    rstd(0, t) = L::Vector::norm_row(x.row(t), gamma.data(), beta.data(), eps, x.cols(), normalised.row(t), y.row(t));
  }
}

template <VectorLane L>
void layer_norm_backward(L&, typename L::In normalised, typename L::In rstd, typename L::In gamma, typename L::In dy,
                         typename L::Out dx, typename L::Out dgamma, typename L::Out dbeta) {
  for (Index t = 0; t < dy.rows(); ++t) {
    L::Vector::norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), dx.row(t),
                                 dgamma.data(), dbeta.data());
  }
}

template <VectorLane L>
void add_norm(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::In x, typename L::In b,
              typename L::In residual, typename L::In gamma, typename L::In beta, typename L::Scalar eps,
              typename L::Out normalised, typename L::Out rstd, typename L::Out y) {
  const auto frame = lane.workspace().frame();
  const auto* bias = b.data() == nullptr ? detail::zero_row(lane, x.cols()) : b.data();
  detail::for_each_mask_row(lane, tokens, mask, x, [&](Index t, const auto* factors) {
    rstd(0, t) = L::Vector::add_norm_row(x.row(t), bias, factors, residual.row(t), gamma.data(), beta.data(), eps,
                                         x.cols(), normalised.row(t), y.row(t));
  });
}

template <VectorLane L>
void add_norm_backward(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::In normalised,
                       typename L::In rstd, typename L::In gamma, typename L::In dy, typename L::Out ds,
                       typename L::Out dx, typename L::Out dgamma, typename L::Out dbeta, typename L::Out db) {
  const auto frame = lane.workspace().frame();
  auto* const dbias = db.data() == nullptr ? detail::zero_row(lane, dy.cols()) : db.data();
  detail::for_each_mask_row(lane, tokens, mask, dy, [&](Index t, const auto* factors) {
    auto* const in = ds.row(t);
    L::Vector::norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), in, dgamma.data(),
                                 dbeta.data());
    L::Vector::each(dy.cols(), [in, factors, dbias, out = dx.row(t)](auto at) {
      at.put(out, at(in) * at(factors));
      at.put(dbias, at(dbias) + at(out));
    });
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
