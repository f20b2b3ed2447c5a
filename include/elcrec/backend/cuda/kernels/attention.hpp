#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/dropout.hpp"
#include "elcrec/backend/cuda/kernels/packs.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/operations.hpp"

/// Multi-head attention within each sequence of a ragged batch, fused: scores, mask, softmax, dropout and the sum over
/// values in one kernel, and its backward pass in another. W = D / H is the width of a head, n the length of a
/// sequence.
///
///   forward   p_ij = softmax_j(q_i·k_j / sqrt(W)), context_i = Σ_j p_ij m_ij v_j, m the dropout factors
///   backward  dp_ij = m_ij dc_i·v_j, ds_ij = p_ij (dp_ij - Σ_j p_ij dp_ij) / sqrt(W),
///             dq_i = Σ_j ds_ij k_j, dk_j = Σ_i ds_ij q_i, dv_j = Σ_i p_ij m_ij dc_i
///
/// A token of a sequence of n (float): forward reads 12 D bytes and writes 4 D + 4 H n for context and p, 4 n D
/// operations; backward reads 16 D + 4 H n (and most of it again, from L2) and writes 12 D, 10 n D operations: dp is
/// computed again rather than kept for its second half. Causal: half of the operations. At n = 50, D = 64, H = 2: 1.4
/// KB and 12.8 kFLOP forward, 2.2 KB and 32 kFLOP backward, so bound by memory and arithmetic about alike.
///
/// A block of 4 warps takes a (sequence, head). Two operands stand in shared memory, row by row: keys and values; in
/// the backward pass values and keys for the gradient of queries, then context gradients and queries for that of keys
/// and values. A warp takes 4 rows of the other operand at a time. Their 4 products with a row in shared memory are one
/// lane's, so an element loaded serves 4 of them, and so they lie side by side, as one pack. Sums over rows in shared
/// memory are a lane's for its columns. Rows have 16 bytes of room behind them (or an odd length, of other widths than
/// 32 and 64), so that the lanes' rows fall into different banks. Sequences that do not fit are taken tile by tile.
/// Shared memory at n = 50, W = 32: 17.6 KB forward, 21 KB backward. Every sum has a fixed order.
namespace elcrec::inline ELCREC_TARGET::cuda {

inline constexpr Index most_attention_keys = 256;
inline constexpr Index most_head_width = 128;

/// What the attention kernels share: how a warp multiplies its 4 rows with rows in shared memory.
template <class T, int Fixed>
struct AttentionTiles {
  static constexpr int rows = 4;  ///< of a warp at a time
  static constexpr int warps_of_block = 4;
  static constexpr int rows_of_block = rows * warps_of_block;
  static constexpr int lane_columns = (Fixed > 0 ? Fixed : static_cast<int>(most_head_width)) / warp_size;
  static constexpr int pack = Fixed > 0 ? pack_width<T> : 1;
  static constexpr std::size_t tile_bytes = std::size_t{64} * 1024;  ///< of the two operands

  using Weights = Pack<T, rows>;  ///< of the 4 rows and one row in shared memory

  /// f(r) for the 4 rows, unrolled, so that what is one row's stays in registers. A sequence's last rows may be fewer:
  /// the others are then its last one again, and nothing is written for them.
  template <class F>
  __device__ static void each_row(F f) {
    ELCREC_UNROLL()
    for (int r = 0; r < rows; ++r) {
      f(r);
    }
  }
  [[nodiscard]] __device__ static int clamp(int i, int n) { return i < n ? i : n - 1; }

  int width;   ///< W
  int stride;  ///< of rows in shared memory
  int tile;    ///< rows in shared memory

  AttentionTiles(Index head_width, Index longest)
      : width(static_cast<int>(head_width)),
        stride(Fixed > 0 ? Fixed + pack_width<T> : width | 1),
        tile(static_cast<int>(
            std::clamp<Index>(static_cast<Index>(tile_bytes / (2 * sizeof(T) * static_cast<std::size_t>(stride))), 1,
                              std::max<Index>(longest, 1)))) {}

