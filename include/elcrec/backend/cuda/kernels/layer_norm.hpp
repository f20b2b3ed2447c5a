#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/dropout.hpp"
#include "elcrec/backend/cuda/kernels/reduce.hpp"
#include "elcrec/backend/cuda/kernels/tokens.hpp"

/// Layer norm of the rows of (T, D), alone or of s = residual + dropout(x + b), and the backward passes. Eight lanes
/// share a row: lane i has the columns 8 j + i, which are those that look at block i of a dropout mask, so that a lane
/// computes one Philox block for eight elements, and an access of a warp is four whole sectors of 32 bytes.
///
///   layer_norm  y = x̂ ∘ gamma + beta, x̂ = (s - mean) rstd: reads x, writes x̂, y and rstd; 12 D + 4 bytes (float)
///   add_norm    the same; reads the residual too: 16 D + 4 bytes, where three kernels moved 32 D
///   backward    ds = rstd (g - mean(g) - x̂ mean(g ∘ x̂)), g = dy ∘ gamma: reads x̂, dy and rstd, writes ds; 12 D + 4
///               bytes; add_norm's writes dx = dropout(ds) too, 16 D + 4. dgamma += Σ dy ∘ x̂, dbeta += Σ dy, db += Σ
///               dx: at D = 64 from the same registers, otherwise by column sums that read dy and x̂, and dx, again
///
/// About 8 D and 12 D operations a row and 10 D for the dropout, so bound by memory: at D = 64 a token moves 772 to
/// 1,028 bytes each way. At D = 64 a lane keeps its eight elements of the row in registers; the backward pass sums a
/// block's parts of the three column sums through 6 KB of shared memory. Other D reread the row, which is then in L1.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// How rows are dealt out to blocks, and within a block to groups of eight lanes.
struct NormRows {
  static constexpr int threads = 256;
  static constexpr int row_lanes = 8;
  static constexpr int at_once = threads / row_lanes;

  DeviceTokens tokens;
  Index rows;
  Index sequences;  // units are sequences, whose rows have random numbers; or 0: units are rows
  Index block_units;

  /// f(row, random row, whether there is such a row) in every group of lanes; all threads of a block call f as often.
  template <class F>
  __device__ void each(F f) const {
    const Index units = sequences > 0 ? sequences : rows;
    const Index first = block_x() * block_units;
    const Index last = first + block_units < units ? first + block_units : units;
    const bool random = sequences > 0;
    for (Index unit = first; unit < last; unit = random ? unit + 1 : last) {
      const int s = static_cast<int>(unit);
      const Index end = random ? tokens.end(s) : last;
      for (Index begin = random ? tokens.begin(s) : first; begin < end; begin += at_once) {
        const Index t = begin + thread_x() / row_lanes;
        const bool any = t < end;
        f(t, random && any ? tokens.random_row(s, static_cast<int>(t)) : 0, any);
      }
    }
  }

  [[nodiscard]] __device__ static int lane_of_row() { return thread_x() % row_lanes; }

  /// Σ over the lanes of a row, given to all of them.
  template <class T>
  [[nodiscard]] __device__ static T sum(T value) {
    for (int reach = row_lanes / 2; reach > 0; reach /= 2) {
      value += __shfl_xor_sync(whole_warp, value, reach);
    }
    return value;
  }
};

/// f(number, column) for the lane's elements of a row of D columns, D being Fixed or, where that is 0, d; none where d
/// is 0.
template <int Fixed, class F>
__device__ void each_column(int d, F f) {
  constexpr int lanes = NormRows::row_lanes;
  if constexpr (Fixed > 0) {
    if (d > 0) {
      ELCREC_UNROLL()
      for (int i = 0; i < Fixed / lanes; ++i) {
        f(i, i * lanes + NormRows::lane_of_row());
      }
    }
  } else {
    for (int c = NormRows::lane_of_row(); c < d; c += lanes) {
      f(0, c);
    }
  }
}

/// The lane's elements of a row: in registers where D is fixed, in the row's memory otherwise.
template <class T, int Fixed>
struct RowElements {
  std::remove_const_t<T> values[Fixed / NormRows::row_lanes];

