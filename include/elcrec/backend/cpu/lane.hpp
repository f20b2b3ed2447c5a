#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "elcrec/backend/cpu/dropout_factors.hpp"
#include "elcrec/backend/cpu/gemm.hpp"
#include "elcrec/backend/cpu/item_index.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/gram_positions.hpp"
#include "elcrec/backend/reference/lane.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The operations of ReferenceLane with the ones that cost time replaced by vectorised code; those that are inherited
/// move memory at its speed already. What an operation does is documented there. One lane belongs to one thread at a
/// time.
template <class T>
class CpuLane : public ReferenceLane<T> {
  using Base = ReferenceLane<T>;
  using V = simd::Pack<T>;
  static constexpr Index width = simd::width<T>;
  static constexpr Index row_registers = 64 / width;  // of a row of the usual D = 64

 public:
  using Base::workspace;
  using ItemIndex = elcrec::ItemIndex<T>;
  using typename Base::In;
  using typename Base::Out;

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  void add_dot(double a, In x, In y, double* sum) const {
    double total = 0;
    for (Index r = 0; r < x.rows(); ++r) {
      total += static_cast<double>(simd::dot(x.row(r), y.row(r), x.cols()));
    }
    *sum += a * total;
  }

  void scale_rows(In factors, Out x) const {
    for (Index r = 0; r < x.rows(); ++r) {
      scale_row(factors(0, r), x.row(r), x.cols());
    }
  }

  void row_dots(In x, In y, Out dots) const {
    for (Index r = 0; r < x.rows(); ++r) {
      dots(0, r) = simd::dot(x.row(r), y.row(r), x.cols());
    }
  }

  // ---- products -------------------------------------------------------------------------------------------------