  /// Elements of one operand, a multiple of 16 bytes.
  [[nodiscard]] std::size_t operand_size() const {
    return (static_cast<std::size_t>(tile) * static_cast<std::size_t>(stride) + pack_width<T> - 1) / pack_width<T> *
           pack_width<T>;
  }

  /// Rows [first, last) of a sequence in shared memory.
  struct Tile {
    const T* data;
    int stride;
    int first;
    int last;
    [[nodiscard]] __device__ const T* row(int j) const { return data + (j - first) * stride; }
  };

  /// f(tile) for the tiles that cover the n rows of m from `begin` on, columns [column, column + W). They are loaded
  /// unless `loaded` and there is one only. Every thread of the block must call it.
  template <class F>
  __device__ void each_tile(MatrixView<const T> m, int begin, int n, int column, bool loaded, T* shared, F f) const {
    const int row_packs = columns() / pack;
    for (int first = 0; first < n; first += tile) {
      const int count = n - first < tile ? n - first : tile;
      if (!loaded || n > tile) {
        __syncthreads();  // the last tile is used
        for (int i = thread_x(); i < count * row_packs; i += threads_x()) {
          const int r = i / row_packs;
          const int c = i % row_packs * pack;
          store_pack<pack>(shared + r * stride + c, load_pack<pack>(m.row(begin + first + r) + column + c));
        }
        __syncthreads();
      }
      f(Tile{shared, stride, first, first + count});
    }
  }

  /// The products of a row in shared memory with 4 rows.
  [[nodiscard]] __device__ Weights multiply(const T* row, const T* const (&with)[rows]) const {
    Weights sum{};
    ELCREC_UNROLL(2)
    for (int c = 0; c < columns(); c += pack) {
      const auto a = load_pack<pack>(row + c);
      each_row([&](int r) {
        const auto b = load_pack<pack>(with[r] + c);
        for (int e = 0; e < pack; ++e) {
          sum[r] += a[e] * b[e];
        }
      });
    }
    return sum;
  }

  /// Sums over rows in shared memory for 4 rows: of columns lane, lane + 32, ...
  struct Sums {
    T values[lane_columns][rows] = {};
  };

  /// sums_r += Σ_j weights_j[r] row_j over the rows j of the tile in [first, last)
  __device__ void combine(const Weights* weights, const Tile& rows_of_tile, int first, int last, Sums& sums) const {
    first = first < rows_of_tile.first ? rows_of_tile.first : first;
    last = last < rows_of_tile.last ? last : rows_of_tile.last;
    ELCREC_UNROLL()
    for (int m = 0; m < lane_columns; ++m) {
      const int c = lane() + m * warp_size;
      if (c < columns()) {
        for (int j = first; j < last; ++j) {
          const Weights w = weights[j];
          const T v = rows_of_tile.row(j)[c];
          each_row([&](int r) { sums.values[m][r] += w[r] * v; });
        }
      }
    }
  }

  /// Columns [column, column + W) of the rows first + r below `end` = sums_r
  __device__ void store(const Sums& sums, MatrixView<T> to, int first, int end, int column) const {
    ELCREC_UNROLL()
    for (int m = 0; m < lane_columns; ++m) {
      const int c = lane() + m * warp_size;
      if (c < columns()) {
        each_row([&](int r) {
          if (first + r < end) {
            to(first + r, column + c) = sums.values[m][r];
          }
        });
      }
    }
  }

  [[nodiscard]] __device__ int columns() const { return Fixed > 0 ? Fixed : width; }
};

/// Which keys of one sequence a query sees; all numbers count from the sequence's first token.
struct VisibleKeys {
  const ItemId* items;
  int length;
  bool causal;
  int first_real;  ///< the first key that is not item 0, or `length`

