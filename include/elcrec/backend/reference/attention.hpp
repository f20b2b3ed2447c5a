#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

inline bool visible(const TokenView& tokens, AttentionMask mask, Index i, Index j) {
  return tokens.item(j) != padding_item && (mask == AttentionMask::bidirectional || j <= i);
}

inline bool has_visible_key(const TokenView& tokens, AttentionMask mask, Index begin, Index end, Index i) {
  for (Index j = begin; j < end; ++j) {
    if (visible(tokens, mask, i, j)) {
      return true;
    }
  }
  return false;
}

template <class T>
T keep_factor(const TokenView& tokens, const DropoutMask& mask, Index heads, Index s, Index h, Index i, Index j) {
  if (!mask.active()) {
    return T(1);
  }
  const Index columns = DropoutMask::head_columns(tokens.max_length);
  const bool kept = mask.keeps(tokens.random_row(s, i), h * columns + tokens.position(j), heads * columns);
  return kept ? static_cast<T>(mask.scale()) : T(0);
}

template <class F>
void for_each_query(const TokenView& tokens, Index heads, F f) {
  for (Index s = 0; s < tokens.sequences(); ++s) {
    for (Index h = 0; h < heads; ++h) {
      for (Index i = tokens.begin(s); i < tokens.end(s); ++i) {
        f(s, h, tokens.begin(s), tokens.end(s), i);
      }
    }
  }
}

}  // namespace reference

/// Multi-head attention within each sequence. qkv (T, 3D) holds queries, keys, values side by side, head h in
/// columns h·D/H of each. p = softmax_j(q_i·k_j / sqrt(D/H)) over the visible keys, context_i = Σ_j dropout(p_ij)
/// v_j. probabilities (T, H·C) keeps p (without dropout), key j of head h in column h·C + j, C at least
/// key_columns(longest). A query with no visible key attends to its whole sequence: what adding -10000 to every score
/// amounts to.
template <class T>
void attention(ReferenceLane<T>& lane, const TokenView& tokens, Index heads, AttentionMask mask,
               const DropoutMask& dropout, Input<T> qkv, Output<T> probabilities, Output<T> context) {
  const Index d = context.cols();
  const Index width = d / heads;
  const T factor = T(1) / std::sqrt(static_cast<T>(width));
  lane.fill(context, T(0));
  reference::for_each_query(tokens, heads, [&](Index s, Index h, Index begin, Index end, Index i) {
    const T* q = qkv.row(i) + h * width;
    T* p = probabilities.row(i) + h * (probabilities.cols() / heads);
    const bool any = reference::has_visible_key(tokens, mask, begin, end, i);
    T largest = std::numeric_limits<T>::lowest();
    for (Index j = begin; j < end; ++j) {
      p[j - begin] = std::numeric_limits<T>::lowest();
      if (!any || reference::visible(tokens, mask, i, j)) {
        p[j - begin] = factor * reference::dot(q, qkv.row(j) + d + h * width, width);
        largest = (std::max)(largest, p[j - begin]);
      }
    }
    T sum = 0;
    for (Index j = 0; j < end - begin; ++j) {
      p[j] = std::exp(p[j] - largest);
      sum += p[j];
    }
    for (Index j = begin; j < end; ++j) {
      p[j - begin] /= sum;
      const T weight = p[j - begin] * reference::keep_factor<T>(tokens, dropout, heads, s, h, i, j);
      for (Index c = 0; c < width; ++c) {
        context(i, h * width + c) += weight * qkv(j, 2 * d + h * width + c);
      }
    }
  });
}

/// dqkv (T, 3D) from dcontext (T, D); replaced.
template <class T>
void attention_backward(ReferenceLane<T>& lane, const TokenView& tokens, Index heads,
                        [[maybe_unused]] AttentionMask mask, const DropoutMask& dropout, Input<T> qkv,
                        Input<T> probabilities, Input<T> dcontext, Output<T> dqkv) {
  const Index d = dcontext.cols();
  const Index width = d / heads;
  const T factor = T(1) / std::sqrt(static_cast<T>(width));
  lane.fill(dqkv, T(0));
  reference::for_each_query(tokens, heads, [&](Index s, Index h, Index begin, Index end, Index i) {
    const T* p = probabilities.row(i) + h * (probabilities.cols() / heads);
    const T* dc = dcontext.row(i) + h * width;
    const auto dp = [&](Index j) {
      return reference::keep_factor<T>(tokens, dropout, heads, s, h, i, j) *
             reference::dot(dc, qkv.row(j) + 2 * d + h * width, width);
    };
    T mean = 0;
    for (Index j = begin; j < end; ++j) {
      mean += p[j - begin] * dp(j);
    }
    for (Index j = begin; j < end; ++j) {
      const T ds = factor * p[j - begin] * (dp(j) - mean);
      const T weight = p[j - begin] * reference::keep_factor<T>(tokens, dropout, heads, s, h, i, j);
      for (Index c = h * width; c < (h + 1) * width; ++c) {
        dqkv(i, c) += ds * qkv(j, d + c);
        dqkv(j, d + c) += ds * qkv(i, c);
        dqkv(j, 2 * d + c) += weight * dcontext(i, c);
      }
    }
  });
}

/// Attention of one query for each sequence and head over the sequence's tokens, which see as the last query of
/// `attention` does. queries (S, H·D), x (T, D) -> sums (S, H·D); of each head, with p = softmax(scale q·x_j),
/// Σ_j p_j x_j. 0 for a sequence without tokens.
template <class T>
void last_attention(ReferenceLane<T>& lane, const TokenView& tokens, std::type_identity_t<T> scale, Input<T> queries,
                    Input<T> x, Output<T> sums) {
  const Index d = x.cols();
  lane.fill(sums, T(0));
  for (Index s = 0; s < tokens.sequences(); ++s) {
    const Index begin = tokens.begin(s);
    const Index end = tokens.end(s);
    if (begin == end) {
      continue;
    }
    const bool any = reference::has_visible_key(tokens, AttentionMask::bidirectional, begin, end, end - 1);
    const auto frame = lane.workspace().frame();
    const auto p = lane.workspace().template array<T>(end - begin);
    for (Index first = 0; first < queries.cols(); first += d) {
      T largest = std::numeric_limits<T>::lowest();
      for (Index j = begin; j < end; ++j) {
        T& score = p[static_cast<std::size_t>(j - begin)];
        const bool seen = !any || tokens.item(j) != padding_item;
        score = seen ? scale * reference::dot(queries.row(s) + first, x.row(j), d) : std::numeric_limits<T>::lowest();
        largest = (std::max)(largest, score);
      }
      T sum = 0;
      for (auto& score : p) {
        score = std::exp(score - largest);
        sum += score;
      }
      for (Index j = begin; j < end; ++j) {
        const T weight = p[static_cast<std::size_t>(j - begin)] / sum;
        for (Index c = 0; c < d; ++c) {
          sums(s, first + c) += weight * x(j, c);
        }
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
