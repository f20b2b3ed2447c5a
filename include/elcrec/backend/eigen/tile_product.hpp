#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

/// Matrix products in tiles of outer products, Eigen expressions of fixed size that stay in registers. Every element is
/// the sum over the depth in one order, wherever it stands and whatever the shape, so that equal rows give equal
/// results to the bit; nothing is allocated, and Eigen's own threads and cache sizes play no part: none of this holds
/// for Eigen's general product, which at these sizes is no faster.
namespace elcrec::inline ELCREC_TARGET::eigen {

inline constexpr Index tile_rows = 6;  // 12 sums, 2 packs of b and a factor: what 16 registers hold
template <class T>
inline constexpr Index tile_cols = 2 * pack_size<T>;
inline constexpr Index depth_block = 512;

/// n rounded up to whole tiles.
template <class T>
[[nodiscard]] constexpr Index whole_tiles(Index n) {
  return (n + tile_cols<T> - 1) / tile_cols<T> * tile_cols<T>;
}

/// A matrix in the role of a factor: element (i, k) is data[i * row + k * col].
template <class T>
struct Operand {
  const T* data;
  Index row;
  Index col;
};

/// Elements of the room that `multiply` packs a panel of b in.
template <class T>
[[nodiscard]] constexpr Index panel_size(Index depth) {
  return (std::min)(depth, depth_block) * tile_cols<T>;
}

namespace product_detail {

/// y (I..., tile_cols) = or += a · panel
template <Write how, class T, std::size_t... I>
[[gnu::flatten]] void multiply_tile(std::index_sequence<I...>, Operand<T> a, Index depth, const T* panel, T* y,
                                    Index stride) {
  Pack<T, tile_cols<T>> sums[sizeof...(I)];
  (sums[I].setZero(), ...);
  for (Index k = 0; k < depth; ++k) {
    const auto b = elements<tile_cols<T>>(panel + k * tile_cols<T>);
    ((sums[I] += a.data[static_cast<Index>(I) * a.row + k * a.col] * b), ...);
  }
  if constexpr (how == Write::add) {
    ((elements<tile_cols<T>>(y + static_cast<Index>(I) * stride) += sums[I]), ...);
  } else {
    ((elements<tile_cols<T>>(y + static_cast<Index>(I) * stride) = sums[I]), ...);
  }
}

/// The same for `rows` <= Most rows.
template <Write how, Index Most, class T>
void multiply_rows(Index rows, Operand<T> a, Index depth, const T* panel, T* y, Index stride) {
  if (rows == Most) {
    multiply_tile<how, T>(std::make_index_sequence<static_cast<std::size_t>(Most)>(), a, depth, panel, y, stride);
  } else if constexpr (Most > 1) {
    multiply_rows<how, Most - 1>(rows, a, depth, panel, y, stride);
  }
}

/// And for n <= tile_cols columns: a tile that is not whole goes through memory of its own.
template <class T>
void multiply_part(Index rows, Operand<T> a, Index depth, const T* panel, T* y, Index stride, Index n, Write write) {
  if (n == tile_cols<T>) {
    if (write == Write::add) {
      multiply_rows<Write::add, tile_rows>(rows, a, depth, panel, y, stride);
    } else {
      multiply_rows<Write::replace, tile_rows>(rows, a, depth, panel, y, stride);
    }
    return;
  }
  T whole[static_cast<std::size_t>(tile_rows * tile_cols<T>)];
  multiply_rows<Write::replace, tile_rows>(rows, a, depth, panel, whole, tile_cols<T>);
  for (Index m = 0; m < rows; ++m) {
    const T* from = whole + m * tile_cols<T>;
    T* to = y + m * stride;
    for (Index j = 0; j < n; ++j) {
      to[j] = write == Write::add ? to[j] + from[j] : from[j];
    }
  }
}

/// Rows of a panel = (a pack's width of rows of a pack's width)ᵀ
template <class T>
[[gnu::flatten]] void transpose_square(const T* from, Index stride, T* to) {
  constexpr Index w = pack_size<T>;
  Eigen::Matrix<T, static_cast<int>(w), static_cast<int>(w), Eigen::RowMajor> square;  // Eigen transposes in registers
  for (Index i = 0; i < w; ++i) {
    elements<w>(square.data() + i * w) = elements<w>(from + i * stride);
  }
  square.transposeInPlace();
  for (Index i = 0; i < w; ++i) {
    elements<w>(to + i * tile_cols<T>) = elements<w>(square.data() + i * w);
  }
}

/// panel (depth, tile_cols) = n rows of b, transposed; zero behind them.
template <class T>
void pack_panel(Operand<T> b, Index depth, Index n, T* panel) {
  if (n < tile_cols<T>) {
    std::fill_n(panel, depth * tile_cols<T>, T(0));
  }
  if (b.row == 1) {
    for (Index k = 0; k < depth; ++k) {
      std::copy_n(b.data + k * b.col, n, panel + k * tile_cols<T>);
    }
    return;
  }
  constexpr Index w = pack_size<T>;
  Index j = 0;
  for (; j + w <= n && b.col == 1 && depth >= w; j += w) {
    for (Index k = 0; k < depth; k += w) {
      const Index at = (std::min)(k, depth - w);  // the last ones again rather than a rest
      transpose_square(b.data + j * b.row + at, b.row, panel + at * tile_cols<T> + j);
    }
  }
  for (Index k = 0; k < depth; ++k) {
    for (Index rest = j; rest < n; ++rest) {
      panel[k * tile_cols<T> + rest] = b.data[rest * b.row + k * b.col];
    }
  }
}

}  // namespace product_detail

/// y (M, N) = or += a (M, K) · b (N, K)ᵀ, where b has `b_rows` rows: y's columns behind them get or keep what a row of
/// zeros gives. `panel` has room for panel_size(K).
template <class T>
void multiply(Operand<T> a, Operand<T> b, Index b_rows, Index depth, MatrixView<T> y, Write write, std::span<T> panel) {
  for (Index k0 = 0; k0 < depth || k0 == 0; k0 += depth_block) {
    const Index block = (std::min)(depth - k0, depth_block);
    const Write how = k0 == 0 ? write : Write::add;
    for (Index n0 = 0; n0 < y.cols(); n0 += tile_cols<T>) {
      const Index n = (std::min)(y.cols() - n0, tile_cols<T>);
      const Index given = std::clamp<Index>(b_rows - n0, 0, n);
      product_detail::pack_panel<T>({b.data + n0 * b.row + k0 * b.col, b.row, b.col}, block, given, panel.data());
      for (Index m = 0; m < y.rows(); m += tile_rows) {
        product_detail::multiply_part<T>((std::min)(y.rows() - m, tile_rows),
                                         {a.data + m * a.row + k0 * a.col, a.row, a.col}, block, panel.data(),
                                         y.row(m) + n0, y.stride(), n, how);
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::eigen