  __device__ explicit RowElements(T*) {}
  __device__ void load(const T* row, int d) {
    each_column<Fixed>(d, [&](int i, int c) { values[i] = row[c]; });
  }
  [[nodiscard]] __device__ auto& operator()(int i, int) { return values[i]; }
};

template <class T>
struct RowElements<T, 0> {
  T* row;

  __device__ explicit RowElements(T* r) : row(r) {}
  __device__ void load(const T*, int) {}
  [[nodiscard]] __device__ T& operator()(int, int c) { return row[c]; }
};

/// What a row's elements are multiplied by in a dropout, asked for in the order of each_column.
template <class T, int Fixed>
class RowMask {
 public:
  __device__ RowMask(const DropoutBits& mask, std::uint64_t random_row, int columns)
      : mask_(mask), random_row_(random_row), columns_(columns) {}

  [[nodiscard]] __device__ T operator()(int i, int c) {
    if (!mask_.active()) {
      return T(1);
    }
    constexpr int group_columns = static_cast<int>(DropoutMask::group_columns);
    constexpr int lanes = NormRows::row_lanes;
    const int in_group = c % group_columns;
    if (Fixed > 0 ? i % (group_columns / lanes) == 0 : in_group < lanes) {
      group_ = DropoutMask::group(random_row_, c / group_columns, columns_);
      block_ = mask_.block_of(group_, in_group);
    }
    return mask_.keeps(block_, group_, in_group) ? static_cast<T>(mask_.scale) : T(0);
  }

 private:
  const DropoutBits& mask_;
  std::uint64_t random_row_;
  int columns_;
  std::uint64_t group_ = 0;
  PhiloxBlock block_{};
};

template <class T, int Fixed>
struct AddNormKernel {
  static constexpr int max_threads = NormRows::threads;
  static constexpr int min_blocks = 3;
  NormRows rows;
  DropoutBits mask;
  MatrixView<const T> x;
  const T* b;                    // or none
  MatrixView<const T> residual;  // or none
  const T* gamma;
  const T* beta;
  T eps;
  MatrixView<T> normalised;
  T* rstd;
  MatrixView<T> y;

  __device__ void operator()() const {
    const int columns = static_cast<int>(x.cols());
    rows.each([&](Index t, std::uint64_t random_row, bool any) {
      const int d = any ? columns : 0;
      RowElements<T, Fixed> s(normalised.row(t));
      RowMask<T, Fixed> factor(mask, random_row, columns);
      T sum = 0;
      each_column<Fixed>(d, [&](int i, int c) {
        const T v = (x(t, c) + (b == nullptr ? T(0) : b[c])) * factor(i, c);
        s(i, c) = v + (residual.data() == nullptr ? T(0) : residual(t, c));
        sum += s(i, c);
      });
      const T mean = NormRows::sum(sum) / static_cast<T>(columns);
      T squares = 0;
      each_column<Fixed>(d, [&](int i, int c) { squares += (s(i, c) - mean) * (s(i, c) - mean); });
      const T variance = NormRows::sum(squares) / static_cast<T>(columns);
      const T r = variance == T(0) ? T(0) : T(1) / std::sqrt(variance + eps);
      if (any && NormRows::lane_of_row() == 0) {
        rstd[t] = r;
      }
      each_column<Fixed>(d, [&](int i, int c) {
        const T hat = (s(i, c) - mean) * r;
        normalised(t, c) = hat;
        y(t, c) = hat * gamma[c] + beta[c];
      });
    });
  }
};

/// ds and, if there is one, dx; at a fixed D also the sums of dy ∘ x̂, dy and dx over the block's rows.
template <class T, int Fixed>
struct AddNormBackwardKernel {
  static constexpr int max_threads = NormRows::threads;
  static constexpr int min_blocks = 2;
  static constexpr int elements = Fixed > 0 ? Fixed / NormRows::row_lanes : 1;  // of a lane
  NormRows rows;
  DropoutBits mask;
  MatrixView<const T> normalised;
  const T* rstd;
  const T* gamma;
  MatrixView<const T> dy;
  MatrixView<T> ds;       // may be dy
  MatrixView<T> dx;       // or none
  MatrixView<T> partial;  // (blocks, 3 D)

