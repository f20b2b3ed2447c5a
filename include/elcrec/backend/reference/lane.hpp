#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>

#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/core/workspace.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Every operation of the Backend concept as the plain loop that defines it. The Cpu backend replaces the hot ones and
/// is tested against these; read them as the specification. Shapes: T tokens, S sequences, D columns, V table rows.
///
/// An operation reads its `In` arguments, writes its `Out` arguments, keeps nothing, and throws nothing; inputs and
/// outputs may not overlap unless a comment says so.
template <class T>
class ReferenceLane {
 public:
  using Scalar = T;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;
  using Bytes = HostBuffer<std::byte>;
  using Workspace = elcrec::Workspace<Bytes>;

  [[nodiscard]] static Workspace make_workspace() {
    return Workspace(
        [](std::size_t bytes) { return Bytes(static_cast<Index>(bytes), typename Bytes::Uninitialised{}); });
  }

  /// Scratch memory of this lane.
  [[nodiscard]] Workspace& workspace() { return workspace_; }

  // ---- between host and backend memory --------------------------------------------------------------------------

  /// A batch or an array in backend memory, valid as long as both the host's and the frame of the workspace last: here,
  /// the caller's own.
  [[nodiscard]] static TokenView stage(const TokenView& host) { return host; }
  template <class U>
  [[nodiscard]] static std::span<const U> stage(std::span<const U> host) {
    return host;
  }

  /// Copies backend memory to the host, when all that was asked of the lane before is done.
  template <class U>
  static void read(std::span<const U> from, std::span<std::type_identity_t<U>> to) {
    std::copy(from.begin(), from.end(), to.begin());
  }

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  /// x = value
  void fill(Out x, T value) const {
    for_each_row(x, [&](T* row) { std::fill_n(row, x.cols(), value); });
  }

  /// Every element of every matrix = 0
  void clear(std::span<const Out> list) const {
    for (const Out x : list) {
      fill(x, T(0));
    }
  }

  /// y = x
  void copy(In x, Out y) const {
    for (Index r = 0; r < x.rows(); ++r) {
      std::copy_n(x.row(r), x.cols(), y.row(r));
    }
  }

  /// x *= a
  void scale(T a, Out x) const {
    for_each_row(x, [&](T* row) { std::transform(row, row + x.cols(), row, [&](T v) { return a * v; }); });
  }

