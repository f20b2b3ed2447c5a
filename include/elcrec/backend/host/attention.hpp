#pragma once

#include <algorithm>
#include <cmath>

#include "elcrec/backend/host/dropout.hpp"
#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// Rows of a sequence and columns of a head in the probabilities, with their room.
template <VectorLane L, class View>
[[nodiscard]] View head_rows(View probabilities, Index begin, Index n, Index heads, Index h) {
  const Index columns = probabilities.cols() / heads;
  return probabilities.slice_rows(begin, begin + n).slice_cols(h * columns, h * columns + L::key_columns(n));
}

/// weights_j = p_j times the dropout factor of (query i, key j) of head h.
template <VectorLane L>
void drop_weights(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::Vector::DropoutFactors& source,
                  Index heads, Index s, Index h, Index i, const typename L::Scalar* p, typename L::Scalar* weights) {
  const Index n = tokens.length(s);
  if (!mask.active() || n == 0) {
    std::copy_n(p, n, weights);
    return;
  }
  const auto frame = lane.workspace().frame();
  const Index columns = DropoutMask::head_columns(tokens.max_length);
  const Index begin = tokens.begin(s);
  const Index first = tokens.position(begin) / DropoutMask::group_columns * DropoutMask::group_columns;
  const Index count = tokens.position(begin + n - 1) + 1 - first;
  auto* const factors = factor_row(lane, count);
  source.row(tokens.random_row(s, begin + i), heads * columns, h * columns + first, count, factors);
  const Index skipped = tokens.position(begin) - first;
  if (count - skipped == n) {  // no gaps between the positions
    L::Vector::each(n, [p, weights, next = factors + skipped](auto at) { at.put(weights, at(p) * at(next)); });
    return;
  }
  for (Index j = 0; j < n; ++j) {
    weights[j] = p[j] * factors[tokens.position(begin + j) - first];
  }
}

}  // namespace detail

template <VectorLane L>
void attention(L& lane, const TokenView& tokens, Index heads, AttentionMask visible, const DropoutMask& mask,
               typename L::In qkv, typename L::Out probabilities, typename L::Out context) {
  using T = typename L::Scalar;
  using V = typename L::Vector;
  const Index d = context.cols();
  const Index w = d / heads;
  const T scale = T(1) / std::sqrt(static_cast<T>(w));
  typename V::DropoutFactors factors(mask);
  for (Index s = 0; s < tokens.sequences(); ++s) {
    const Index begin = tokens.begin(s);
    const Index n = tokens.length(s);
    const auto frame = lane.workspace().frame();
    const auto weights = lane.workspace().template matrix<T>(n, L::key_columns(n)).slice_cols(0, n);
    const typename V::KeyRow keys(lane.workspace(), tokens, s);
    const auto rows = qkv.slice_rows(begin, begin + n);
    for (Index h = 0; h < heads; ++h) {
      const auto p = detail::head_rows<L>(probabilities, begin, n, heads, h);
      V::multiply_keys(lane, rows.slice_cols(h * w, (h + 1) * w), rows.slice_cols(d + h * w, d + (h + 1) * w), p);
      for (Index i = 0; i < n; ++i) {
        keys.softmax(visible, scale, i, p.row(i));
        detail::drop_weights(lane, tokens, mask, factors, heads, s, h, i, p.row(i), weights.row(i));
      }
      lane.multiply_nn(weights, rows.slice_cols(2 * d + h * w, 2 * d + (h + 1) * w),
                       context.slice_rows(begin, begin + n).slice_cols(h * w, (h + 1) * w), Write::replace);
    }
  }
}

template <VectorLane L>
void attention_backward(L& lane, const TokenView& tokens, Index heads, [[maybe_unused]] AttentionMask visible,
                        const DropoutMask& mask, typename L::In qkv, typename L::In probabilities,
                        typename L::In dcontext, typename L::Out dqkv) {
  using T = typename L::Scalar;
  using V = typename L::Vector;
  const Index d = dcontext.cols();
  const Index w = d / heads;
  const T scale = T(1) / std::sqrt(static_cast<T>(w));
  typename V::DropoutFactors factors(mask);
  for (Index s = 0; s < tokens.sequences(); ++s) {
    const Index begin = tokens.begin(s);
    const Index n = tokens.length(s);
    const auto frame = lane.workspace().frame();
    const auto weights = lane.workspace().template matrix<T>(n, L::key_columns(n)).slice_cols(0, n);
    const auto padded_ds = lane.workspace().template matrix<T>(n, L::key_columns(n));
    const auto ds = padded_ds.slice_cols(0, n);
    const auto rows = qkv.slice_rows(begin, begin + n);
    const auto drows = dqkv.slice_rows(begin, begin + n);
    for (Index h = 0; h < heads; ++h) {
      const auto p = detail::head_rows<L>(probabilities, begin, n, heads, h);
      const auto dc = dcontext.slice_rows(begin, begin + n).slice_cols(h * w, (h + 1) * w);
      const auto block = [&](auto view, Index part) {
        return view.slice_cols(part * d + h * w, part * d + (h + 1) * w);
      };
      V::multiply_keys(lane, dc, block(rows, 2), padded_ds);
      for (Index i = 0; i < n; ++i) {
        T* const g = ds.row(i);
        T* const wi = weights.row(i);
        const T* const pi = p.row(i);
        detail::drop_weights(lane, tokens, mask, factors, heads, s, h, i, pi, wi);
        const T mean = V::dot(wi, g, n);  // weights = p ∘ factor, so Σ p factor dp = weights·dp
        V::each(n, [=](auto at) { at.put(g, scale * (at(wi) * at(g) - at(pi) * mean)); });
      }
      lane.multiply_tn(weights, dc, block(drows, 2), Write::replace);
      lane.multiply_nn(ds, block(rows, 1), block(drows, 0), Write::replace);
      lane.multiply_tn(ds, block(rows, 0), block(drows, 1), Write::replace);
    }
  }
}

template <VectorLane L>
void last_attention(L& lane, const TokenView& tokens, typename L::Scalar scale, typename L::In queries,
                    typename L::In x, typename L::Out sums) {
  using T = typename L::Scalar;
  using V = typename L::Vector;
  const Index d = x.cols();
  lane.fill(sums, T(0));
  for (Index s = 0; s < tokens.sequences(); ++s) {
    const Index begin = tokens.begin(s);
    const Index n = tokens.length(s);
    if (n == 0) {
      continue;
    }
    const auto frame = lane.workspace().frame();
    const typename V::KeyRow keys(lane.workspace(), tokens, s);
    T* const p = lane.workspace().template array<T>(L::key_columns(n)).data();
    const auto rows = x.slice_rows(begin, begin + n);
    for (Index first = 0; first < queries.cols(); first += d) {
      V::dot_rows(queries.row(s) + first, rows, p);
      keys.softmax(AttentionMask::bidirectional, scale, n - 1, p);
      V::add_weighted_rows(p, rows, sums.row(s) + first);
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
