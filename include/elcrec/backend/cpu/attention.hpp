#pragma once

#include <limits>

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/products.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

/// Which tokens of a sequence may be keys, prepared once for all its queries and heads. Rows of scores have room for
/// whole registers.
template <class T>
class KeyRow {
 public:
  template <class Workspace>
  KeyRow(Workspace& memory, const TokenView& tokens, Index s)
      : n_(tokens.length(s)), padded_((n_ + simd::width<T> - 1) / simd::width<T> * simd::width<T>), first_real_(n_) {
    every_ = memory.template array<T>(padded_).data();
    real_ = memory.template array<T>(padded_).data();
    constexpr T behind_all = (std::numeric_limits<T>::max)();
    for (Index j = padded_ - 1; j >= 0; --j) {
      const bool is_real = j < n_ && tokens.item(tokens.begin(s) + j) != padding_item;
      every_[j] = j < n_ ? static_cast<T>(j) : behind_all;
      real_[j] = is_real ? static_cast<T>(j) : behind_all;
      first_real_ = is_real ? j : first_real_;
    }
  }

  /// p = softmax(scale p) over the keys that query i sees, 0 for the others and behind them.
  void softmax(AttentionMask mask, T scale, Index i, T* p) const {
    const Index reach = mask == AttentionMask::causal ? i + 1 : n_;
    const bool any = first_real_ < reach;
    const T* order = any ? real_ : every_;  // key j is seen where order[j] < keys
    const Index keys = any ? reach : n_;
    const auto limit = static_cast<T>(keys);
    const simd::Pack<T> hidden = simd::broadcast(simd::never<T>);
    simd::Pack<T> largest = hidden;
    for (Index j = 0; j < keys; j += simd::width<T>) {
      const simd::Pack<T> v = simd::load(order + j) < limit ? simd::load(p + j) : hidden;
      largest = v > largest ? v : largest;
    }
    const T shift = simd::maximum<T>(largest);
    simd::Pack<T> total{};
    for (Index j = 0; j < keys; j += simd::width<T>) {
      // A selection, not a product: the exponential may be infinite where a key is hidden.
      const simd::Pack<T> e = simd::exp(scale * (simd::load(p + j) - shift));
      const simd::Pack<T> seen = simd::load(order + j) < limit ? e : simd::Pack<T>{};
      simd::store<T>(p + j, seen);
      total += seen;
    }
    const T inverse = T(1) / simd::sum<T>(total);
    for (Index j = 0; j < padded_; j += simd::width<T>) {
      simd::store<T>(p + j, j < keys ? simd::load(p + j) * inverse : simd::Pack<T>{});
    }
  }

 private:
  Index n_;
  Index padded_;
  Index first_real_;
  T* every_;  // j for every key, the largest number behind them
  T* real_;   // the same, with that number for item 0 too
};

/// y (N, key_columns(N)) = queries (N, W) · keys (N, W)ᵀ; the columns behind the keys hold anything.
template <class T>
void multiply_keys(CpuLane<T>& lane, Input<T> queries, Input<T> keys, Output<T> y) {
  const Index n = keys.rows();
  if (const Output<T> used = y.slice_cols(0, n); cpu::is_small(used, keys.cols())) {
    lane.multiply_nt(queries, keys, used, Write::replace);
    return;
  }
  cpu::multiply<T>(lane.workspace(), {queries.data(), queries.stride(), 1}, {keys.data(), keys.stride(), 1}, n,
                   keys.cols(), y, Write::replace);
}

/// p_j = query·x_j
template <class T>
void dot_rows(const T* query, MatrixView<const T> x, T* p) {
  const Index n = x.rows();
  Index j = 0;
  for (; j + simd::width<T> <= n; j += simd::width<T>) {
    simd::store<T>(p + j, simd::dot_rows(
                              query, [&](Index i) { return x.row(j + i); }, x.cols()));
  }
  for (; j < n; ++j) {
    p[j] = simd::dot(query, x.row(j), x.cols());
  }
}

/// y += Σ_j p_j x_j
template <class T>
void add_weighted_rows(const T* p, MatrixView<const T> x, T* y) {
  constexpr Index strip = 4;  // registers, so that a p_j is loaded once for as many products
  Index c = 0;
  for (; c + strip * simd::width<T> <= x.cols(); c += strip * simd::width<T>) {
    simd::Pack<T> sum[strip];
    for (Index i = 0; i < strip; ++i) {
      sum[i] = simd::load(y + c + i * simd::width<T>);
    }
    for (Index j = 0; j < x.rows(); ++j) {
      const simd::Pack<T> factor = simd::broadcast(p[j]);
      for (Index i = 0; i < strip; ++i) {
        sum[i] += factor * simd::load(x.row(j) + c + i * simd::width<T>);
      }
    }
    for (Index i = 0; i < strip; ++i) {
      simd::store<T>(y + c + i * simd::width<T>, sum[i]);
    }
  }
  for (Index j = 0; j < x.rows() && c < x.cols(); ++j) {
    simd::add_scaled(p[j], x.row(j) + c, y + c, x.cols() - c);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::cpu