  /// Every lane of a warp must call it.
  __device__ VisibleKeys(const DeviceTokens& tokens, int s, bool is_causal)
      : items(tokens.items + tokens.begin(s)), length(tokens.length(s)), causal(is_causal), first_real(length) {
    for (int j = 0; j < length && first_real == length; j += warp_size) {
      const bool real = j + lane() < length && items[j + lane()] != padding_item;
      if (const unsigned found = __ballot_sync(whole_warp, real); found != 0) {
        first_real = j + __ffs(static_cast<int>(found)) - 1;
      }
    }
  }

  /// Whether query i sees any key; if it does not, it attends to all of them.
  [[nodiscard]] __device__ bool any(int i) const { return first_real < (causal ? i + 1 : length); }
  [[nodiscard]] __device__ bool sees(int i, int j) const {
    return !any(i) || (items[j] != padding_item && (!causal || j <= i));
  }
  /// No query in [i, last] sees a key from here on.
  [[nodiscard]] __device__ int limit(int i, int last) const {
    return causal && any(i) && last < length ? last + 1 : length;
  }
  /// No query before this one, from `i` on, sees key j.
  [[nodiscard]] __device__ int first_query(int j) const { return causal && first_real == 0 ? j : 0; }
};

/// Dropout factors of the attention probabilities of one head.
struct ProbabilityDropout {
  DropoutBits bits;
  bool active;
  int head_columns;
  int columns;

  ProbabilityDropout(const DropoutMask& mask, Index heads, Index max_length)
      : bits(mask),
        active(mask.active()),
        head_columns(static_cast<int>(DropoutMask::head_columns(max_length))),
        columns(static_cast<int>(heads) * head_columns) {}

  /// Factor of the key at position `position` for the query whose random row is `row`.
  template <class T>
  [[nodiscard]] __device__ T factor(std::uint64_t row, int head, int position) const {
    if (!active) {
      return T(1);
    }
    return bits.keeps(row, head * head_columns + position, columns) ? static_cast<T>(bits.scale) : T(0);
  }
};

/// What both directions know of a call besides its matrices.
template <class T, int Fixed>
struct AttentionPlan {
  using Tiles = AttentionTiles<T, Fixed>;
  using Weights = typename Tiles::Weights;
  static constexpr int threads = Tiles::warps_of_block * warp_size;
  static constexpr int min_blocks = sizeof(T) == 4 ? 4 : 2;  // 128 or 255 registers

  Tiles tiles;
  DeviceTokens tokens;
  ProbabilityDropout dropout;
  bool causal;
  int heads;
  int longest;
  int operand_size;
  T factor;

  AttentionPlan(const TokenView& batch, Index head_count, Index width, AttentionMask mask, const DropoutMask& bits)
      : tiles(width, batch.longest),
        tokens(batch),
        dropout(bits, head_count, batch.max_length),
        causal(mask == AttentionMask::causal),
        heads(static_cast<int>(head_count)),
        longest(static_cast<int>(batch.longest)),
        operand_size(static_cast<int>(tiles.operand_size())),
        factor(T(1) / std::sqrt(static_cast<T>(width))) {}

  /// Two operands, and for each warp and key of a sequence so many weights and, once, so many numbers.
  [[nodiscard]] std::size_t shared_bytes(int weights, int numbers) const {
    const auto keys = static_cast<std::size_t>(longest);
    return 2 * static_cast<std::size_t>(operand_size) * sizeof(T) +
           keys * (static_cast<std::size_t>(weights * Tiles::warps_of_block) * sizeof(Weights) +
                   static_cast<std::size_t>(numbers) * sizeof(T));
  }

  /// First column of head h in the probabilities.
  [[nodiscard]] __device__ int head_column(MatrixView<const T> probabilities, int h) const {
    return h * static_cast<int>(probabilities.cols() / heads);
  }
};

template <class T, int Fixed>
struct AttentionKernel {
  using Plan = AttentionPlan<T, Fixed>;
  using Tiles = typename Plan::Tiles;
  using Weights = typename Plan::Weights;
  static constexpr int max_threads = Plan::threads;
  static constexpr int min_blocks = Plan::min_blocks;

