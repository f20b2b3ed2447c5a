#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

template <class F>
void for_each_token(const TokenView& tokens, F f) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      f(s, t);
    }
  }
}

}  // namespace reference

/// y_s (S, D) = mean of the sequence's tokens; 0 for a sequence without tokens
template <class T>
void mean_pool(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    lane.column_mean(x.slice_rows(tokens.begin(s), tokens.end(s)), y.slice_rows(s, s + 1));
  }
}

/// dx_t += dy_s / length(s)
template <class T>
void mean_pool_backward(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    const T weight = T(1) / static_cast<T>(std::max<Index>(1, tokens.length(s)));
    lane.add_row(weight, dy.slice_rows(s, s + 1), dx.slice_rows(tokens.begin(s), tokens.end(s)));
  }
}

/// y_s (S, D) = the sequence's last token; 0 for a sequence without tokens
template <class T>
void last_pool(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    if (tokens.length(s) > 0) {
      lane.copy(x.slice_rows(tokens.end(s) - 1, tokens.end(s)), y.slice_rows(s, s + 1));
    } else {
      lane.fill(y.slice_rows(s, s + 1), T(0));
    }
  }
}

/// dx_t += dy_s for the sequence's last token t
template <class T>
void last_pool_backward(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    if (tokens.length(s) > 0) {
      lane.add_scaled(T(1), dy.slice_rows(s, s + 1), dx.slice_rows(tokens.end(s) - 1, tokens.end(s)));
    }
  }
}

/// y_s (S, L·D): token at position p in columns [p·D, (p+1)·D), 0 where there is none
template <class T>
void concat_pool(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  lane.fill(y, T(0));
  reference::for_each_token(
      tokens, [&](Index s, Index t) { std::copy_n(x.row(t), x.cols(), y.row(s) + tokens.position(t) * x.cols()); });
}

/// dx_t += dy_s[p·D ...]
template <class T>
void concat_pool_backward(ReferenceLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  reference::for_each_token(tokens, [&](Index s, Index t) {
    const Index first = tokens.position(t) * dx.cols();
    lane.add_scaled(T(1), dy.slice_rows(s, s + 1).slice_cols(first, first + dx.cols()), dx.slice_rows(t, t + 1));
  });
}

/// out_t = sample_ids_s · r + position_t, or sample_ids_s where r = 1: the rows of tokens in a table that has r rows
/// for each id, one or, with r = L, one for each position
template <class T>
void expand_ids(ReferenceLane<T>&, const TokenView& tokens, std::span<const std::int32_t> sample_ids, Index r,
                std::span<std::int32_t> out) {
  reference::for_each_token(tokens, [&](Index s, Index t) {
    out[static_cast<std::size_t>(t)] =
        static_cast<std::int32_t>(sample_ids[static_cast<std::size_t>(s)] * r + (r == 1 ? 0 : tokens.position(t)));
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