  /// y += a x
  void add_scaled(T a, In x, Out y) const {
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index c = 0; c < x.cols(); ++c) {
        y(r, c) += a * x(r, c);
      }
    }
  }

  /// y_r += a row, for every row r; row is (1, D)
  void add_row(T a, In row, Out y) const {
    for (Index r = 0; r < y.rows(); ++r) {
      for (Index c = 0; c < y.cols(); ++c) {
        y(r, c) += a * row(0, c);
      }
    }
  }

  /// x_r *= factors_r; factors is (1, R)
  void scale_rows(In factors, Out x) const {
    for (Index r = 0; r < x.rows(); ++r) {
      scale(factors(0, r), x.slice_rows(r, r + 1));
    }
  }

  /// dots_r (1, R) = x_r·y_r
  void row_dots(In x, In y, Out dots) const {
    for (Index r = 0; r < x.rows(); ++r) {
      dots(0, r) = dot(x.row(r), y.row(r), x.cols());
    }
  }

  /// *sum += a <x, y>, summed in double
  void add_dot(double a, In x, In y, double* sum) const {
    double dot = 0;
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index c = 0; c < x.cols(); ++c) {
        dot += static_cast<double>(x(r, c)) * static_cast<double>(y(r, c));
      }
    }
    *sum += a * dot;
  }

  /// *sum += a Σ x, summed in double
  void add_sum(double a, In x, double* sum) const {
    double total = 0;
    for (Index r = 0; r < x.rows(); ++r) {
      for (Index c = 0; c < x.cols(); ++c) {
        total += static_cast<double>(x(r, c));
      }
    }
    *sum += a * total;
  }

  /// mean (1, D) of the rows of x; of no rows it is 0
  void column_mean(In x, Out mean) const {
    fill(mean, T(0));
    for (Index r = 0; r < x.rows(); ++r) {
      add_scaled(T(1) / static_cast<T>(x.rows()), x.slice_rows(r, r + 1), mean);
    }
  }

  // ---- products -------------------------------------------------------------------------------------------------

  /// y (M, N) = or += x (M, K) · w (N, K)ᵀ
  void multiply_nt(In x, In w, Out y, Write write) const {
    product(x.rows(), w.rows(), x.cols(), y, write, [&](Index m, Index n, Index k) { return x(m, k) * w(n, k); });
  }

  /// y (M, N) = or += x (M, K) · w (K, N)
  void multiply_nn(In x, In w, Out y, Write write) const {
    product(x.rows(), w.cols(), x.cols(), y, write, [&](Index m, Index n, Index k) { return x(m, k) * w(k, n); });
  }

  /// y (M, N) = or += x (K, M)ᵀ · w (K, N)
  void multiply_tn(In x, In w, Out y, Write write) const {
    product(x.cols(), w.cols(), x.rows(), y, write, [&](Index m, Index n, Index k) { return x(k, m) * w(k, n); });
  }

  /// y (T, O) = x (T, I) · w (O, I)ᵀ + b (1, O)
  void linear(In x, In w, In b, Out y) const {
    for (Index t = 0; t < y.rows(); ++t) {
      std::copy_n(b.data(), y.cols(), y.row(t));
    }
    multiply_nt(x, w, y, Write::add);
  }

  /// db (1, D) += Σ_t dy_t
  void add_column_sum(In dy, Out db) const {
    for (Index t = 0; t < dy.rows(); ++t) {
      add_scaled(T(1), dy.slice_rows(t, t + 1), db);
    }
  }

  // ---- encoder --------------------------------------------------------------------------------------------------

  /// y_t = table[item_t] + positions[position_t]
  void embed(const TokenView& tokens, In table, In positions, Out y) const {
    for (Index t = 0; t < tokens.tokens(); ++t) {
      for (Index c = 0; c < y.cols(); ++c) {
        y(t, c) = table(tokens.item(t), c) + positions(tokens.position(t), c);
      }
    }
  }

  /// dpositions[position_t] += dy_t
  void position_gradient(const TokenView& tokens, In dy, Out dpositions) const {
    for (Index t = 0; t < tokens.tokens(); ++t) {
      const Index p = tokens.position(t);
      add_scaled(T(1), dy.slice_rows(t, t + 1), dpositions.slice_rows(p, p + 1));
    }
  }

  /// y = x̂ ∘ gamma + beta with x̂ = (x - mean) rstd, rstd = 1 / sqrt(var + eps), var biased; x̂ (T, D) and rstd (1, T)
  /// are kept for the backward pass. x̂ may be x.
  /// A row without variance, as dropout makes them, gets rstd 0: x̂ is 0 either way, and so is its gradient, where
  /// 1 / sqrt(eps) would make it a million times what arrived and eight layers of such rows infinite.
  void layer_norm(In x, In gamma, In beta, T eps, Out normalised, Out rstd, Out y) const {
    const T d = static_cast<T>(x.cols());
    for (Index t = 0; t < x.rows(); ++t) {
      T mean = 0;
      for (Index c = 0; c < x.cols(); ++c) {
        mean += x(t, c) / d;
      }
      T variance = 0;
      for (Index c = 0; c < x.cols(); ++c) {
        variance += (x(t, c) - mean) * (x(t, c) - mean) / d;
      }
      rstd(0, t) = inverse_deviation(variance, eps);
      for (Index c = 0; c < x.cols(); ++c) {
        normalised(t, c) = (x(t, c) - mean) * rstd(0, t);
        y(t, c) = normalised(t, c) * gamma(0, c) + beta(0, c);
      }
    }
  }

  /// With g = dy ∘ gamma: dx = rstd (g - mean(g) - x̂ mean(g ∘ x̂)); dgamma += Σ dy ∘ x̂; dbeta += Σ dy. dx may be dy.
  void layer_norm_backward(In normalised, In rstd, In gamma, In dy, Out dx, Out dgamma, Out dbeta) const {
    const T d = static_cast<T>(dy.cols());
    for (Index t = 0; t < dy.rows(); ++t) {
      T mean_g = 0;
      T mean_gx = 0;
      for (Index c = 0; c < dy.cols(); ++c) {
        const T g = dy(t, c) * gamma(0, c);
        mean_g += g / d;
        mean_gx += g * normalised(t, c) / d;
        dgamma(0, c) += dy(t, c) * normalised(t, c);
        dbeta(0, c) += dy(t, c);
      }
      for (Index c = 0; c < dy.cols(); ++c) {
        dx(t, c) = rstd(0, t) * (dy(t, c) * gamma(0, c) - mean_g - normalised(t, c) * mean_gx);
      }
    }
  }

  /// A sublayer's output joined with its input: s = residual + dropout(x + b) and the layer norm of s; without a bias
  /// where b has no memory. x and residual (T, D). The tokens are read only if the mask is active.
  void add_norm(const TokenView& tokens, const DropoutMask& mask, In x, In b, In residual, In gamma, In beta, T eps,
                Out normalised, Out rstd, Out y) const {
    copy(x, normalised);
    if (b.data() != nullptr) {
      add_row(T(1), b, normalised);
    }
    dropout(tokens, mask, normalised);
    add_scaled(T(1), residual, normalised);
    layer_norm(normalised, gamma, beta, eps, normalised, rstd, y);
  }

  /// ds, which may be dy, as layer_norm_backward's dx: it is the gradient of the residual too. dx = mask ∘ ds / (1 -
  /// rate); db += Σ dx, where it has memory.
  void add_norm_backward(const TokenView& tokens, const DropoutMask& mask, In normalised, In rstd, In gamma, In dy,
                         Out ds, Out dx, Out dgamma, Out dbeta, Out db) const {
    layer_norm_backward(normalised, rstd, gamma, dy, ds, dgamma, dbeta);
    copy(ds, dx);
    dropout(tokens, mask, dx);
    if (db.data() != nullptr) {
      add_column_sum(dx, db);
    }
  }

  /// y = v Φ(v) of v = x + b, Φ the standard normal distribution function (exact, by erf)
  void bias_gelu(In x, In b, Out y) const {
    for (Index t = 0; t < x.rows(); ++t) {
      for (Index c = 0; c < x.cols(); ++c) {
        const T v = x(t, c) + b(0, c);
        y(t, c) = v * normal_cdf(v);
      }
    }
  }

  /// y = bias_gelu(x, b) again, and dx = dy (Φ(v) + v φ(v)). dx may be dy.
  void bias_gelu_backward(In x, In b, In dy, Out y, Out dx) const {
    const T density = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
    for (Index t = 0; t < x.rows(); ++t) {
      for (Index c = 0; c < x.cols(); ++c) {
        const T v = x(t, c) + b(0, c);
        const T cdf = normal_cdf(v);
        y(t, c) = v * cdf;
        dx(t, c) = dy(t, c) * (cdf + v * density * std::exp(-v * v / 2));
      }
    }
  }

  /// x = mask ∘ x / (1 - rate), in place; its own backward pass
  void dropout(const TokenView& tokens, const DropoutMask& mask, Out x) const {
    if (!mask.active()) {
      return;
    }
    for (Index s = 0; s < tokens.sequences(); ++s) {
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        for (Index c = 0; c < x.cols(); ++c) {
          const bool kept = mask.keeps(tokens.random_row(s, t), c, x.cols());
          x(t, c) = kept ? x(t, c) * static_cast<T>(mask.scale()) : T(0);
        }
      }
    }
  }

  /// Columns that the probabilities of one head take where no sequence has more than `keys` tokens.
  [[nodiscard]] static Index key_columns(Index keys) { return keys; }

  /// Multi-head attention within each sequence. qkv (T, 3D) holds queries, keys, values side by side, head h in
  /// columns h·D/H of each. p = softmax_j(q_i·k_j / sqrt(D/H)) over the visible keys, context_i = Σ_j dropout(p_ij)
  /// v_j. probabilities (T, H·C) keeps p (without dropout), key j of head h in column h·C + j, C at least
  /// key_columns(longest). A query with no visible key attends to its whole sequence: what adding -10000 to every score
  /// amounts to.
  void attention(const TokenView& tokens, Index heads, AttentionMask mask, const DropoutMask& dropout, In qkv,
                 Out probabilities, Out context) const {
    const Index d = context.cols();
    const Index width = d / heads;
    const T factor = T(1) / std::sqrt(static_cast<T>(width));
    fill(context, T(0));
    for_each_query(tokens, heads, [&](Index s, Index h, Index begin, Index end, Index i) {
      const T* q = qkv.row(i) + h * width;
      T* p = probabilities.row(i) + h * (probabilities.cols() / heads);
      const bool any = has_visible_key(tokens, mask, begin, end, i);
      T largest = std::numeric_limits<T>::lowest();
      for (Index j = begin; j < end; ++j) {
        p[j - begin] = std::numeric_limits<T>::lowest();
        if (!any || visible(tokens, mask, i, j)) {
          p[j - begin] = factor * dot(q, qkv.row(j) + d + h * width, width);
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
        const T weight = p[j - begin] * keep_factor(tokens, dropout, heads, s, h, i, j);
        for (Index c = 0; c < width; ++c) {
          context(i, h * width + c) += weight * qkv(j, 2 * d + h * width + c);
        }
      }
    });
  }

  /// dqkv (T, 3D) from dcontext (T, D); replaced.
  void attention_backward(const TokenView& tokens, Index heads, [[maybe_unused]] AttentionMask mask,
                          const DropoutMask& dropout, In qkv, In probabilities, In dcontext, Out dqkv) const {
    const Index d = dcontext.cols();
    const Index width = d / heads;
    const T factor = T(1) / std::sqrt(static_cast<T>(width));
    fill(dqkv, T(0));
    for_each_query(tokens, heads, [&](Index s, Index h, Index begin, Index end, Index i) {
      const T* p = probabilities.row(i) + h * (probabilities.cols() / heads);
      const T* dc = dcontext.row(i) + h * width;
      const auto dp = [&](Index j) {
        return keep_factor(tokens, dropout, heads, s, h, i, j) * dot(dc, qkv.row(j) + 2 * d + h * width, width);
      };
      T mean = 0;
      for (Index j = begin; j < end; ++j) {
        mean += p[j - begin] * dp(j);
      }
      for (Index j = begin; j < end; ++j) {
        const T ds = factor * p[j - begin] * (dp(j) - mean);
        const T weight = p[j - begin] * keep_factor(tokens, dropout, heads, s, h, i, j);
        for (Index c = h * width; c < (h + 1) * width; ++c) {
          dqkv(i, c) += ds * qkv(j, d + c);
          dqkv(j, d + c) += ds * qkv(i, c);
          dqkv(j, 2 * d + c) += weight * dcontext(i, c);
        }
      }
    });
  }

  // ---- pooling and rows -----------------------------------------------------------------------------------------

  /// y_s (S, D) = mean of the sequence's tokens; 0 for a sequence without tokens
  void mean_pool(const TokenView& tokens, In x, Out y) const {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      column_mean(x.slice_rows(tokens.begin(s), tokens.end(s)), y.slice_rows(s, s + 1));
    }
  }

  /// dx_t += dy_s / length(s)
  void mean_pool_backward(const TokenView& tokens, In dy, Out dx) const {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const T weight = T(1) / static_cast<T>(std::max<Index>(1, tokens.length(s)));
      add_row(weight, dy.slice_rows(s, s + 1), dx.slice_rows(tokens.begin(s), tokens.end(s)));
    }
  }

  /// y_s (S, D) = the sequence's last token; 0 for a sequence without tokens
  void last_pool(const TokenView& tokens, In x, Out y) const {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      if (tokens.length(s) > 0) {
        copy(x.slice_rows(tokens.end(s) - 1, tokens.end(s)), y.slice_rows(s, s + 1));
      } else {
        fill(y.slice_rows(s, s + 1), T(0));
      }
    }
  }

  /// dx_t += dy_s for the sequence's last token t
  void last_pool_backward(const TokenView& tokens, In dy, Out dx) const {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      if (tokens.length(s) > 0) {
        add_scaled(T(1), dy.slice_rows(s, s + 1), dx.slice_rows(tokens.end(s) - 1, tokens.end(s)));
      }
    }
  }

  /// y_s (S, L·D): token at position p in columns [p·D, (p+1)·D), 0 where there is none
  void concat_pool(const TokenView& tokens, In x, Out y) const {
    fill(y, T(0));
    for_each_token(
        tokens, [&](Index s, Index t) { std::copy_n(x.row(t), x.cols(), y.row(s) + tokens.position(t) * x.cols()); });
  }

  /// dx_t += dy_s[p·D ...]
  void concat_pool_backward(const TokenView& tokens, In dy, Out dx) const {
    for_each_token(tokens, [&](Index s, Index t) {
      const Index first = tokens.position(t) * dx.cols();
      add_scaled(T(1), dy.slice_rows(s, s + 1).slice_cols(first, first + dx.cols()), dx.slice_rows(t, t + 1));
    });
  }

  /// y_s = U Uᵀ x_s for each sequence, where row t of U is the basis' row of the token's position; basis (L, R). y is
  /// not x. O(R D) a token.
  void project_sequences(const TokenView& tokens, In basis, In x, Out y) {
    const auto frame = workspace_.frame();
    const Out amplitudes = workspace_.template matrix<T>(basis.cols(), x.cols());
    for (Index s = 0; s < tokens.sequences(); ++s) {
      fill(amplitudes, T(0));
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        for (Index r = 0; r < basis.cols(); ++r) {
          add_scaled(basis(tokens.position(t), r), x.slice_rows(t, t + 1), amplitudes.slice_rows(r, r + 1));
        }
      }
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        fill(y.slice_rows(t, t + 1), T(0));
        for (Index r = 0; r < basis.cols(); ++r) {
          add_scaled(basis(tokens.position(t), r), amplitudes.slice_rows(r, r + 1), y.slice_rows(t, t + 1));
        }
      }
    }
  }

  /// y_r = x_r / max(|x_r|, 1e-12); norms (1, R) are kept for the backward pass. y may be x.
  void normalize_rows(In x, Out norms, Out y) const {
    for (Index r = 0; r < x.rows(); ++r) {
      norms(0, r) = (std::max)(std::sqrt(dot(x.row(r), x.row(r), x.cols())), T(1e-12));
      for (Index c = 0; c < x.cols(); ++c) {
        y(r, c) = x(r, c) / norms(0, r);
      }
    }
  }

  /// dx_r = (dy_r - y_r (y_r·dy_r)) / norm_r. dx may be dy.
  void normalize_rows_backward(In y, In norms, In dy, Out dx) const {
    for (Index r = 0; r < y.rows(); ++r) {
      const T along = dot(y.row(r), dy.row(r), y.cols());
      for (Index c = 0; c < y.cols(); ++c) {
        dx(r, c) = (dy(r, c) - y(r, c) * along) / norms(0, r);
      }
    }
  }

  /// ids_r = argmin_k |x_r - centers_k|², the lowest k among equals
  void nearest(In x, In centers, std::span<std::int32_t> ids) {
    for (Index r = 0; r < x.rows(); ++r) {
      T best = (std::numeric_limits<T>::max)();
      ids[static_cast<std::size_t>(r)] = 0;
      for (Index k = 0; k < centers.rows(); ++k) {
        const T distance = dot(centers.row(k), centers.row(k), x.cols()) - 2 * dot(x.row(r), centers.row(k), x.cols());
        if (distance < best) {
          best = distance;
          ids[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(k);
        }
      }
    }
  }

  /// y_r = or += table[ids_r]
  void gather_rows(In table, std::span<const std::int32_t> ids, Out y, Write write) const {
    for (Index r = 0; r < y.rows(); ++r) {
      const T* row = table.row(ids[static_cast<std::size_t>(r)]);
      for (Index c = 0; c < y.cols(); ++c) {
        y(r, c) = write == Write::add ? y(r, c) + row[c] : row[c];
      }
    }
  }

  /// out_r = values[ids_r]
  void gather_ids(std::span<const std::int32_t> values, std::span<const std::int32_t> ids,
                  std::span<std::int32_t> out) const {
    std::transform(ids.begin(), ids.end(), out.begin(),
                   [&](std::int32_t id) { return values[static_cast<std::size_t>(id)]; });
  }

  /// y[ids_r] += x_r; with equal ids in the order of r
  void scatter_add_rows(In x, std::span<const std::int32_t> ids, Out y) const {
    for (Index r = 0; r < x.rows(); ++r) {
      const Index to = ids[static_cast<std::size_t>(r)];
      add_scaled(T(1), x.slice_rows(r, r + 1), y.slice_rows(to, to + 1));
    }
  }

  /// out_t = sample_ids_s · L + position_t: rows of a (K·L, D) table that holds one row for each center and position
  void expand_ids(const TokenView& tokens, std::span<const std::int32_t> sample_ids,
                  std::span<std::int32_t> out) const {
    for_each_token(tokens, [&](Index s, Index t) {
      out[static_cast<std::size_t>(t)] =
          static_cast<std::int32_t>(sample_ids[static_cast<std::size_t>(s)] * tokens.max_length + tokens.position(t));
    });
  }

  // ---- losses ---------------------------------------------------------------------------------------------------

  /// Pairwise next-item loss of every token with a target: loss_t (1, T), 0 without a target; d loss / d score times
  /// `weight` in positive_t and negative_t (1, T); dx_t += positive_t table[target] + negative_t table[negative].
  void pairwise_next_item(PairwiseLoss kind, const TokenView& tokens, In x, In table, T weight, Out loss, Out positive,
                          Out negative, Out dx) const {
    for (Index t = 0; t < tokens.tokens(); ++t) {
      const ItemId target = tokens.targets[static_cast<std::size_t>(t)];
      loss(0, t) = positive(0, t) = negative(0, t) = T(0);
      if (target == padding_item) {
        continue;
      }
      const T* pos = table.row(target);
      const T* neg = table.row(tokens.negatives[static_cast<std::size_t>(t)]);
      const T score_pos = dot(x.row(t), pos, x.cols());
      const T score_neg = dot(x.row(t), neg, x.cols());
      if (kind == PairwiseLoss::bce) {
        loss(0, t) = softplus(-score_pos) + softplus(score_neg);
        positive(0, t) = -weight * logistic(-score_pos);
        negative(0, t) = weight * logistic(score_neg);
      } else {
        loss(0, t) = softplus(score_neg - score_pos);
        positive(0, t) = -weight * logistic(score_neg - score_pos);
        negative(0, t) = -positive(0, t);
      }
      for (Index c = 0; c < x.cols(); ++c) {
        dx(t, c) += positive(0, t) * pos[c] + negative(0, t) * neg[c];
      }
    }
  }

  /// Rows of logits z (R, C): largest_r (1, R) = max_c z, z = exp(z - largest_r), sum_r (1, R) = Σ_c z
  void exponentials(Out z, Out largest, Out sum) const {
    for (Index r = 0; r < z.rows(); ++r) {
      largest(0, r) = *std::max_element(z.row(r), z.row(r) + z.cols());
      sum(0, r) = 0;
      for (Index c = 0; c < z.cols(); ++c) {
        z(r, c) = std::exp(z(r, c) - largest(0, r));
        sum(0, r) += z(r, c);
      }
    }
  }

  /// What turns the exponentials of G blocks of logits, each with its own largest and sum (G, R), to weight · softmax:
  /// factors_gr = weight exp(largest_gr - m_r) / Σ_g sum_gr exp(largest_gr - m_r), m_r = max_g largest_gr. And the loss
  /// of the row, logsumexp of all its logits less that of its target, at_target (1, R): loss (1, R).
  void softmax_factors(In largest, In sum, In at_target, T weight, Out factors, Out loss) const {
    for (Index r = 0; r < largest.cols(); ++r) {
      T m = largest(0, r);
      for (Index g = 1; g < largest.rows(); ++g) {
        m = (std::max)(m, largest(g, r));
      }
      T total = 0;
      for (Index g = 0; g < largest.rows(); ++g) {
        factors(g, r) = std::exp(largest(g, r) - m);
        total += sum(g, r) * factors(g, r);
      }
      for (Index g = 0; g < largest.rows(); ++g) {
        factors(g, r) *= weight / total;
      }
      loss(0, r) = std::log(total) + m - at_target(0, r);
    }
  }

  /// Similarities s_ij = Σ_p z_i(p)·z_j(p) of the samples i in [i0, i1) and j in [j0, j1), and their mirror s_ji.
  /// z is (T, D) by token; s is (N, N).
  void gram(const GramIndex& index, In z, Index i0, Index i1, Index j0, Index j1, Out s) {
    for (Index i = i0; i < i1; ++i) {
      std::fill(s.row(i) + j0, s.row(i) + j1, T(0));
    }
    for_each_pair(index, i0, i1, j0, j1, 0, index.positions,
                  [&](Index i, Index t, Index j, Index u) { s(i, j) += dot(z.row(t), z.row(u), z.cols()); });
    mirror(i0, i1, j0, j1, s);
  }

  /// dz_t = or += Σ_j g_ij z_j(p) for every token t of a sample i in [i0, i1) at a position p in [p0, p1). g (N, N)
  void gram_backward(const GramIndex& index, In g, In z, Index i0, Index i1, Index p0, Index p1, Write write, Out dz) {
    if (write == Write::replace) {
      for_each_pair(index, i0, i1, i0, i1, p0, p1,
                    [&](Index, Index t, Index, Index) { fill(dz.slice_rows(t, t + 1), T(0)); });
    }
    for_each_pair(index, i0, i1, 0, index.samples, p0, p1, [&](Index i, Index t, Index j, Index u) {
      add_scaled(g(i, j), z.slice_rows(u, u + 1), dz.slice_rows(t, t + 1));
    });
  }

  /// InfoNCE rows [i0, i1) of the similarities s (N, N) of two views of N/2 samples: row i's positive is (i + N/2) mod
  /// N, its negatives all others but itself and, where labels (N/2) are given, those of its own label. loss_i (1, N) =
  /// logsumexp(logits_i) - logits_i[positive] with logits = s / temperature; s_i becomes weight · d loss_i / d s_i.
  void info_nce(std::span<const std::int32_t> labels, T temperature, T weight, Index i0, Index i1, Out s,
                Out loss) const {
    const Index half = s.cols() / 2;
    const auto label = [&](Index i) { return labels[static_cast<std::size_t>(i % half)]; };
    for (Index i = i0; i < i1; ++i) {
      const Index positive = (i + half) % s.cols();
      T* z = s.row(i);
      T largest = std::numeric_limits<T>::lowest();
      for (Index j = 0; j < s.cols(); ++j) {
        const bool competes = j != i && (labels.empty() || j == positive || label(i) != label(j));
        z[j] = competes ? z[j] / temperature : std::numeric_limits<T>::lowest();
        largest = (std::max)(largest, z[j]);
      }
      const T at_positive = z[positive];
      T sum = 0;
      for (Index j = 0; j < s.cols(); ++j) {
        z[j] = std::exp(z[j] - largest);
        sum += z[j];
      }
      loss(0, i) = std::log(sum) + largest - at_positive;
      for (Index j = 0; j < s.cols(); ++j) {
        z[j] *= weight / (temperature * sum);
      }
      z[positive] -= weight / temperature;
    }
  }

  /// g (i1 - i0, N) = s[i0..i1, :] + s[:, i0..i1]ᵀ
  void add_transposed(In s, Index i0, Index i1, Out g) const {
    for (Index i = i0; i < i1; ++i) {
      for (Index j = 0; j < s.cols(); ++j) {
        g(i - i0, j) = s(i, j) + s(j, i);
      }
    }
  }

  // ---- optimizer ------------------------------------------------------------------------------------------------

  /// Adam on elements [first, last) of the slots laid end to end: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g², then
  /// AdamStep's update.
  void adam(const AdamStep& step, std::span<const AdamSlot<T>> slots, Index first, Index last) const {
    for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { update(step, part); });
  }

  /// adam on the given rows of tables (V, D): values, which decay, gradient, moments.
  void adam_rows(const AdamStep& step, std::span<const std::int32_t> ids, Out p, In g, Out m, Out v) const {
    for_each_row_of(ids, [&](auto row) { update(step, {row(p), row(g), row(m), row(v), true}); });
  }

  // ---- ranking --------------------------------------------------------------------------------------------------

  /// rank_u = how many candidates come before the target of query u: those that score higher, and of those that score
  /// the same the ones with lower ids, as top_k orders them. Scores are to be finite: a NaN comes before nothing.
  /// queries (U, D), table (V, D); query u has seen `seen[offsets[u]] .. seen[offsets[u + 1]]`, ascending, in which the
  /// target counts only under Seen::zero (its score is then 0 too).
  void rank_targets(const RankingRule& rule, In queries, In table, std::span<const ItemId> targets,
                    std::span<const std::int32_t> offsets, std::span<const ItemId> seen, std::span<Index> ranks) {
    for (std::size_t u = 0; u < targets.size(); ++u) {
      const T* q = queries.row(static_cast<Index>(u));
      const auto mine =
          seen.subspan(static_cast<std::size_t>(offsets[u]), static_cast<std::size_t>(offsets[u + 1] - offsets[u]));
      const auto score = [&](ItemId v) {
        const bool zero = rule.seen == RankingRule::Seen::zero && std::binary_search(mine.begin(), mine.end(), v);
        return zero ? T(0) : dot(q, table.row(v), table.cols());
      };
      const T at_target = score(targets[u]);
      const auto before_target = [&](ItemId v) {
        const T at = score(v);
        return at > at_target || (at == at_target && v < targets[u]);
      };
      ranks[u] = 0;
      for (ItemId v = rule.first; v < rule.last; ++v) {
        const bool excluded =
            rule.seen == RankingRule::Seen::exclude && std::binary_search(mine.begin(), mine.end(), v);
        ranks[u] += !excluded && before_target(v) ? 1 : 0;
      }
    }
  }

  /// The k best candidates of every query, best first, lower ids first among equals. queries (U, D), table (V, D) of T
  /// or BFloat16, scores (U, k), items (U · k); found_u is how many there are (fewer than k only if the candidates run
  /// out). Query u has seen `seen[offsets[u]] .. seen[offsets[u + 1]]`, ascending.
  template <class Element>
  void top_k(const RankingRule& rule, In queries, MatrixView<const Element> table,
             std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Out scores, std::span<ItemId> items,
             std::span<Index> found) {
    const Index k = scores.cols();
    for (Index u = 0; u < queries.rows(); ++u) {
      const auto at = static_cast<std::size_t>(u);
      const auto mine = slice(seen, offsets[at], offsets[at + 1]);
      const T* q = queries.row(u);
      found[at] = 0;
      for (ItemId v = rule.first; v < rule.last && k > 0; ++v) {
        const bool is_seen = rule.seen != RankingRule::Seen::keep && std::binary_search(mine.begin(), mine.end(), v);
        if (is_seen && rule.seen == RankingRule::Seen::exclude) {
          continue;
        }
        T score = 0;
        for (Index c = 0; c < table.cols() && !is_seen; ++c) {
          score += q[c] * static_cast<T>(table(v, c));
        }
        insert_best(score, v, std::span(scores.row(u), static_cast<std::size_t>(k)), slice(items, u * k, (u + 1) * k),
                    found[at]);
      }
    }
  }

  /// Attention of one query for each sequence and head over the sequence's tokens, which see as the last query of
  /// `attention` does. queries (S, H·D), x (T, D) -> sums (S, H·D); of each head, with p = softmax(scale q·x_j),
  /// Σ_j p_j x_j. 0 for a sequence without tokens.
  void last_attention(const TokenView& tokens, T scale, In queries, In x, Out sums) {
    const Index d = x.cols();
    fill(sums, T(0));
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index end = tokens.end(s);
      if (begin == end) {
        continue;
      }
      const bool any = has_visible_key(tokens, AttentionMask::bidirectional, begin, end, end - 1);
      const auto frame = workspace().frame();
      const auto p = workspace().template array<T>(end - begin);
      for (Index first = 0; first < queries.cols(); first += d) {
        T largest = std::numeric_limits<T>::lowest();
        for (Index j = begin; j < end; ++j) {
          T& score = p[static_cast<std::size_t>(j - begin)];
          const bool seen = !any || tokens.item(j) != padding_item;
          score = seen ? scale * dot(queries.row(s) + first, x.row(j), d) : std::numeric_limits<T>::lowest();
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

 protected:
  /// f(row), row(table) being the elements of one of the rows.
  template <class F>
  static void for_each_row_of(std::span<const std::int32_t> ids, F f) {
    for (const auto id : ids) {
      f([id](auto table) { return table.slice_rows(id, id + 1).flat(); });
    }
  }

  /// rstd of layer_norm.
  static T inverse_deviation(T variance, T eps) { return variance == T(0) ? T(0) : T(1) / std::sqrt(variance + eps); }

  /// Adam on every element of a slot.
  static void update(const AdamStep& step, const AdamSlot<T>& slot) {
    const auto [b1, b2, rate, root, eps, kept] = AdamFactors<T>(step);
    const T keep = slot.decays ? kept : T(1);
    for (std::size_t i = 0; i < slot.p.size(); ++i) {
      slot.m[i] = b1 * slot.m[i] + (T(1) - b1) * slot.g[i];
      slot.v[i] = b2 * slot.v[i] + (T(1) - b2) * slot.g[i] * slot.g[i];
      slot.p[i] = keep * slot.p[i] - rate * slot.m[i] / (std::sqrt(slot.v[i]) * root + eps);
    }
  }

  static T dot(const T* a, const T* b, Index n) {
    T sum = 0;
    for (Index i = 0; i < n; ++i) {
      sum += a[i] * b[i];
    }
    return sum;
  }

  static T softplus(T x) { return (std::max)(x, T(0)) + std::log1p(std::exp(-std::abs(x))); }
  static T logistic(T x) { return T(1) / (T(1) + std::exp(-x)); }
  static T normal_cdf(T x) { return T(0.5) * std::erfc(-x / std::numbers::sqrt2_v<T>); }

  static bool visible(const TokenView& tokens, AttentionMask mask, Index i, Index j) {
    return tokens.item(j) != padding_item && (mask == AttentionMask::bidirectional || j <= i);
  }

  static bool has_visible_key(const TokenView& tokens, AttentionMask mask, Index begin, Index end, Index i) {
    for (Index j = begin; j < end; ++j) {
      if (visible(tokens, mask, i, j)) {
        return true;
      }
    }
    return false;
  }

  static T keep_factor(const TokenView& tokens, const DropoutMask& mask, Index heads, Index s, Index h, Index i,
                       Index j) {
    if (!mask.active()) {
      return T(1);
    }
    const Index columns = DropoutMask::head_columns(tokens.max_length);
    const bool kept = mask.keeps(tokens.random_row(s, i), h * columns + tokens.position(j), heads * columns);
    return kept ? static_cast<T>(mask.scale()) : T(0);
  }

  /// s[j, i] = s[i, j] for the block [i0, i1) x [j0, j1).
  static void mirror(Index i0, Index i1, Index j0, Index j1, Out s) {
    for (Index j = j0; j < j1; ++j) {
      for (Index i = i0; i < i1; ++i) {
        s(j, i) = s(i, j);
      }
    }
  }

  /// Keeps the `found` best of what was inserted, sorted; ids must come in ascending order.
  static void insert_best(T score, ItemId id, std::span<T> scores, std::span<ItemId> items, Index& found) {
    const Index k = ssize(items);
    if (found == k && !(score > scores[static_cast<std::size_t>(k - 1)])) {
      return;
    }
    Index at = found < k ? found++ : k - 1;
    for (; at > 0 && score > scores[static_cast<std::size_t>(at - 1)]; --at) {
      scores[static_cast<std::size_t>(at)] = scores[static_cast<std::size_t>(at - 1)];
      items[static_cast<std::size_t>(at)] = items[static_cast<std::size_t>(at - 1)];
    }
    scores[static_cast<std::size_t>(at)] = score;
    items[static_cast<std::size_t>(at)] = id;
  }

 private:
  template <class F>
  static void for_each_row(Out x, F f) {
    for (Index r = 0; r < x.rows(); ++r) {
      f(x.row(r));
    }
  }

  template <class F>
  static void for_each_token(const TokenView& tokens, F f) {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        f(s, t);
      }
    }
  }

  template <class F>
  static void for_each_query(const TokenView& tokens, Index heads, F f) {
    for (Index s = 0; s < tokens.sequences(); ++s) {
      for (Index h = 0; h < heads; ++h) {
        for (Index i = tokens.begin(s); i < tokens.end(s); ++i) {
          f(s, h, tokens.begin(s), tokens.end(s), i);
        }
      }
    }
  }

  /// f(i, token of i, j, token of j) for all samples i in [i0, i1) and j in [j0, j1) with a common position in [p0,
  /// p1).
  template <class F>
  static void for_each_pair(const GramIndex& index, Index i0, Index i1, Index j0, Index j1, Index p0, Index p1, F f) {
    for (Index p = p0; p < p1; ++p) {
      if (index.dense) {
        for (Index i = i0; i < i1; ++i) {
          for (Index j = j0; j < j1; ++j) {
            f(i, i * index.positions + p, j, j * index.positions + p);
          }
        }
        continue;
      }
      const auto at = static_cast<std::size_t>(p);
      for (auto a = static_cast<std::size_t>(index.begins[at]); a < static_cast<std::size_t>(index.begins[at + 1]);
           ++a) {
        for (auto b = static_cast<std::size_t>(index.begins[at]); b < static_cast<std::size_t>(index.begins[at + 1]);
             ++b) {
          if (index.sample[a] >= i0 && index.sample[a] < i1 && index.sample[b] >= j0 && index.sample[b] < j1) {
            f(index.sample[a], index.token[a], index.sample[b], index.token[b]);
          }
        }
      }
    }
  }

  template <class F>
  static void product(Index rows, Index cols, Index depth, Out y, Write write, F term) {
    for (Index m = 0; m < rows; ++m) {
      for (Index n = 0; n < cols; ++n) {
        T sum = write == Write::add ? y(m, n) : T(0);
        for (Index k = 0; k < depth; ++k) {
          sum += term(m, n, k);
        }
        y(m, n) = sum;
      }
    }
  }

  Workspace workspace_ = make_workspace();
};

}  // namespace elcrec::inline ELCREC_TARGET