  Plan plan;
  MatrixView<const T> qkv;
  MatrixView<T> probabilities;
  MatrixView<T> context;

  __device__ void operator()() const {
    const int s = block_x() / plan.heads;
    const int h = block_x() % plan.heads;
    const VisibleKeys keys(plan.tokens, s, plan.causal);
    const int begin = plan.tokens.begin(s);
    const int n = keys.length;
    const int d = static_cast<int>(context.cols());
    const int column = h * plan.tiles.columns();
    T* const key_tile = dynamic_shared<T>();
    T* const value_tile = key_tile + plan.operand_size;
    Weights* const weights = reinterpret_cast<Weights*>(value_tile + plan.operand_size) + warp() * plan.longest;

    for (int round = 0; round < n; round += Tiles::rows_of_block) {
      const int i0 = round + warp() * Tiles::rows;
      const int limit = i0 < n ? keys.limit(i0, i0 + Tiles::rows - 1) : 0;
      const T* queries[Tiles::rows];
      Tiles::each_row([&](int r) { queries[r] = qkv.row(begin + Tiles::clamp(i0 + r, n)) + column; });
      plan.tiles.each_tile(qkv, begin, n, d + column, round > 0, key_tile, [&](const auto& tile) {
        for (int j = tile.first + lane(); j < tile.last && j < limit; j += warp_size) {
          weights[j] = plan.tiles.multiply(tile.row(j), queries);
        }
      });
      __syncwarp();  // lanes take the keys of tiles otherwise than those of the sequence
      softmax(keys, begin, s, h, i0, limit, weights);
      __syncwarp();
      typename Tiles::Sums sums;
      plan.tiles.each_tile(qkv, begin, n, 2 * d + column, round > 0, value_tile,
                           [&](const auto& tile) { plan.tiles.combine(weights, tile, 0, limit, sums); });
      plan.tiles.store(sums, context, begin + i0, begin + n, column);
      __syncwarp();  // the weights are read
    }
  }

  /// Scores of the queries i0 + r and the keys below `limit`, each lane its own keys, become probabilities, which are
  /// kept, times dropout factors.
  __device__ void softmax(const VisibleKeys& keys, int begin, int s, int h, int i0, int limit, Weights* weights) const {
    const int n = keys.length;
    T largest[Tiles::rows];
    T sum[Tiles::rows];
    Tiles::each_row([&](int r) {
      largest[r] = -infinity<T>;
      sum[r] = 0;
    });
    for (int j = lane(); j < limit; j += warp_size) {
      Weights score = weights[j];
      Tiles::each_row([&](int r) {
        score[r] = keys.sees(Tiles::clamp(i0 + r, n), j) ? plan.factor * score[r] : -infinity<T>;
        largest[r] = larger(largest[r], score[r]);
      });
      weights[j] = score;
    }
    Tiles::each_row([&](int r) { largest[r] = warp_max(largest[r]); });
    for (int j = lane(); j < limit; j += warp_size) {
      Weights score = weights[j];
      Tiles::each_row([&](int r) {
        score[r] = std::exp(score[r] - largest[r]);
        sum[r] += score[r];
      });
      weights[j] = score;
    }
    Tiles::each_row([&](int r) { sum[r] = T(1) / warp_sum(sum[r]); });
    const int head_column = plan.head_column(probabilities, h);
    for (int j = lane(); j < n; j += warp_size) {
      const bool below = j < limit;
      Weights weight = below ? weights[j] : Weights{};
      const int position = plan.tokens.positions[begin + j];
      Tiles::each_row([&](int r) {
        const T p = weight[r] * sum[r];
        if (i0 + r < n) {
          probabilities(begin + i0 + r, head_column + j) = p;
        }
        weight[r] = p * plan.dropout.template factor<T>(plan.tokens.random_row(s, begin + Tiles::clamp(i0 + r, n)), h,
                                                        position);
      });
      if (below) {
        weights[j] = weight;
      }
    }
  }
};

template <class T, int Fixed>
struct AttentionBackwardKernel {
  using Plan = AttentionPlan<T, Fixed>;
  using Tiles = typename Plan::Tiles;
  using Weights = typename Plan::Weights;
  static constexpr int max_threads = Plan::threads;
  static constexpr int min_blocks = Plan::min_blocks;