  __device__ void operator()() const {
    const int columns = static_cast<int>(dy.cols());
    T sums[3][elements] = {};
    rows.each([&](Index t, std::uint64_t random_row, bool any) {
      const int d = any ? columns : 0;
      RowElements<const T, Fixed> gradient(dy.row(t));
      RowElements<const T, Fixed> hat(normalised.row(t));
      RowMask<T, Fixed> factor(mask, random_row, columns);
      gradient.load(dy.row(t), d);
      hat.load(normalised.row(t), d);
      T sum_g = 0;
      T sum_gx = 0;
      each_column<Fixed>(d, [&](int i, int c) {
        const T g = gradient(i, c) * gamma[c];
        sum_g += g;
        sum_gx += g * hat(i, c);
      });
      const T mean_g = NormRows::sum(sum_g) / static_cast<T>(columns);
      const T mean_gx = NormRows::sum(sum_gx) / static_cast<T>(columns);
      const T r = any ? rstd[t] : T(0);
      each_column<Fixed>(d, [&](int i, int c) {
        const T v = gradient(i, c);
        const T h = hat(i, c);
        const T into_sum = r * (v * gamma[c] - mean_g - h * mean_gx);
        const T into_x = into_sum * factor(i, c);
        ds(t, c) = into_sum;
        if (dx.data() != nullptr) {
          dx(t, c) = into_x;
        }
        if constexpr (Fixed > 0) {
          sums[0][i] += v * h;
          sums[1][i] += v;
          sums[2][i] += into_x;
        }
      });
    });
    if constexpr (Fixed > 0) {
      add_up(sums);
    }
  }

 private:
  /// partial's row of the block: over the four rows of a warp by shuffles, over the warps through shared memory.
  __device__ void add_up(const T (&sums)[3][elements]) const {
    constexpr int lanes = NormRows::row_lanes;
    constexpr int block_warps = max_threads / warp_size;
    __shared__ T parts[block_warps][3 * Fixed];
    for (int which = 0; which < 3; ++which) {
      ELCREC_UNROLL()
      for (int i = 0; i < elements; ++i) {
        T sum = sums[which][i];
        for (int reach = lanes; reach < warp_size; reach *= 2) {
          sum += __shfl_xor_sync(whole_warp, sum, reach);
        }
        if (lane() < lanes) {
          parts[warp()][which * Fixed + i * lanes + lane()] = sum;
        }
      }
    }
    __syncthreads();
    for (int e = thread_x(); e < 3 * Fixed; e += threads_x()) {
      T sum = 0;
      for (int w = 0; w < block_warps; ++w) {
        sum += parts[w][e];
      }
      partial(block_x(), e) = sum;
    }
  }
};

namespace detail {

/// Rows in blocks: by sequence, or without dropout `at_once` rows a block; at most `most_blocks` blocks.
inline NormRows norm_rows(const TokenView& tokens, const DropoutMask& mask, Index rows, Index most_blocks) {
  const Index sequences = mask.active() ? tokens.sequences() : 0;
  const Index least = sequences > 0 ? 1 : NormRows::at_once;
  const Index units = sequences > 0 ? sequences : rows;
  return {DeviceTokens(tokens), rows, sequences, (std::max)(least, blocks_for(units, most_blocks))};
}

[[nodiscard]] inline Index norm_blocks(const NormRows& r) {
  return r.rows == 0 ? 0 : blocks_for(r.sequences > 0 ? r.sequences : r.rows, r.block_units);
}

/// f(64 or 0 as a type)
template <class F>
void with_fixed_columns(Index d, F f) {
  if (d == 64) {
    f(std::integral_constant<int, 64>());
  } else {
    f(std::integral_constant<int, 0>());
  }
}

template <class T>
struct RowProduct {
  MatrixView<const T> x;
  MatrixView<const T> y;
  __device__ T operator()(Index r, Index c) const { return x(r, c) * y(r, c); }
};

/// Column c of three vectors of `columns` elements that lie anywhere: adds to the one that has it, if it is there.
template <class T>
struct AddToVectors {
  T* first;
  T* second;
  T* third;
  Index columns;

