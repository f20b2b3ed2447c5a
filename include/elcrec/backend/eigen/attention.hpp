#pragma once

#include <algorithm>
#include <limits>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// Which tokens of a sequence may be keys, prepared once for all its queries and heads. Rows of scores have room for
/// whole packs. No comparisons, for which Eigen leaves the vector registers: where a key is hidden, its score is capped
/// by the least number there is and its exponential multiplied by 0.
template <class T>
class KeyRow {
 public:
  template <class Workspace>
  KeyRow(Workspace& workspace, const TokenView& tokens, Index s)
      : n_(tokens.length(s)), padded_(round_up(n_)), first_real_(n_) {
    for (Keys* keys : {&every_, &real_}) {
      keys->cap = workspace.template array<T>(padded_).data();
      keys->seen = workspace.template array<T>(padded_).data();
    }
    for (Index j = padded_ - 1; j >= 0; --j) {
      const bool is_real = j < n_ && tokens.item(tokens.begin(s) + j) != padding_item;
      every_.set(j, j < n_);
      real_.set(j, is_real);
      first_real_ = is_real ? j : first_real_;
    }
  }

  /// p = softmax(scale p) over the keys that query i sees, 0 for the others and behind them.
  [[gnu::flatten]] void softmax(AttentionMask mask, T scale, Index i, T* p) const {
    const Index reach = mask == AttentionMask::causal ? i + 1 : n_;
    const bool any = first_real_ < reach;
    const Keys& keys = any ? real_ : every_;
    const Index count = any ? reach : n_;
    const Index end = round_up(count);
    std::fill(p + count, p + end, never);
    Pack<T> most = Pack<T>::Constant(never);
    for (Index j = 0; j < end; j += step) {
      most = (most.max)((elements<step>(p + j).min)(elements<step>(keys.cap + j)));
    }
    const T largest = most.maxCoeff();
    Pack<T> total = Pack<T>::Zero();
    for (Index j = 0; j < end; j += step) {
      auto at = elements<step>(p + j);
      at = (scale * ((at.min)(elements<step>(keys.cap + j)) - largest)).exp() * elements<step>(keys.seen + j);
      total += at;
    }
    const T inverse = T(1) / total.sum();
    for (Index j = 0; j < end; j += step) {
      elements<step>(p + j) *= inverse;
    }
    std::fill(p + count, p + padded_, T(0));
  }

 private:
  static constexpr Index step = pack_size<T>;
  static constexpr T never = std::numeric_limits<T>::lowest();

  struct Keys {
    T* cap = nullptr;   // the largest number where a key is seen, the lowest where it is hidden
    T* seen = nullptr;  // 1, 0
    void set(Index j, bool is_seen) {
      cap[j] = is_seen ? (std::numeric_limits<T>::max)() : never;
      seen[j] = is_seen ? T(1) : T(0);
    }
  };

  static Index round_up(Index n) { return (n + step - 1) / step * step; }

  Index n_;
  Index padded_;
  Index first_real_;
  Keys every_;
  Keys real_;  // but item 0
};

/// y (N, key_columns(N)) = queries (N, W) · keys (N, W)ᵀ; the columns behind the keys hold anything.
template <class T>
void multiply_keys(EigenLane<T>& lane, Input<T> queries, Input<T> keys, Output<T> y) {
  const Index n = keys.rows();
  if (const Output<T> used = y.slice_cols(0, n); is_small(used, keys.cols())) {
    lane.multiply_nt(queries, keys, used, Write::replace);
  } else {
    eigen::multiply<T>(lane.workspace(), {queries.data(), queries.stride(), 1}, {keys.data(), keys.stride(), 1}, n,
                       keys.cols(), y, Write::replace);
  }
}

/// p_j = query·x_j
template <class T>
void dot_rows(const T* query, MatrixView<const T> x, T* p) {
  for (Index j = 0; j < x.rows(); ++j) {
    p[j] = eigen::dot(query, x.row(j), x.cols());
  }
}

/// y += Σ_j p_j x_j
template <class T>
void add_weighted_rows(const T* p, MatrixView<const T> x, T* y) {
  for (Index j = 0; j < x.rows(); ++j) {
    eigen::add_scaled(p[j], x.row(j), y, x.cols());
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