  Plan plan;
  MatrixView<const T> qkv;
  MatrixView<const T> probabilities;
  MatrixView<const T> dcontext;
  MatrixView<T> dqkv;

  __device__ void operator()() const {
    const int s = block_x() / plan.heads;
    const int h = block_x() % plan.heads;
    const VisibleKeys keys(plan.tokens, s, plan.causal);
    T* const first_tile = dynamic_shared<T>();
    T* const second_tile = first_tile + plan.operand_size;
    auto* const all_weights = reinterpret_cast<Weights*>(second_tile + plan.operand_size);
    T* const means =
        reinterpret_cast<T*>(all_weights + 2 * Tiles::warps_of_block * plan.longest);  // (n) Σ_j p_ij dp_ij
    Weights* const weights = all_weights + 2 * warp() * plan.longest;
    query_gradients(keys, s, h, first_tile, second_tile, weights, means);
    __syncthreads();
    key_and_value_gradients(keys, s, h, first_tile, second_tile, weights, weights + plan.longest, means);
  }

  /// dq, and the means. A warp's rows are queries; values and keys are in shared memory.
  __device__ void query_gradients(const VisibleKeys& keys, int s, int h, T* value_tile, T* key_tile, Weights* weights,
                                  T* means) const {
    const int n = keys.length;
    const int begin = plan.tokens.begin(s);
    const int d = static_cast<int>(dcontext.cols());
    const int column = h * plan.tiles.columns();
    const int head_column = plan.head_column(probabilities, h);
    for (int round = 0; round < n; round += Tiles::rows_of_block) {
      const int i0 = round + warp() * Tiles::rows;
      const int limit = i0 < n ? keys.limit(i0, i0 + Tiles::rows - 1) : 0;
      const T* gradients[Tiles::rows];
      std::uint64_t random_rows[Tiles::rows];
      T mean[Tiles::rows] = {};
      Tiles::each_row([&](int r) {
        const int i = begin + Tiles::clamp(i0 + r, n);
        gradients[r] = dcontext.row(i) + column;
        random_rows[r] = plan.tokens.random_row(s, i);
      });
      plan.tiles.each_tile(qkv, begin, n, 2 * d + column, round > 0, value_tile, [&](const auto& tile) {
        for (int j = tile.first + lane(); j < tile.last && j < limit; j += warp_size) {
          Weights dp = plan.tiles.multiply(tile.row(j), gradients);
          const int position = plan.tokens.positions[begin + j];
          Tiles::each_row([&](int r) {
            dp[r] *= plan.dropout.template factor<T>(random_rows[r], h, position);
            mean[r] += probabilities(begin + Tiles::clamp(i0 + r, n), head_column + j) * dp[r];
          });
          weights[j] = dp;
        }
      });
      __syncwarp();  // lanes take the keys of tiles otherwise than those of the sequence
      Tiles::each_row([&](int r) {
        mean[r] = warp_sum(mean[r]);
        if (lane() == r && i0 + r < n) {
          means[i0 + r] = mean[r];
        }
      });
      for (int j = lane(); j < limit; j += warp_size) {
        Weights ds = weights[j];
        Tiles::each_row([&](int r) {
          ds[r] = plan.factor * probabilities(begin + Tiles::clamp(i0 + r, n), head_column + j) * (ds[r] - mean[r]);
        });
        weights[j] = ds;
      }
      __syncwarp();
      typename Tiles::Sums sums;
      plan.tiles.each_tile(qkv, begin, n, d + column, round > 0, key_tile,
                           [&](const auto& tile) { plan.tiles.combine(weights, tile, 0, limit, sums); });
      plan.tiles.store(sums, dqkv, begin + i0, begin + n, column);
      __syncwarp();
    }
  }

