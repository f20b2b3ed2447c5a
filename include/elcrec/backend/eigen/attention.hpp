#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "elcrec/backend/eigen/dropout.hpp"
#include "elcrec/backend/eigen/tile_product.hpp"
#include "elcrec/core/dropout_mask.hpp"
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

/// On top of Products and Dropout.
template <class Base>
class Attention : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  /// Whole tiles of a product, so that rows of scores need no rests.
  [[nodiscard]] static Index key_columns(Index keys) { return (keys + tile_cols<T> - 1) / tile_cols<T> * tile_cols<T>; }

  void attention(const TokenView& tokens, Index heads, AttentionMask mask, const DropoutMask& dropout, In qkv,
                 Out probabilities, Out context) {
    const Index d = context.cols();
    const Index w = d / heads;
    const T scale = T(1) / std::sqrt(static_cast<T>(w));
    DropoutFactors<T> factors(dropout);
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index n = tokens.length(s);
      const auto frame = this->workspace().frame();
      const Out weights = this->workspace().template matrix<T>(n, n);
      const KeyRow<T> keys(this->workspace(), tokens, s);
      const In rows = qkv.slice_rows(begin, begin + n);
      for (Index h = 0; h < heads; ++h) {
        const Out p = head_rows(probabilities, begin, n, heads, h);
        multiply_keys(rows.slice_cols(h * w, (h + 1) * w), rows.slice_cols(d + h * w, d + (h + 1) * w), p);
        for (Index i = 0; i < n; ++i) {
          keys.softmax(mask, scale, i, p.row(i));
          apply_dropout(tokens, dropout, factors, heads, s, h, i, p.row(i), weights.row(i));
        }
        this->multiply_nn(weights, rows.slice_cols(2 * d + h * w, 2 * d + (h + 1) * w),
                          context.slice_rows(begin, begin + n).slice_cols(h * w, (h + 1) * w), Write::replace);
      }
    }
  }

  void attention_backward(const TokenView& tokens, Index heads, [[maybe_unused]] AttentionMask mask,
                          const DropoutMask& dropout, In qkv, In probabilities, In dcontext, Out dqkv) {
    const Index d = dcontext.cols();
    const Index w = d / heads;
    const T scale = T(1) / std::sqrt(static_cast<T>(w));
    DropoutFactors<T> factors(dropout);
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index n = tokens.length(s);
      const auto frame = this->workspace().frame();
      const Out weights = this->workspace().template matrix<T>(n, n);
      const Out padded_ds = this->workspace().template matrix<T>(n, key_columns(n));
      const Out ds = padded_ds.slice_cols(0, n);
      const In rows = qkv.slice_rows(begin, begin + n);
      const Out drows = dqkv.slice_rows(begin, begin + n);
      for (Index h = 0; h < heads; ++h) {
        const In p = head_rows(probabilities, begin, n, heads, h);
        const In dc = dcontext.slice_rows(begin, begin + n).slice_cols(h * w, (h + 1) * w);
        const auto block = [&](auto view, Index part) {
          return view.slice_cols(part * d + h * w, part * d + (h + 1) * w);
        };
        multiply_keys(dc, block(rows, 2), padded_ds);
        for (Index i = 0; i < n; ++i) {
          T* g = ds.row(i);
          T* wi = weights.row(i);
          const T* pi = p.row(i);
          apply_dropout(tokens, dropout, factors, heads, s, h, i, pi, wi);
          // weights = p ∘ factor, so Σ p factor dp = weights·dp.
          const T mean = dot<T>(wi, g, n);
          each<T>(n, [&](auto at) { at(g) = scale * (at(wi) * at(g) - at(pi) * mean); });
        }
        this->multiply_tn(weights, dc, block(drows, 2), Write::replace);
        this->multiply_nn(ds, block(rows, 1), block(drows, 0), Write::replace);
        this->multiply_tn(ds, block(rows, 0), block(drows, 1), Write::replace);
      }
    }
  }

  void last_attention(const TokenView& tokens, T scale, In queries, In x, Out sums) {
    const Index d = x.cols();
    this->fill(sums, T(0));
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index n = tokens.length(s);
      if (n == 0) {
        continue;
      }
      const auto frame = this->workspace().frame();
      const KeyRow<T> keys(this->workspace(), tokens, s);
      T* const p = this->workspace().template array<T>(key_columns(n)).data();
      for (Index first = 0; first < queries.cols(); first += d) {
        for (Index j = 0; j < n; ++j) {
          p[j] = dot(queries.row(s) + first, x.row(begin + j), d);
        }
        keys.softmax(AttentionMask::bidirectional, scale, n - 1, p);
        for (Index j = 0; j < n; ++j) {
          eigen::add_scaled(p[j], x.row(begin + j), sums.row(s) + first, d);
        }
      }
    }
  }

 private:
  /// y (N, key_columns(N)) = queries (N, W) · keys (N, W)ᵀ; the columns behind the keys hold anything.
  void multiply_keys(In queries, In keys, Out y) {
    const Index n = keys.rows();
    if (const Out used = y.slice_cols(0, n); Base::is_small(used, keys.cols())) {
      this->multiply_nt(queries, keys, used, Write::replace);
    } else {
      this->multiply({queries.data(), queries.stride(), 1}, {keys.data(), keys.stride(), 1}, n, keys.cols(), y,
                     Write::replace);
    }
  }

  /// Rows of a sequence and columns of a head in the probabilities, with their room.
  template <class View>
  static View head_rows(View probabilities, Index begin, Index n, Index heads, Index h) {
    const Index columns = probabilities.cols() / heads;
    return probabilities.slice_rows(begin, begin + n).slice_cols(h * columns, h * columns + key_columns(n));
  }

  /// weights_j = p_j times the dropout factor of (query i, key j) of head h.
  void apply_dropout(const TokenView& tokens, const DropoutMask& dropout, DropoutFactors<T>& source, Index heads,
                     Index s, Index h, Index i, const T* p, T* weights) {
    const Index n = tokens.length(s);
    if (!dropout.active()) {
      std::copy_n(p, n, weights);
      return;
    }
    const auto frame = this->workspace().frame();
    const Index columns = DropoutMask::head_columns(tokens.max_length);
    const Index begin = tokens.begin(s);
    const Index first = tokens.position(begin) / DropoutMask::group_columns * DropoutMask::group_columns;
    const Index count = tokens.position(begin + n - 1) + 1 - first;
    T* factors = this->factor_row(count);
    source.row(tokens.random_row(s, begin + i), heads * columns, h * columns + first, count, factors);
    const Index skipped = tokens.position(begin) - first;
    if (count - skipped == n) {  // no gaps between the positions
      each<T>(n, [&](auto at) { at(weights) = at(p) * at(factors + skipped); });
      return;
    }
    for (Index j = 0; j < n; ++j) {
      weights[j] = p[j] * factors[tokens.position(begin + j) - first];
    }
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