  void multiply_nt(In x, In w, Out y, Write write) {
    if (is_small(y, x.cols())) {
      for (Index m = 0; m < y.rows(); ++m) {
        for (Index n = 0; n < y.cols(); ++n) {
          y(m, n) = (write == Write::add ? y(m, n) : T(0)) + simd::dot(x.row(m), w.row(n), x.cols());
        }
      }
      return;
    }
    multiply({x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, x.cols(), y, write);
  }

  void multiply_nn(In x, In w, Out y, Write write) {
    if (is_small(y, x.cols())) {
      clear_if(write, y);
      for (Index m = 0; m < y.rows(); ++m) {
        for (Index k = 0; k < x.cols(); ++k) {
          simd::add_scaled(x(m, k), w.row(k), y.row(m), y.cols());
        }
      }
      return;
    }
    multiply({x.data(), x.stride(), 1}, {w.data(), 1, w.stride()}, x.cols(), y, write);
  }

  void multiply_tn(In x, In w, Out y, Write write) {
    if (is_small(y, x.rows())) {
      clear_if(write, y);
      for (Index k = 0; k < x.rows(); ++k) {
        for (Index m = 0; m < y.rows(); ++m) {
          simd::add_scaled(x(k, m), w.row(k), y.row(m), y.cols());
        }
      }
      return;
    }
    multiply({x.data(), 1, x.stride()}, {w.data(), 1, w.stride()}, x.rows(), y, write);
  }

  void linear(In x, In w, In b, Out y) {
    if (is_small(y, x.cols())) {
      for (Index t = 0; t < y.rows(); ++t) {
        std::copy_n(b.data(), y.cols(), y.row(t));
      }
      multiply_nt(x, w, y, Write::add);
      return;
    }
    multiply({x.data(), x.stride(), 1}, {w.data(), w.stride(), 1}, x.cols(), y, Write::replace, b.data());
  }

  // ---- encoder --------------------------------------------------------------------------------------------------

  void layer_norm(In x, In gamma, In beta, T eps, Out normalised, Out rstd, Out y) const {
    for (Index t = 0; t < x.rows(); ++t) {
      rstd(0, t) = norm_row(x.row(t), gamma.data(), beta.data(), eps, x.cols(), normalised.row(t), y.row(t));
    }
  }

  void layer_norm_backward(In normalised, In rstd, In gamma, In dy, Out dx, Out dgamma, Out dbeta) const {
    for (Index t = 0; t < dy.rows(); ++t) {
      norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), dx.row(t), dgamma.data(),
                        dbeta.data());
    }
  }

  void add_norm(const TokenView& tokens, const DropoutMask& mask, In x, In b, In residual, In gamma, In beta, T eps,
                Out normalised, Out rstd, Out y) {
    const auto frame = workspace().frame();
    const T* bias = b.data() == nullptr ? zero_row(x.cols()) : b.data();
    for_each_mask_row(tokens, mask, x, [&](Index t, const T* factors) {
      const T* in = x.row(t);
      const T* add = residual.row(t);
      T* sum = normalised.row(t);
      if (x.cols() == row_registers * width) {
        rstd(0, t) = norm_registers(
            [&](Index i) {
              return (simd::load(in + i) + simd::load(bias + i)) * simd::load(factors + i) + simd::load(add + i);
            },
            gamma.data(), beta.data(), eps, sum, y.row(t));
        return;
      }
      simd::each<T>(
          x.cols(),
          [&](Index i) {
            const V v = simd::load(in + i) + simd::load(bias + i);
            simd::store<T>(sum + i, v * simd::load(factors + i) + simd::load(add + i));
          },
          [&](Index i) { sum[i] = (in[i] + bias[i]) * factors[i] + add[i]; });
      rstd(0, t) = norm_row(sum, gamma.data(), beta.data(), eps, x.cols(), sum, y.row(t));
    });
  }

  void add_norm_backward(const TokenView& tokens, const DropoutMask& mask, In normalised, In rstd, In gamma, In dy,
                         Out ds, Out dx, Out dgamma, Out dbeta, Out db) {
    const auto frame = workspace().frame();
    T* dbias = db.data() == nullptr ? zero_row(dy.cols()) : db.data();
    for_each_mask_row(tokens, mask, dy, [&](Index t, const T* factors) {
      T* in = ds.row(t);
      T* out = dx.row(t);
      norm_row_backward(normalised.row(t), rstd(0, t), gamma.data(), dy.row(t), dy.cols(), in, dgamma.data(),
                        dbeta.data());
      simd::each<T>(
          dy.cols(),
          [&](Index i) {
            const V v = simd::load(in + i) * simd::load(factors + i);
            simd::store<T>(out + i, v);
            simd::store<T>(dbias + i, simd::load(dbias + i) + v);
          },
          [&](Index i) {
            out[i] = in[i] * factors[i];
            dbias[i] += out[i];
          });
    });
  }

  void bias_gelu(In x, In b, Out y) const {
    for_each_register(x, [&](auto part, Index t, Index c) {
      V cdf;
      V bell;
      const V v = part.load(x.row(t) + c) + part.load(b.data() + c);
      simd::normal_cdf(v, cdf, bell);
      part.store(y.row(t) + c, v * cdf);
    });
  }

  void bias_gelu_backward(In x, In b, In dy, Out y, Out dx) const {
    const T density = static_cast<T>(0.39894228040143267794);
    for_each_register(x, [&](auto part, Index t, Index c) {
      V cdf;
      V bell;
      const V v = part.load(x.row(t) + c) + part.load(b.data() + c);
      const V d = part.load(dy.row(t) + c);
      simd::normal_cdf(v, cdf, bell);
      part.store(y.row(t) + c, v * cdf);
      part.store(dx.row(t) + c, d * (cdf + v * bell * density));
    });
  }

  void dropout(const TokenView& tokens, const DropoutMask& mask, Out x) {
    if (!mask.active()) {
      return;
    }
    const auto frame = workspace().frame();
    for_each_mask_row(tokens, mask, x, [&](Index t, const T* factors) {
      T* row = x.row(t);
      simd::each<T>(
          x.cols(), [&](Index i) { simd::store<T>(row + i, simd::load(row + i) * simd::load(factors + i)); },
          [&](Index i) { row[i] *= factors[i]; });
    });
  }

  /// Whole tiles of a product, so that rows of scores need no rests.
  [[nodiscard]] static Index key_columns(Index keys) {
    return (keys + gemm::tile_cols<T> - 1) / gemm::tile_cols<T> * gemm::tile_cols<T>;
  }

  void attention(const TokenView& tokens, Index heads, AttentionMask mask, const DropoutMask& dropout, In qkv,
                 Out probabilities, Out context) {
    const Index d = context.cols();
    const Index w = d / heads;
    const T scale = T(1) / std::sqrt(static_cast<T>(w));
    detail::HalfBits half;
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index n = tokens.length(s);
      const auto frame = workspace().frame();
      const Out weights = workspace().template matrix<T>(n, key_columns(n)).slice_cols(0, n);
      const KeyRow keys(*this, tokens, s);
      const In rows = qkv.slice_rows(begin, begin + n);
      for (Index h = 0; h < heads; ++h) {
        const Out p = head_rows(probabilities, begin, n, heads, h);
        multiply_keys(rows.slice_cols(h * w, (h + 1) * w), rows.slice_cols(d + h * w, d + (h + 1) * w), p);
        for (Index i = 0; i < n; ++i) {
          keys.softmax(mask, scale, i, p.row(i));
          apply_dropout(tokens, dropout, half, heads, s, h, i, p.row(i), weights.row(i));
        }
        multiply_nn(weights, rows.slice_cols(2 * d + h * w, 2 * d + (h + 1) * w),
                    context.slice_rows(begin, begin + n).slice_cols(h * w, (h + 1) * w), Write::replace);
      }
    }
  }

  void attention_backward(const TokenView& tokens, Index heads, [[maybe_unused]] AttentionMask mask,
                          const DropoutMask& dropout, In qkv, In probabilities, In dcontext, Out dqkv) {
    const Index d = dcontext.cols();
    const Index w = d / heads;
    const T scale = T(1) / std::sqrt(static_cast<T>(w));
    detail::HalfBits half;
    for (Index s = 0; s < tokens.sequences(); ++s) {
      const Index begin = tokens.begin(s);
      const Index n = tokens.length(s);
      const auto frame = workspace().frame();
      const Out weights = workspace().template matrix<T>(n, key_columns(n)).slice_cols(0, n);
      const Out padded_ds = workspace().template matrix<T>(n, key_columns(n));
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
          apply_dropout(tokens, dropout, half, heads, s, h, i, p.row(i), weights.row(i));
          // weights = p ∘ factor, so Σ p factor dp = weights·dp and p factor dp - p Σ... needs no factor of its own.
          const T mean = simd::dot(weights.row(i), g, n);
          const T* wi = weights.row(i);
          const T* pi = p.row(i);
          simd::each<T>(
              n,
              [&](Index j) {
                simd::store<T>(g + j, scale * (simd::load(wi + j) * simd::load(g + j) - simd::load(pi + j) * mean));
              },
              [&](Index j) { g[j] = scale * (wi[j] * g[j] - pi[j] * mean); });
        }
        multiply_tn(weights, dc, block(drows, 2), Write::replace);
        multiply_nn(ds, block(rows, 1), block(drows, 0), Write::replace);
        multiply_tn(ds, block(rows, 0), block(drows, 1), Write::replace);
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
      const auto frame = workspace().frame();
      const KeyRow keys(*this, tokens, s);
      T* const p = workspace().template array<T>(key_columns(n)).data();
      const In rows = x.slice_rows(begin, begin + n);
      for (Index first = 0; first < queries.cols(); first += d) {
        const T* const query = queries.row(s) + first;
        simd::each<T>(
            n,
            [&](Index j) {
              simd::store<T>(p + j, simd::dot_rows(
                                        query, [&](Index i) { return rows.row(j + i); }, d));
            },
            [&](Index j) { p[j] = simd::dot(query, rows.row(j), d); });
        keys.softmax(AttentionMask::bidirectional, scale, n - 1, p);
        add_weighted_rows(p, rows, sums.row(s) + first);
      }
    }
  }

  // ---- pooling and rows -----------------------------------------------------------------------------------------

  void nearest(In x, In centers, std::span<std::int32_t> ids) {
    const auto frame = workspace().frame();
    const Index k = centers.rows();
    const auto squares = workspace().template array<T>(k);
    for (Index j = 0; j < k; ++j) {
      squares[static_cast<std::size_t>(j)] = simd::dot(centers.row(j), centers.row(j), centers.cols());
    }
    // In blocks of both, so that memory does not grow with K.
    constexpr Index block = 64;
    constexpr Index center_block = 512;
    const Out products = workspace().template matrix<T>(block, (std::min)(center_block, k));
    std::array<T, block> smallest;
    for (Index r0 = 0; r0 < x.rows(); r0 += block) {
      const Index r1 = (std::min)(x.rows(), r0 + block);
      smallest.fill((std::numeric_limits<T>::max)());
      for (Index j0 = 0; j0 < k; j0 += center_block) {
        const Index j1 = (std::min)(k, j0 + center_block);
        const Out part = products.slice_rows(0, r1 - r0).slice_cols(0, j1 - j0);
        multiply_nt(x.slice_rows(r0, r1), centers.slice_rows(j0, j1), part, Write::replace);
        for (Index r = r0; r < r1; ++r) {
          const auto [distance, id] = nearest_of(squares.data() + j0, part.row(r - r0), j1 - j0);
          T& best = smallest[static_cast<std::size_t>(r - r0)];
          if (distance < best || j0 == 0) {
            best = distance;
            ids[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(j0 + id);
          }
        }
      }
    }
  }

  // ---- losses ---------------------------------------------------------------------------------------------------

  void exponentials(Out z, Out largest, Out sum) const {
    for (Index r = 0; r < z.rows(); ++r) {
      const auto found = exponentials(z.row(r), z.cols(), T(1));
      largest(0, r) = found.largest;
      sum(0, r) = found.sum;
    }
  }

  void info_nce(std::span<const std::int32_t> labels, T temperature, T weight, Index i0, Index i1, Out s,
                Out loss) const {
    const Index half = s.cols() / 2;
    for (Index i = i0; i < i1; ++i) {
      const Index positive = (i + half) % s.cols();
      T* z = s.row(i);
      const T at_positive = z[positive] / temperature;
      z[i] = never;
      if (!labels.empty()) {
        const std::int32_t mine = labels[static_cast<std::size_t>(i % half)];
        for (Index j = 0; j < s.cols(); ++j) {
          if (j != positive && labels[static_cast<std::size_t>(j % half)] == mine) {
            z[j] = never;
          }
        }
      }
      const auto [largest, sum] = exponentials(z, s.cols(), T(1) / temperature);
      loss(0, i) = std::log(sum) + largest - at_positive;
      scale_row(weight / (temperature * sum), z, s.cols());
      z[positive] -= weight / temperature;
    }
  }

  void add_transposed(In s, Index i0, Index i1, Out g) {
    for_each_transposed(s.slice_cols(i0, i1), [&](Index i, Index j0, Index j1, const T* column) {
      const T* row = s.row(i0 + i) + j0;
      T* to = g.row(i) + j0;
      simd::each<T>(
          j1 - j0, [&](Index j) { simd::store<T>(to + j, simd::load(row + j) + simd::load(column + j)); },
          [&](Index j) { to[j] = row[j] + column[j]; });
    });
  }

  void gram(const GramIndex& index, In z, Index i0, Index i1, Index j0, Index j1, Out s) {
    const Out tile{s.row(i0) + j0, i1 - i0, j1 - j0, s.stride()};
    if (index.dense) {
      const In flat = detail::flat_samples(index, z);
      multiply_nt(flat.slice_rows(i0, i1), flat.slice_rows(j0, j1), tile, Write::replace);
    } else {
      this->fill(tile, T(0));
      detail::for_each_position(index, i0, i1, j0, j1, 0, index.positions, [&](auto is, auto it, auto js, auto jt) {
        const auto frame = workspace().frame();
        const Out zi = gathered(z, it);
        const Out zj = gathered(z, jt);
        const Out products = workspace().template matrix<T>(zi.rows(), zj.rows());
        multiply_nt(zi, zj, products, Write::replace);
        for (Index a = 0; a < products.rows(); ++a) {
          T* row = s.row(is[static_cast<std::size_t>(a)]);
          for (Index b = 0; b < products.cols(); ++b) {
            row[js[static_cast<std::size_t>(b)]] += products(a, b);
          }
        }
      });
    }
    if (i0 != j0) {
      mirror(tile, Out{s.row(j0) + i0, j1 - j0, i1 - i0, s.stride()});
    }
  }

  void gram_backward(const GramIndex& index, In g, In z, Index i0, Index i1, Index p0, Index p1, Write write, Out dz) {
    if (index.dense) {
      const auto columns = [&](auto view) {
        return detail::flat_samples(index, view).slice_cols(p0 * z.cols(), p1 * z.cols());
      };
      multiply_nn(g.slice_rows(i0, i1), columns(z), columns(dz).slice_rows(i0, i1), write);
      return;
    }
    detail::for_each_position(index, i0, i1, 0, index.samples, p0, p1, [&](auto is, auto it, auto js, auto jt) {
      const auto frame = workspace().frame();
      const Out zj = gathered(z, jt);
      const Out gij = workspace().template matrix<T>(ssize(is), ssize(js));
      for (Index a = 0; a < gij.rows(); ++a) {
        const T* row = g.row(is[static_cast<std::size_t>(a)]);
        for (Index b = 0; b < gij.cols(); ++b) {
          gij(a, b) = row[js[static_cast<std::size_t>(b)]];
        }
      }
      const Out result = workspace().template matrix<T>(gij.rows(), z.cols());
      multiply_nn(gij, zj, result, Write::replace);
      for (Index a = 0; a < result.rows(); ++a) {
        T* row = dz.row(it[static_cast<std::size_t>(a)]);
        if (write == Write::add) {
          simd::add_scaled(T(1), result.row(a), row, z.cols());
        } else {
          std::copy_n(result.row(a), z.cols(), row);
        }
      }
    });
  }

  // ---- optimizer ------------------------------------------------------------------------------------------------

  void adam(const AdamStep& step, std::span<const AdamSlot<T>> slots, Index first, Index last) const {
    for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { update(step, part); });
  }

  void adam_rows(const AdamStep& step, std::span<const std::int32_t> ids, Out p, In g, Out m, Out v) const {
    Base::for_each_row_of(ids, [&](auto row) { update(step, {row(p), row(g), row(m), row(v), true}); });
  }

  // ---- ranking --------------------------------------------------------------------------------------------------

  void rank_targets(const RankingRule& rule, In queries, In table, std::span<const ItemId> targets,
                    std::span<const std::int32_t> offsets, std::span<const ItemId> seen, std::span<Index> ranks) {
    using Seen = RankingRule::Seen;
    constexpr Index block = 512;
    const auto frame = workspace().frame();
    const Index users = ssize(targets);
    const auto at_target = workspace().template array<T>(users);
    const auto next_seen = workspace().template array<std::int32_t>(users);
    const Out scores = workspace().template matrix<T>(users, block);
    {
      // By the same product as the candidates' scores, so that an item equal to the target scores the same to the bit.
      const auto target_frame = workspace().frame();
      const Out rows = workspace().template matrix<T>(users, table.cols());
      const Out products = workspace().template matrix<T>(users, users);
      this->gather_rows(table, targets, rows, Write::replace);
      score(queries, rows, products);
      for (std::size_t u = 0; u < targets.size(); ++u) {
        at_target[u] = products(static_cast<Index>(u), static_cast<Index>(u));
      }
    }
    for (std::size_t u = 0; u < targets.size(); ++u) {
      const auto mine =
          seen.subspan(static_cast<std::size_t>(offsets[u]), static_cast<std::size_t>(offsets[u + 1] - offsets[u]));
      if (rule.seen == Seen::zero && std::binary_search(mine.begin(), mine.end(), targets[u])) {
        at_target[u] = 0;
      }
      next_seen[u] = first_seen(rule, seen, offsets, static_cast<Index>(u));
      ranks[u] = 0;
    }
    for (Index v0 = rule.first; v0 < rule.last; v0 += block) {
      const Index v1 = std::min<Index>(rule.last, v0 + block);
      const Out part = scores.slice_cols(0, v1 - v0);
      score(queries, table.slice_rows(v0, v1), part);
      for (std::size_t u = 0; u < targets.size(); ++u) {
        T* row = part.row(static_cast<Index>(u));
        for (auto& at = next_seen[u]; at < offsets[u + 1] && seen[static_cast<std::size_t>(at)] < v1; ++at) {
          if (rule.seen != Seen::keep) {
            row[seen[static_cast<std::size_t>(at)] - v0] = rule.seen == Seen::zero ? T(0) : never;
          }
        }
        if (targets[u] >= v0 && targets[u] < v1) {
          row[targets[u] - v0] = never;
        }
        // Equal scores count before the target and not behind it.
        const Index before = std::clamp<Index>(targets[u] - v0, 0, v1 - v0);
        ranks[u] += count_from(row, before, at_target[u]) + count_above(row + before, v1 - v0 - before, at_target[u]);
      }
    }
  }

  template <class Element>
  void top_k(const RankingRule& rule, In queries, MatrixView<const Element> table,
             std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Out scores, std::span<ItemId> items,
             std::span<Index> found) {
    using Seen = RankingRule::Seen;
    constexpr Index block = 256;
    constexpr Index few = 4;  // queries that do not pay for a product with repacked rows
    const Index users = queries.rows();
    const Index k = scores.cols();
    const auto frame = workspace().frame();
    const auto next_seen = workspace().template array<std::int32_t>(users);
    const Out part = workspace().template matrix<T>(users, block);
    const Index room = 2 * k + 32;
    const auto candidates = workspace().template array<Candidate>(users * room);
    const auto best = workspace().template array<Best>(users);
    for (std::size_t u = 0; u < next_seen.size(); ++u) {
      best[u] = {slice(candidates, static_cast<Index>(u) * room, static_cast<Index>(u + 1) * room), k};
      next_seen[u] = first_seen(rule, seen, offsets, static_cast<Index>(u));
    }
    for (Index v0 = rule.first; v0 < rule.last && k > 0; v0 += block) {
      const Index v1 = std::min<Index>(rule.last, v0 + block);
      const auto rows = table.slice_rows(v0, v1);
      if (users < few) {
        for (Index u = 0; u < users; ++u) {
          score_rows(queries.row(u), rows, part.row(u));
        }
      } else {
        score(queries, rows, part.slice_cols(0, v1 - v0));
      }
      for (Index u = 0; u < users; ++u) {
        const auto at = static_cast<std::size_t>(u);
        T* row = part.row(u);
        for (auto& next = next_seen[at]; next < offsets[at + 1] && seen[static_cast<std::size_t>(next)] < v1; ++next) {
          if (rule.seen != Seen::keep) {
            row[seen[static_cast<std::size_t>(next)] - v0] = rule.seen == Seen::zero ? T(0) : never;
          }
        }
        best[at].offer(row, v0, v1);
      }
    }
    for (Index u = 0; u < users; ++u) {
      const auto kept = best[static_cast<std::size_t>(u)].sorted();
      found[static_cast<std::size_t>(u)] = ssize(kept);
      for (Index i = 0; i < ssize(kept); ++i) {
        scores(u, i) = kept[static_cast<std::size_t>(i)].score;
        items[static_cast<std::size_t>(u * k + i)] = kept[static_cast<std::size_t>(i)].item;
      }
    }
  }

  /// top_k of a table by way of its index: the same items and scores, whatever the number of queries, at an eighth of
  /// the arithmetic and a quarter of the bytes. Every candidate that the index cannot rule out is scored exactly; a
  /// query with very many of them, or one that is not finite, falls back to the whole table.
  void top_k(const RankingRule& rule, In queries, In table, const ItemIndex& index,
             std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Out scores, std::span<ItemId> items,
             std::span<Index> found) {
    const Index k = scores.cols();
    if (!index.usable() || k == 0) {
      top_k(rule, queries, table, offsets, seen, scores, items, found);
      return;
    }
    using detail::Shortlist;
    constexpr Index at_once = 4;               // queries
    constexpr Index block = Shortlist::block;  // items whose bytes stay in L1 while the queries pass by
    constexpr Index stretch = 16384;           // items that are seen before the first of them is taken in
    const Index users = queries.rows();
    const Index room = 8 * k + 2048;
    const Index vectors = index.pairs() * simd::register_bytes;
    const auto frame = workspace().frame();
    const auto bytes = workspace().template array<std::int8_t>(users * vectors);
    const auto prepared = workspace().template array<typename ItemIndex::Query>(users);
    const auto entries = workspace().template array<Shortlist::Entry>(users * room);
    const Index subsets = Shortlist::subsets(k);
    const auto best_of_subsets = workspace().template array<std::int16_t>(users * subsets);
    const auto lists = workspace().template array<Shortlist>(users);
    const auto next_seen = workspace().template array<std::int32_t>(users);
    const Index first_item = rule.first / ItemIndex::group * ItemIndex::group;
    const Index width_of_stretch = (std::min)(stretch, (rule.last - first_item + block - 1) / block * block);
    const Index leaders_of_stretch = width_of_stretch / Shortlist::of_leader;
    const auto part = workspace().template array<std::int16_t>(users * width_of_stretch);
    const auto leaders = workspace().template array<std::int16_t>(users * leaders_of_stretch);
    for (Index u = 0; u < users; ++u) {
      const auto at = static_cast<std::size_t>(u);
      prepared[at] = index.prepare(queries.row(u), bytes.data() + u * vectors);
      lists[at] = {slice(entries, u * room, (u + 1) * room), slice(best_of_subsets, u * subsets, (u + 1) * subsets), k,
                   prepared[at].margin};
      next_seen[at] = first_seen(rule, seen, offsets, u);
    }
    for (Index s0 = first_item; s0 < rule.last; s0 += stretch) {
      const Index s1 = std::min<Index>(rule.last, s0 + stretch);
      const auto row_of = [&](Index u) { return part.data() + u * width_of_stretch; };
      const auto leaders_of = [&](Index u) { return leaders.data() + u * leaders_of_stretch; };
      for (Index v0 = s0; v0 < s1; v0 += block) {
        const Index v1 = (std::min)(s1, v0 + block);
        const Index groups = (v1 - v0 + ItemIndex::group - 1) / ItemIndex::group;
        for (Index u = 0; u < users;) {  // four at a time, a rest one by one
          const auto* q = prepared.data() + u;
          std::int16_t* to = row_of(u) + (v0 - s0);
          if (users - u >= at_once) {
            detail::score_run<at_once>(index, q, v0 / ItemIndex::group, groups, to, width_of_stretch);
            u += at_once;
          } else {
            detail::score_run<1>(index, q, v0 / ItemIndex::group, groups, to, width_of_stretch);
            ++u;
          }
        }
        for (Index u = 0; u < users; ++u) {
          const auto at = static_cast<std::size_t>(u);
          std::int16_t* row = row_of(u) + (v0 - s0);
          constexpr std::int16_t no_score = (std::numeric_limits<std::int16_t>::min)();
          std::fill(row, row + std::clamp<Index>(rule.first - v0, 0, v1 - v0), no_score);
          std::fill(row + (v1 - v0), row + block, no_score);
          for (auto& next = next_seen[at]; next < offsets[at + 1] && seen[static_cast<std::size_t>(next)] < v1;
               ++next) {
            if (rule.seen != RankingRule::Seen::keep) {
              row[seen[static_cast<std::size_t>(next)] - v0] = rule.seen == RankingRule::Seen::zero ? 0 : no_score;
            }
          }
          lists[at].see(row, leaders_of(u) + (v0 - s0) / Shortlist::of_leader);
        }
      }
      for (Index u = 0; u < users; ++u) {
        lists[static_cast<std::size_t>(u)].take(row_of(u), leaders_of(u), s0, (s1 - s0 + block - 1) / block);
      }
    }
    detail::Shortlist::Candidates next;
    const auto begin = [&](Index u) {  // one query ahead, so that rows are on their way meanwhile
      if (u < users) {
        next = lists[static_cast<std::size_t>(u)].candidates();
        prefetch_rows(table, next.sure);
      }
    };
    begin(0);
    for (Index u = 0; u < users; ++u) {
      const auto& list = lists[static_cast<std::size_t>(u)];
      const auto candidates = next;
      begin(u + 1);
      const auto user_frame = workspace().frame();
      const auto one = [u](auto view) { return view.slice_rows(u, u + 1); };
      const auto ranked = slice(items, u * k, (u + 1) * k);
      if (list.overflowed() || !prepared[static_cast<std::size_t>(u)].finite()) {
        top_k(rule, one(queries), table, offsets.subspan(static_cast<std::size_t>(u), 2), seen, one(scores), ranked,
              slice(found, u, u + 1));
        continue;
      }
      const auto mine = rule.seen == RankingRule::Seen::zero ? slice(seen, offsets[static_cast<std::size_t>(u)],
                                                                     offsets[static_cast<std::size_t>(u) + 1])
                                                             : std::span<const ItemId>{};
      const auto best =
          score_candidates(queries.row(u), table, candidates, prepared[static_cast<std::size_t>(u)], mine, k);
      found[static_cast<std::size_t>(u)] = ssize(best);
      for (Index i = 0; i < ssize(best); ++i) {
        scores(u, i) = best[static_cast<std::size_t>(i)].score;
        ranked[static_cast<std::size_t>(i)] = best[static_cast<std::size_t>(i)].item;
      }
    }
  }

 private:
  /// f(c, r0, r1, values) with m(r, c) for r in [r0, r1), side by side, for all columns c and blocks of rows.
  template <class F>
  void for_each_transposed(In m, F f) {
    constexpr Index nr = gemm::tile_cols<T>;
    const auto frame = workspace().frame();
    const auto block = workspace().template array<T>(nr * m.cols());
    for (Index r0 = 0; r0 < m.rows(); r0 += nr) {
      const Index r1 = (std::min)(m.rows(), r0 + nr);
      gemm::detail::transpose(m.row(r0), m.stride(), r1 - r0, m.cols(), block.data());
      for (Index c = 0; c < m.cols(); ++c) {
        f(c, r0, r1, block.data() + c * nr);
      }
    }
  }

  /// to (N, M) = from (M, N)ᵀ
  void mirror(In from, Out to) {
    for_each_transposed(
        from, [&](Index c, Index r0, Index r1, const T* values) { std::copy_n(values, r1 - r0, to.row(c) + r0); });
  }

  /// Below this many multiplications repacking costs more than it gains.
  static bool is_small(Out y, Index depth) { return y.rows() < 4 || y.size() * depth < 8192; }

  void clear_if(Write write, Out y) const {
    if (write == Write::replace) {
      this->fill(y, T(0));
    }
  }

  void multiply(gemm::Operand<T> a, gemm::Operand<T> b, Index depth, Out y, Write write, const T* bias = nullptr) {
    multiply(a, b, y.cols(), depth, y, write, bias);
  }
  void multiply(gemm::Operand<T> a, gemm::Operand<T> b, Index b_cols, Index depth, Out y, Write write, const T* bias) {
    const auto frame = workspace().frame();
    gemm::multiply(a, b, b_cols, depth, y, write, bias,
                   workspace().template array<T>(gemm::packed_size<T>(depth, y.cols())).data());
  }

  /// y (N, key_columns(N)) = queries (N, W) · keys (N, W)ᵀ; the columns behind the keys hold anything.
  void multiply_keys(In queries, In keys, Out y) {
    const Index n = keys.rows();
    if (const Out used = y.slice_cols(0, n); is_small(used, keys.cols())) {
      multiply_nt(queries, keys, used, Write::replace);
      return;
    }
    multiply({queries.data(), queries.stride(), 1}, {keys.data(), keys.stride(), 1}, n, keys.cols(), y, Write::replace,
             nullptr);
  }

  /// Rows of a sequence and columns of a head in the probabilities, with their room.
  template <class View>
  static View head_rows(View probabilities, Index begin, Index n, Index heads, Index h) {
    const Index columns = probabilities.cols() / heads;
    return probabilities.slice_rows(begin, begin + n).slice_cols(h * columns, h * columns + key_columns(n));
  }

  /// scores (U, N) = queries (U, D) · rows (N, D)ᵀ, each score by the same sequence of operations whatever U and N are.
  void score(In queries, In rows, Out scores) {
    multiply({queries.data(), queries.stride(), 1}, {rows.data(), rows.stride(), 1}, rows.cols(), scores,
             Write::replace);
  }

  /// The same from rows of another type, which are widened first.
  template <class Element>
  void score(In queries, MatrixView<const Element> rows, Out scores) {
    const auto frame = workspace().frame();
    const Out wide = workspace().template matrix<T>(rows.rows(), rows.cols());
    for (Index v = 0; v < rows.rows(); ++v) {
      const Element* from = rows.row(v);
      T* to = wide.row(v);
      const Index whole = rows.cols() / width * width;
      for (Index c = 0; c < whole; c += width) {
        simd::store<T>(to + c, simd::load_as<T>(from + c));
      }
      std::copy(from + whole, from + rows.cols(), to + whole);
    }
    score(queries, wide, scores);
  }

  /// scores[v] = query · rows_v; from `width` rows on each by the same sequence of operations.
  template <class Element>
  static void score_rows(const T* query, MatrixView<const Element> rows, T* scores) {
    const Index n = rows.rows();
    for (Index v = 0; n >= width && v < n; v += width) {
      const Index at = (std::min)(v, n - width);  // the last ones again rather than a rest
      simd::store<T>(scores + at, simd::dot_rows(
                                      query, [&](Index i) { return rows.row(at + i); }, rows.cols()));
    }
    for (Index v = 0; v < n && n < width; ++v) {
      T sum = 0;
      for (Index c = 0; c < rows.cols(); ++c) {
        sum += query[c] * static_cast<T>(rows(v, c));
      }
      scores[v] = sum;
    }
  }

  /// Place in `seen` of user u's first item that is not below the rule's.
  static std::int32_t first_seen(const RankingRule& rule, std::span<const ItemId> seen,
                                 std::span<const std::int32_t> offsets, Index u) {
    const auto begin = seen.begin() + offsets[static_cast<std::size_t>(u)];
    const auto end = seen.begin() + offsets[static_cast<std::size_t>(u) + 1];
    return static_cast<std::int32_t>(std::lower_bound(begin, end, rule.first) - seen.begin());
  }

  struct Candidate {
    T score;
    ItemId item;
    bool operator<(const Candidate& other) const {  // better first, the lower id among equals
      return score > other.score || (score == other.score && item < other.item);
    }
  };

  /// The k best of the candidates by their exact scores, best first, in the workspace; the items of `zeroed` score 0.
  /// The sure ones come first: the k-th best of their scores rules out some of the rest, if there is a rest.
  std::span<const Candidate> score_candidates(const T* query, In table, detail::Shortlist::Candidates candidates,
                                              const typename ItemIndex::Query& prepared, std::span<const ItemId> zeroed,
                                              Index k) {
    const Index sure = ssize(candidates.sure);
    assert(sure >= k || candidates.rest.empty());
    const auto exact = workspace().template array<Candidate>(sure + ssize(candidates.rest));
    const auto score_into = [&](std::span<const detail::Shortlist::Entry> part, std::span<Candidate> to) {
      const Index n = ssize(part);
      for (Index first = 0; first < n; first += width) {
        const auto item = [&](Index i) { return part[static_cast<std::size_t>((std::min)(first + i, n - 1))].item; };
        const V values = simd::dot_rows(
            query, [&](Index i) { return table.row(item(i)); }, table.cols());
        for (Index i = 0; i < (std::min)(width, n - first); ++i) {
          const bool is_zero = std::binary_search(zeroed.begin(), zeroed.end(), item(i));
          to[static_cast<std::size_t>(first + i)] = {is_zero ? T(0) : values[i], item(i)};
        }
      }
    };
    score_into(candidates.sure, exact);
    Index count = sure;
    if (sure >= k) {
      const Candidate& kth = exact[static_cast<std::size_t>(k - 1)];
      std::nth_element(exact.begin(), exact.begin() + (k - 1), exact.begin() + sure);
      const double enough = static_cast<double>(kth.score) - prepared.bound;
      const auto enough_or_more = [&](const auto& c) { return c.score * prepared.unit >= enough; };
      const auto rest = slice(candidates.rest, 0, detail::to_front(candidates.rest, enough_or_more));
      const auto scored = slice(exact, sure, sure + ssize(rest));
      prefetch_rows(table, rest);
      score_into(rest, scored);
      const Index better = detail::to_front(scored, [&](const Candidate& c) { return c < kth; });
      std::copy_n(scored.begin(), better, exact.begin() + k);
      count = k + better;
    }
    std::sort(exact.begin(), exact.begin() + count);
    return slice(exact, 0, (std::min)(k, count));
  }

  /// Asks for rows that lie anywhere, all of them before the first is waited for.
  static void prefetch_rows(In table, std::span<const detail::Shortlist::Entry> entries) {
    for (const auto& entry : entries) {
      const auto* row = reinterpret_cast<const char*>(table.row(entry.item));
      for (Index at = 0; at < table.cols() * static_cast<Index>(sizeof(T)); at += 64) {
        __builtin_prefetch(row + at);
      }
    }
  }

  /// The k best of what is offered, items in rising order: whatever beats the k-th best so far is put down, and the
  /// best k are picked when there is no more room. Cheaper than a sorted list by the moves that an insertion takes.
  class Best {
   public:
    Best(std::span<Candidate> room, Index k) : kept_(room), k_(k) {}

    /// The scores of items [v0, v1); a NaN is no candidate.
    void offer(const T* row, Index v0, Index v1) {
      Index v = v0;
      for (; v + width <= v1; v += width) {
        for (auto bits = simd::above(simd::load(row + (v - v0)), threshold_); bits != 0; bits &= bits - 1) {
          const Index i = v + std::countr_zero(bits);
          keep(row[i - v0], i);
        }
      }
      for (; v < v1; ++v) {
        if (row[v - v0] > threshold_) {
          keep(row[v - v0], v);
        }
      }
    }

    std::span<const Candidate> sorted() {
      std::sort(kept_.begin(), kept_.begin() + count_);
      return slice(kept_, 0, (std::min)(count_, k_));
    }

   private:
    void keep(T score, Index item) {
      kept_[static_cast<std::size_t>(count_++)] = {score, static_cast<ItemId>(item)};
      if (count_ == ssize(kept_)) {
        std::nth_element(kept_.begin(), kept_.begin() + (k_ - 1), kept_.end());
        threshold_ = kept_[static_cast<std::size_t>(k_ - 1)].score;
        count_ = k_;
      }
    }

    std::span<Candidate> kept_;
    Index k_;
    Index count_ = 0;
    T threshold_ = never;
  };

  /// Σ over [0, n) of what f gives for a register or for one element.
  template <class F>
  static T sum_of(Index n, F f) {
    V total{};
    T rest = 0;
    simd::each<T>(
        n, [&](Index i) { total += f([i](const T* p) { return simd::load(p + i); }); },
        [&](Index i) { rest += f([i](const T* p) { return p[i]; }); });
    return simd::sum<T>(total) + rest;
  }

  /// x̂ and y of layer_norm for one row of d elements; returns its rstd. hat may be x.
  static T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
    if (d == row_registers * width) {
      return norm_registers([x](Index i) { return simd::load(x + i); }, gamma, beta, eps, hat, y);
    }
    const T mean = sum_of(d, [&](auto at) { return at(x); }) / static_cast<T>(d);
    const T variance = sum_of(d,
                              [&](auto at) {
                                const auto c = at(x) - mean;
                                return c * c;
                              }) /
                       static_cast<T>(d);
    const T r = Base::inverse_deviation(variance, eps);
    simd::each<T>(
        d,
        [&](Index i) {
          const V v = (simd::load(x + i) - mean) * r;
          simd::store<T>(hat + i, v);
          simd::store<T>(y + i, v * simd::load(gamma + i) + simd::load(beta + i));
        },
        [&](Index i) {
          hat[i] = (x[i] - mean) * r;
          y[i] = hat[i] * gamma[i] + beta[i];
        });
    return r;
  }

  /// The same for 64 elements, load(i) being those from i on: they stay in registers between the three passes.
  template <class Load>
  static T norm_registers(Load load, const T* gamma, const T* beta, T eps, T* hat, T* y) {
    constexpr T d = row_registers * width;
    V x[static_cast<std::size_t>(row_registers)];
#pragma GCC unroll 32
    for (Index r = 0; r < row_registers; ++r) {
      x[r] = load(r * width);
    }
    const T mean = simd::sum<T>(total<row_registers>([&](Index r) { return x[r]; })) / d;
    const T variance = simd::sum<T>(total<row_registers>([&](Index r) { return (x[r] - mean) * (x[r] - mean); })) / d;
    const T r = Base::inverse_deviation(variance, eps);
#pragma GCC unroll 32
    for (Index i = 0; i < row_registers; ++i) {
      const V v = (x[i] - mean) * r;
      simd::store<T>(hat + i * width, v);
      simd::store<T>(y + i * width, v * simd::load(gamma + i * width) + simd::load(beta + i * width));
    }
    return r;
  }

  /// f(0) + ... + f(Count - 1), as a tree: a chain of additions would wait for each one.
  template <Index Count, class F>
  static V total(F f, Index first = 0) {
    if constexpr (Count == 1) {
      return f(first);
    } else {
      return total<Count / 2>(f, first) + total<Count - Count / 2>(f, first + Count / 2);
    }
  }

  /// layer_norm_backward for one row of d elements. dx may be dy.
  static void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
    T mean_g;
    T mean_gx;
    if (d == row_registers * width) {
      const auto at = [](const T* p, Index k) { return simd::load(p + k * width); };
      mean_g = simd::sum<T>(total<row_registers>([&](Index k) { return at(dy, k) * at(gamma, k); }));
      mean_gx = simd::sum<T>(total<row_registers>([&](Index k) { return at(dy, k) * at(gamma, k) * at(hat, k); }));
    } else {
      mean_g = sum_of(d, [&](auto at) { return at(dy) * at(gamma); });
      mean_gx = sum_of(d, [&](auto at) { return at(dy) * at(gamma) * at(hat); });
    }
    mean_g /= static_cast<T>(d);
    mean_gx /= static_cast<T>(d);
    simd::each<T>(
        d,
        [&](Index i) {
          const V v = simd::load(dy + i);
          const V h = simd::load(hat + i);
          simd::store<T>(dgamma + i, simd::load(dgamma + i) + v * h);
          simd::store<T>(dbeta + i, simd::load(dbeta + i) + v);
          simd::store<T>(dx + i, r * (v * simd::load(gamma + i) - mean_g - h * mean_gx));
        },
        [&](Index i) {
          const T v = dy[i];
          dgamma[i] += v * hat[i];
          dbeta[i] += v;
          dx[i] = r * (v * gamma[i] - mean_g - hat[i] * mean_gx);
        });
  }

  /// f(t, what the elements of row t of x are multiplied by), for every row.
  template <class F>
  void for_each_mask_row(const TokenView& tokens, const DropoutMask& mask, In x, F f) {
    T* factors = factor_row(x.cols());
    if (!mask.active()) {
      std::fill_n(factors, x.cols(), T(1));
      for (Index t = 0; t < x.rows(); ++t) {
        f(t, factors);
      }
      return;
    }
    detail::HalfBits half;
    for (Index s = 0; s < tokens.sequences(); ++s) {
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        detail::dropout_factors(mask, tokens.random_row(s, t), x.cols(), 0, x.cols(), half, factors);
        f(t, factors);
      }
    }
  }

  static void update(const AdamStep& step, const AdamSlot<T>& slot) {
    const auto [b1, b2, rate, root, eps, kept] = AdamFactors<T>(step);
    const T keep = slot.decays ? kept : T(1);
    const Index whole = ssize(slot.p) / width * width;
    for (Index i = 0; i < whole; i += width) {
      const V g = simd::load(slot.g.data() + i);
      const V m = b1 * simd::load(slot.m.data() + i) + (T(1) - b1) * g;
      const V v = b2 * simd::load(slot.v.data() + i) + (T(1) - b2) * g * g;
      simd::store<T>(slot.m.data() + i, m);
      simd::store<T>(slot.v.data() + i, v);
      simd::store<T>(slot.p.data() + i, keep * simd::load(slot.p.data() + i) - rate * m / (simd::sqrt(v) * root + eps));
    }
    Base::update(step, slot.part(whole, ssize(slot.p)));
  }

  /// A whole register in memory, or the first elements of one.
  struct WholeRegister {
    static V load(const T* p) { return simd::load(p); }
    static void store(T* p, V v) { simd::store<T>(p, v); }
  };
  struct PartOfRegister {
    Index n;
    V load(const T* p) const {
      V v{};
      std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(T));
      return v;
    }
    void store(T* p, V v) const { std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(T)); }
  };

  /// f(part, row, first column) for the registers that cover a matrix shaped like x; `part` loads and stores.
  template <class F>
  static void for_each_register(In x, F f) {
    for (Index t = 0; t < x.rows(); ++t) {
      Index c = 0;
      for (; c + width <= x.cols(); c += width) {
        f(WholeRegister{}, t, c);
      }
      if (c < x.cols()) {
        f(PartOfRegister{x.cols() - c}, t, c);
      }
    }
  }

  static void scale_row(T a, T* z, Index n) {
    simd::each<T>(
        n, [&](Index i) { simd::store<T>(z + i, a * simd::load(z + i)); }, [&](Index i) { z[i] *= a; });
  }

  static T maximum(const T* z, Index n) {
    V best = simd::broadcast(never);
    T single = never;
    simd::each<T>(
        n,
        [&](Index i) {
          const V v = simd::load(z + i);
          best = v > best ? v : best;
        },
        [&](Index i) { single = (std::max)(single, z[i]); });
    return (std::max)(single, simd::maximum<T>(best));
  }

  struct LargestAndSum {
    T largest;
    T sum;
  };

  /// z = exp(a z - max(a z)); returns the maximum of a z and the sum of the exponentials.
  static LargestAndSum exponentials(T* z, Index n, T a) {
    const T largest = a * maximum(z, n);
    V total{};
    T rest = 0;
    simd::each<T>(
        n,
        [&](Index i) {
          const V e = simd::exp(a * simd::load(z + i) - largest);
          simd::store<T>(z + i, e);
          total += e;
        },
        [&](Index i) {
          z[i] = std::exp(a * z[i] - largest);
          rest += z[i];
        });
    return {largest, simd::sum<T>(total) + rest};
  }

  /// The least of squares_j - 2 products_j and its j, the lowest among equals.
  static std::pair<T, Index> nearest_of(const T* squares, const T* products, Index k) {
    V best = simd::broadcast((std::numeric_limits<T>::max)());
    V where{};  // register number of each lane's best
    T number = 0;
    Index j = 0;
    for (; j + width <= k; j += width, number += 1) {
      const V distance = simd::load(squares + j) - 2 * simd::load(products + j);
      where = distance < best ? simd::broadcast(number) : where;
      best = distance < best ? distance : best;
    }
    T smallest = (std::numeric_limits<T>::max)();
    Index id = 0;
    for (Index i = 0; i < width && i < j; ++i) {
      const Index candidate = static_cast<Index>(where[i]) * width + i;
      if (best[i] < smallest || (best[i] == smallest && candidate < id)) {
        smallest = best[i];
        id = candidate;
      }
    }
    for (; j < k; ++j) {
      if (const T distance = squares[j] - 2 * products[j]; distance < smallest) {
        smallest = distance;
        id = j;
      }
    }
    return {smallest, id};
  }

  /// y += Σ_j p_j x_j
  static void add_weighted_rows(const T* p, In x, T* y) {
    constexpr Index strip = 4;  // registers, so that a p_j is loaded once for as many products
    Index c = 0;
    for (; c + strip * width <= x.cols(); c += strip * width) {
      V sum[strip];
      for (Index i = 0; i < strip; ++i) {
        sum[i] = simd::load(y + c + i * width);
      }
      for (Index j = 0; j < x.rows(); ++j) {
        const V factor = simd::broadcast(p[j]);
        for (Index i = 0; i < strip; ++i) {
          sum[i] += factor * simd::load(x.row(j) + c + i * width);
        }
      }
      for (Index i = 0; i < strip; ++i) {
        simd::store<T>(y + c + i * width, sum[i]);
      }
    }
    for (Index j = 0; j < x.rows() && c < x.cols(); ++j) {
      simd::add_scaled(p[j], x.row(j) + c, y + c, x.cols() - c);
    }
  }

  /// Below every score: what is no candidate has it. Not -infinity, with which -ffast-math compares as it likes.
  static constexpr T never = std::numeric_limits<T>::lowest();

  static Index count_from(const T* row, Index n, T threshold) {
    Index count = 0;
    for (Index i = 0; i < n; ++i) {
      count += row[i] >= threshold ? 1 : 0;
    }
    return count;
  }
  static Index count_above(const T* row, Index n, T threshold) {
    Index count = 0;
    for (Index i = 0; i < n; ++i) {
      count += row[i] > threshold ? 1 : 0;
    }
    return count;
  }

  /// Room for dropout_factors of `columns` elements.
  T* zero_row(Index columns) {
    const auto row = workspace().template array<T>(columns);
    std::fill(row.begin(), row.end(), T(0));
    return row.data();
  }

  T* factor_row(Index columns) { return workspace().template array<T>((columns + 63) / 64 * 64).data(); }

  /// Which tokens of a sequence may be keys, prepared once for all its queries and heads. Rows of scores have room for
  /// whole registers.
  class KeyRow {
   public:
    KeyRow(CpuLane& lane, const TokenView& tokens, Index s)
        : n_(tokens.length(s)), padded_((n_ + width - 1) / width * width), first_real_(n_) {
      every_ = lane.workspace().template array<T>(padded_).data();
      real_ = lane.workspace().template array<T>(padded_).data();
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
      const V hidden = simd::broadcast(never);
      V largest = hidden;
      for (Index j = 0; j < keys; j += width) {
        const V v = simd::load(order + j) < limit ? simd::load(p + j) : hidden;
        largest = v > largest ? v : largest;
      }
      const T shift = simd::maximum<T>(largest);
      V total{};
      for (Index j = 0; j < keys; j += width) {
        // A selection, not a product: the exponential may be infinite where a key is hidden.
        const V e = simd::exp(scale * (simd::load(p + j) - shift));
        const V seen = simd::load(order + j) < limit ? e : V{};
        simd::store<T>(p + j, seen);
        total += seen;
      }
      const T inverse = T(1) / simd::sum<T>(total);
      for (Index j = 0; j < padded_; j += width) {
        simd::store<T>(p + j, j < keys ? simd::load(p + j) * inverse : V{});
      }
    }

   private:
    Index n_;
    Index padded_;
    Index first_real_;
    T* every_;  // j for every key, the largest number behind them
    T* real_;   // the same, with that number for item 0 too
  };

  /// weights_j = p_j times the dropout factor of (query i, key j) of head h.
  void apply_dropout(const TokenView& tokens, const DropoutMask& dropout, detail::HalfBits& half, Index heads, Index s,
                     Index h, Index i, const T* p, T* weights) {
    const Index n = tokens.length(s);
    if (!dropout.active() || n == 0) {
      std::copy_n(p, n, weights);
      return;
    }
    const auto frame = workspace().frame();
    const Index columns = DropoutMask::head_columns(tokens.max_length);
    const Index begin = tokens.begin(s);
    const Index first = tokens.position(begin) / DropoutMask::group_columns * DropoutMask::group_columns;
    const Index count = tokens.position(begin + n - 1) + 1 - first;
    T* factors = factor_row(count);
    detail::dropout_factors(dropout, tokens.random_row(s, begin + i), heads * columns, h * columns + first, count, half,
                            factors);
    if (count - (tokens.position(begin) - first) == n) {  // no gaps between the positions
      const T* next = factors + tokens.position(begin) - first;
      simd::each<T>(
          n, [&](Index j) { simd::store<T>(weights + j, simd::load(p + j) * simd::load(next + j)); },
          [&](Index j) { weights[j] = p[j] * next[j]; });
      return;
    }
    for (Index j = 0; j < n; ++j) {
      weights[j] = p[j] * factors[tokens.position(begin + j) - first];
    }
  }

  Out gathered(In z, std::span<const std::int32_t> tokens) {
    const Out rows = workspace().template matrix<T>(ssize(tokens), z.cols());
    this->gather_rows(z, tokens, rows, Write::replace);
    return rows;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