  /// dk and dv. A warp's rows are keys; context gradients and queries are in shared memory.
  __device__ void key_and_value_gradients(const VisibleKeys& keys, int s, int h, T* gradient_tile, T* query_tile,
                                          Weights* score_weights, Weights* value_weights, const T* means) const {
    const int n = keys.length;
    const int begin = plan.tokens.begin(s);
    const int d = static_cast<int>(dcontext.cols());
    const int column = h * plan.tiles.columns();
    const int head_column = plan.head_column(probabilities, h);
    for (int round = 0; round < n; round += Tiles::rows_of_block) {
      const int j0 = round + warp() * Tiles::rows;
      const int start = j0 < n ? keys.first_query(j0) : n;
      const T* values[Tiles::rows];
      int positions[Tiles::rows];
      Tiles::each_row([&](int r) {
        const int j = begin + Tiles::clamp(j0 + r, n);
        values[r] = qkv.row(j) + 2 * d + column;
        positions[r] = plan.tokens.positions[j];
      });
      typename Tiles::Sums dk;
      typename Tiles::Sums dv;
      plan.tiles.each_tile(dcontext, begin, n, column, round > 0, gradient_tile, [&](const auto& tile) {
        for (int i = (tile.first < start ? start : tile.first) + lane(); i < tile.last; i += warp_size) {
          Weights ds = plan.tiles.multiply(tile.row(i), values);
          Weights weight;
          const std::uint64_t random_row = plan.tokens.random_row(s, begin + i);
          Tiles::each_row([&](int r) {
            const T probability = probabilities(begin + i, head_column + Tiles::clamp(j0 + r, n));
            const T kept = plan.dropout.template factor<T>(random_row, h, positions[r]);
            ds[r] = plan.factor * probability * (kept * ds[r] - means[i]);
            weight[r] = kept * probability;
          });
          score_weights[i] = ds;
          value_weights[i] = weight;
        }
        __syncwarp();
        plan.tiles.combine(value_weights, tile, start, n, dv);
      });
      plan.tiles.each_tile(qkv, begin, n, column, round > 0, query_tile,
                           [&](const auto& tile) { plan.tiles.combine(score_weights, tile, start, n, dk); });
      plan.tiles.store(dk, dqkv, begin + j0, begin + n, d + column);
      plan.tiles.store(dv, dqkv, begin + j0, begin + n, 2 * d + column);
      __syncwarp();
    }
  }
};

/// One query for each sequence and head, over the rows of x themselves, a warp a (sequence, head): lanes take tokens
/// for the scores and columns for the sum. Reads 4 D n bytes a sequence from memory, the rest from caches; 4 H n D
/// operations.
template <class T>
struct LastAttentionKernel {
  static constexpr int max_threads = warp_size;
  DeviceTokens tokens;
  int heads;
  T scale;
  MatrixView<const T> queries;
  MatrixView<const T> x;
  MatrixView<T> sums;