  __device__ void operator()(Index, Index c, T sum) const {
    T* const to = c < columns ? first : c < 2 * columns ? second : third;
    if (to != nullptr) {
      to[c % columns] += sum;
    }
  }
};

}  // namespace detail

template <class T>
void add_norm(const Stream& stream, const TokenView& tokens, const DropoutMask& mask, MatrixView<const T> x,
              MatrixView<const T> b, MatrixView<const T> residual, MatrixView<const T> gamma, MatrixView<const T> beta,
              T eps, MatrixView<T> normalised, MatrixView<T> rstd, MatrixView<T> y) {
  constexpr Index most_blocks = Index{1} << 30;
  const NormRows rows = detail::norm_rows(tokens, mask, x.rows(), most_blocks);
  detail::with_fixed_columns(x.cols(), [&]<int Fixed>(std::integral_constant<int, Fixed>) {
    launch(stream, {.x = detail::norm_blocks(rows)}, {.x = NormRows::threads}, 0,
           AddNormKernel<T, Fixed>{rows, DropoutBits(mask), x, b.data(), residual, gamma.data(), beta.data(), eps,
                                   normalised, rstd.data(), y});
  });
}

template <class T>
void layer_norm(const Stream& stream, MatrixView<const T> x, MatrixView<const T> gamma, MatrixView<const T> beta, T eps,
                MatrixView<T> normalised, MatrixView<T> rstd, MatrixView<T> y) {
  add_norm(stream, TokenView(), DropoutMask(), x, MatrixView<const T>(), MatrixView<const T>(), gamma, beta, eps,
           normalised, rstd, y);
}

template <class T>
void add_norm_backward(const Stream& stream, CudaWorkspace& memory, const TokenView& tokens, const DropoutMask& mask,
                       MatrixView<const T> normalised, MatrixView<const T> rstd, MatrixView<const T> gamma,
                       MatrixView<const T> dy, MatrixView<T> ds, MatrixView<T> dx, MatrixView<T> dgamma,
                       MatrixView<T> dbeta, MatrixView<T> db) {
  constexpr Index most_blocks = 512;
  const NormRows rows = detail::norm_rows(tokens, mask, dy.rows(), most_blocks);
  const Index blocks = detail::norm_blocks(rows);
  const Index d = dy.cols();
  detail::with_fixed_columns(d, [&]<int Fixed>(std::integral_constant<int, Fixed>) {
    const auto frame = memory.frame();
    MatrixView<T> partial;
    if constexpr (Fixed > 0) {
      partial = memory.template matrix<T>(blocks, 3 * d);
    } else {  // the sums first: ds may be dy
      sum_columns(stream, memory, dy.rows(), detail::RowProduct<T>{dy, normalised}, T(1), T(1), dgamma);
      add_column_sum(stream, memory, dy, dbeta);
    }
    launch(stream, {.x = blocks}, {.x = NormRows::threads}, 0,
           AddNormBackwardKernel<T, Fixed>{rows, DropoutBits(mask), normalised, rstd.data(), gamma.data(), dy, ds, dx,
                                           partial});
    if constexpr (Fixed > 0) {
      sum_columns_at_once<T>(stream, blocks, 3 * d, detail::RowElement<T>{partial},
                             detail::AddToVectors<T>{dgamma.data(), dbeta.data(), db.data(), d});
    } else if (db.data() != nullptr) {
      add_column_sum(stream, memory, MatrixView<const T>(dx), db);
    }
  });
}

template <class T>
void layer_norm_backward(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> normalised,
                         MatrixView<const T> rstd, MatrixView<const T> gamma, MatrixView<const T> dy, MatrixView<T> dx,
                         MatrixView<T> dgamma, MatrixView<T> dbeta) {
  add_norm_backward(stream, memory, TokenView(), DropoutMask(), normalised, rstd, gamma, dy, dx, MatrixView<T>(),
                    dgamma, dbeta, MatrixView<T>());
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