  __device__ void operator()() const {
    const int s = block_x() / heads;
    const int d = static_cast<int>(x.cols());
    const int column = block_x() % heads * d;
    const int begin = tokens.begin(s);
    const VisibleKeys keys(tokens, s, false);
    const T* const query = queries.row(s) + column;
    T* const p = dynamic_shared<T>();
    T largest = -infinity<T>;
    for (int j = lane(); j < keys.length; j += warp_size) {
      const T* const row = x.row(begin + j);
      T score = 0;
      for (int c = 0; c < d; ++c) {
        score += query[c] * row[c];
      }
      p[j] = keys.sees(0, j) ? scale * score : -infinity<T>;
      largest = larger(largest, p[j]);
    }
    largest = warp_max(largest);
    T sum = 0;
    for (int j = lane(); j < keys.length; j += warp_size) {
      p[j] = std::exp(p[j] - largest);
      sum += p[j];
    }
    sum = warp_sum(sum);
    __syncwarp();
    for (int c = lane(); c < d; c += warp_size) {
      T value = 0;
      for (int j = 0; j < keys.length; ++j) {
        value += p[j] * x(begin + j, c);
      }
      sums(s, column + c) = keys.length > 0 ? value / sum : T(0);
    }
  }
};

namespace detail {

inline void check_keys(Index longest) {
  require(longest <= most_attention_keys, "CUDA attention: found a sequence of ", longest, " tokens, expected at most ",
          most_attention_keys);
}

inline void check_attention(Index longest, Index width) {
  check_keys(longest);
  require(width <= most_head_width, "CUDA attention: found heads of width ", width, ", expected at most ",
          most_head_width);
}

/// f(the head width if kernels are compiled for it and every row allows packs, otherwise 0, as a type)
template <class T, class F>
void with_head_width(Index width, bool packed, F f) {
  if constexpr (std::is_same_v<T, float>) {
    if (packed && width == 32) {
      return f(std::integral_constant<int, 32>());
    }
    if (packed && width == 64) {
      return f(std::integral_constant<int, 64>());
    }
  }
  f(std::integral_constant<int, 0>());
}

}  // namespace detail

/// Throws ArgumentError for sequences longer than 256 tokens or heads wider than 128.
template <class T>
void attention(const Stream& stream, const TokenView& tokens, Index heads, AttentionMask mask,
               const DropoutMask& dropout, MatrixView<const T> qkv, MatrixView<T> probabilities,
               MatrixView<T> context) {
  const Index width = context.cols() / heads;
  detail::check_attention(tokens.longest, width);
  detail::with_head_width<T>(width, has_packs(qkv), [&](auto fixed) {
    const AttentionPlan<T, fixed> plan(tokens, heads, width, mask, dropout);
    launch(stream, {.x = tokens.sequences() * heads}, {.x = plan.threads}, plan.shared_bytes(1, 0),
           AttentionKernel<T, fixed>{plan, qkv, probabilities, context});
  });
}

/// Throws like `attention`.
template <class T>
void attention_backward(const Stream& stream, const TokenView& tokens, Index heads, AttentionMask mask,
                        const DropoutMask& dropout, MatrixView<const T> qkv, MatrixView<const T> probabilities,
                        MatrixView<const T> dcontext, MatrixView<T> dqkv) {
  const Index width = dcontext.cols() / heads;
  detail::check_attention(tokens.longest, width);
  detail::with_head_width<T>(width, has_packs(qkv) && has_packs(dcontext), [&](auto fixed) {
    const AttentionPlan<T, fixed> plan(tokens, heads, width, mask, dropout);
    launch(stream, {.x = tokens.sequences() * heads}, {.x = plan.threads}, plan.shared_bytes(2, 1),
           AttentionBackwardKernel<T, fixed>{plan, qkv, probabilities, dcontext, dqkv});
  });
}

/// Throws ArgumentError for sequences longer than 256 tokens.
template <class T>
void last_attention(const Stream& stream, const TokenView& tokens, T scale, MatrixView<const T> queries,
                    MatrixView<const T> x, MatrixView<T> sums) {
  detail::check_keys(tokens.longest);
  const Index heads = queries.cols() / x.cols();
  launch(stream, {.x = tokens.sequences() * heads}, {.x = warp_size},
         static_cast<std::size_t>(tokens.longest) * sizeof(T),
         LastAttentionKernel<T>{DeviceTokens(tokens), static_cast<int>(heads), scale, queries, x, sums});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
