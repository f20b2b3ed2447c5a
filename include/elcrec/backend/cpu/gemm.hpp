#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

/// Matrix products of the shapes that a small model needs: a few hundred rows, 64 to 256 columns, depth 32 to 3200.
/// y (M, N) = or += a (M, K) · b (K, N). A register tile holds tile_rows x tile_cols results; b is repacked in panels
/// of tile_cols columns and at most depth_block rows, so that a panel stays in L1; a is read in place by broadcasts,
/// which any stride allows. Only an a whose rows are neighbours, as in a weight gradient, is repacked in tiles of
/// tile_rows rows: in place each k of a tile is in a cache line of its own, and rows of 64 or 256 elements crowd those
/// into a few sets of L1.
namespace elcrec::inline ELCREC_TARGET::gemm {

template <class T>
inline constexpr Index tile_cols = 2 * simd::width<T>;

/// n rounded up to whole tiles.
template <class T>
[[nodiscard]] constexpr Index whole_tiles(Index n) {
  return (n + tile_cols<T> - 1) / tile_cols<T> * tile_cols<T>;
}
template <class T>
inline constexpr Index tile_rows = simd::register_count == 32 ? 12 : 6;
inline constexpr Index depth_block = 256;
/// Elements of b that are packed at a time: with the rows of a that meet them they stay in a L2 cache of 512 KB.
inline constexpr Index packed_block = Index{1} << 16;
/// A b with contiguous rows is read where it is when so few rows of y use it that repacking would not pay.
inline constexpr Index in_place_rows = 64;
inline constexpr Index in_place_stride = 512;  // longer rows lie in a page each
/// An a that is repacked: rows at a time, whole tiles for any tile_rows; less depth fits L1 as it is, and fewer columns
/// of y would not pay for the copy.
inline constexpr Index group_rows = 48;
inline constexpr Index group_depth = 64;
inline constexpr Index group_cols = 64;

/// Columns of b that are packed at a time.
template <class T>
constexpr Index block_cols(Index depth, Index cols) {
  constexpr Index nr = tile_cols<T>;
  return (std::min)(packed_block / std::clamp<Index>(depth, 1, depth_block), cols + nr - 1) / nr * nr;
}

/// Elements that the packed copy of b needs, for any K and N.
template <class T>
constexpr Index packed_size(Index depth, Index cols) {
  return (std::min)(depth, depth_block) * (block_cols<T>(depth, cols) + group_rows);
}

/// An operand whose element (row, k) or (k, col) stands at data[first * stride + second * step]; one of the two is 1.
template <class T>
struct Operand {
  const T* data;
  Index outer;  ///< distance of two rows of a, or two columns of b
  Index depth;  ///< distance along k
};

namespace detail {

/// Lane i of the result within each 128 bits: element Pattern[i] of that part of x, or Pattern[i] - 4 of y's.
template <std::size_t... Pattern, std::size_t... I>
inline simd::Pack<float> shuffle_quads(simd::Pack<float> x, simd::Pack<float> y, std::index_sequence<Pattern...>,
                                       std::index_sequence<I...>) {
  constexpr std::size_t pattern[] = {Pattern...};
  return simd::shuffle<(I / 4 * 4 + (pattern[I % 4] < 4 ? pattern[I % 4] : pattern[I % 4] - 4 + sizeof...(I)))...>(x,
                                                                                                                   y);
}
template <std::size_t... Pattern>
inline simd::Pack<float> shuffle_quads(simd::Pack<float> x, simd::Pack<float> y) {
  return shuffle_quads(x, y, std::index_sequence<Pattern...>{},
                       std::make_index_sequence<static_cast<std::size_t>(simd::width<float>)>{});
}

/// to[k * tile_cols + j] = from[j * stride + k] for j in [0, n), k in [0, depth); float in blocks of a register by
/// four.
template <class T>
inline void transpose(const T* from, Index stride, Index n, Index depth, T* to) {
  constexpr Index nr = tile_cols<T>;
  constexpr Index w = simd::width<T>;
  Index whole = 0;  // columns of `to` that are done for k in [0, depth / 4 * 4)
  if constexpr (std::is_same_v<T, float>) {
    using V = simd::Pack<float>;
    whole = n / w * w;
    constexpr Index line = 64 / static_cast<Index>(sizeof(float));
    for (Index j = 0; j < whole; j += w) {
      for (Index k = 0; k + 4 <= depth; k += 4) {
        if (k % line == 0) {  // w streams are more than the processor follows by itself
          for (Index i = j + w; i < j + 2 * w; ++i) {
            __builtin_prefetch(from + i * stride + k);
          }
        }
        V r[4];
        for (Index q = 0; q < 4; ++q) {
          r[q] = simd::load_quads(from + (j + q) * stride + k, 4 * stride);
        }
        const V low01 = shuffle_quads<0, 4, 1, 5>(r[0], r[1]);
        const V low23 = shuffle_quads<0, 4, 1, 5>(r[2], r[3]);
        const V high01 = shuffle_quads<2, 6, 3, 7>(r[0], r[1]);
        const V high23 = shuffle_quads<2, 6, 3, 7>(r[2], r[3]);
        simd::store<float>(to + k * nr + j, shuffle_quads<0, 1, 4, 5>(low01, low23));
        simd::store<float>(to + (k + 1) * nr + j, shuffle_quads<2, 3, 6, 7>(low01, low23));
        simd::store<float>(to + (k + 2) * nr + j, shuffle_quads<0, 1, 4, 5>(high01, high23));
        simd::store<float>(to + (k + 3) * nr + j, shuffle_quads<2, 3, 6, 7>(high01, high23));
      }
    }
  }
  for (Index j = 0; j < n; ++j) {
    for (Index k = j < whole ? depth / 4 * 4 : 0; k < depth; ++k) {
      to[k * nr + j] = from[j * stride + k];
    }
  }
}

/// Copies b[0 .. depth, 0 .. cols) to panels of tile_cols columns, zero-padded.
template <class T>
inline void pack(Operand<T> b, Index depth, Index cols, T* packed) {
  constexpr Index nr = tile_cols<T>;
  for (Index j0 = 0; j0 < cols; j0 += nr, packed += depth * nr) {
    const Index n = (std::min)(nr, cols - j0);
    const T* from = b.data + j0 * b.outer;
    if (n < nr) {
      std::fill_n(packed, depth * nr, T(0));
    }
    if (b.outer == 1) {
      for (Index k = 0; k < depth; ++k) {
        if (n == nr) {  // a copy of constant size is two registers; one of variable size is a call
          std::memcpy(packed + k * nr, from + k * b.depth, nr * sizeof(T));
        } else {
          std::copy_n(from + k * b.depth, n, packed + k * nr);
        }
      }
    } else {
      transpose(from, b.outer, n, depth, packed);
    }
  }
}

/// Copies a[k * stride + m] for m in [0, rows), k in [0, depth) to tiles of tile_rows rows.
template <class T>
inline void pack_rows(const T* a, Index stride, Index rows, Index depth, T* packed) {
  constexpr Index mr = tile_rows<T>;
  const Index whole = rows / mr * mr;
  for (Index k = 0; k < depth; ++k) {
    const T* from = a + k * stride;
    for (Index m = 0; m < whole; m += mr) {
      T* to = packed + m * depth + k * mr;
      std::memcpy(to, from + m, mr * sizeof(T));
    }
    for (Index m = whole; m < rows; ++m) {
      packed[whole * depth + k * mr + m - whole] = from[m];
    }
  }
}

/// One register tile: rows x tile_cols results, of which `cols` are stored.
template <Index Rows, class T>
inline void tile(Operand<T> a, const T* b, Index b_stride, Index depth, T* y, Index stride, Index cols, bool add,
                 const T* bias) {
  using V = simd::Pack<T>;
  constexpr Index w = simd::width<T>;
#pragma GCC unroll 12
  for (Index m = 0; m < Rows; ++m) {  // rows of y that are in no cache come while the sums are made
    __builtin_prefetch(y + m * stride, 1);
  }
  V start[2] = {};
  if (bias != nullptr && cols == tile_cols<T>) {
    start[0] = simd::load(bias);
    start[1] = simd::load(bias + w);
  } else if (bias != nullptr) {
    std::memcpy(start, bias, static_cast<std::size_t>(cols) * sizeof(T));
  }
  V sum[static_cast<std::size_t>(Rows)][2];
#pragma GCC unroll 12
  for (Index m = 0; m < Rows; ++m) {
    sum[m][0] = start[0];
    sum[m][1] = start[1];
  }
#ifdef __clang__
#pragma GCC unroll 1  // of several k at a time it loads all at once, and has no registers left for the sums then
#else
#pragma GCC unroll 4
#endif
  for (Index k = 0; k < depth; ++k) {
    const V b0 = simd::load(b + k * b_stride);
    const V b1 = simd::load(b + k * b_stride + w);
#pragma GCC unroll 12
    for (Index m = 0; m < Rows; ++m) {
      const V am = simd::broadcast(a.data[m * a.outer + k * a.depth]);
      sum[m][0] += am * b0;
      sum[m][1] += am * b1;
    }
  }
  if (cols == tile_cols<T>) {
#pragma GCC unroll 12
    for (Index m = 0; m < Rows; ++m) {
      T* row = y + m * stride;
      simd::store<T>(row, add ? simd::load(row) + sum[m][0] : sum[m][0]);
      simd::store<T>(row + w, add ? simd::load(row + w) + sum[m][1] : sum[m][1]);
    }
    return;
  }
  for (Index m = 0; m < Rows; ++m) {
    T lanes[tile_cols<T>];
    std::memcpy(lanes, &sum[m][0], sizeof(lanes));
    for (Index n = 0; n < cols; ++n) {
      y[m * stride + n] = add ? y[m * stride + n] + lanes[n] : lanes[n];
    }
  }
}

/// tile<rows> for a number of rows known at run time, at most Rows.
template <Index Rows, class T>
inline void tile_of(Index rows, Operand<T> a, const T* b, Index b_stride, Index depth, T* y, Index stride, Index cols,
                    bool add, const T* bias) {
  if (rows == Rows) {
    tile<Rows>(a, b, b_stride, depth, y, stride, cols, add, bias);
  } else if constexpr (Rows > 1) {
    tile_of<Rows - 1>(rows, a, b, b_stride, depth, y, stride, cols, add, bias);
  }
}

}  // namespace detail

/// y = or += a · b, or y = a · b + bias in every row where `bias` is given. `packed` has room for packed_size(depth,
/// y.cols()) elements, aligned to a register. b has `b_cols` columns; up to tile_cols - 1 more columns of y, that end a
/// tile, get a · 0 (+ bias).
template <class T>
void multiply(Operand<T> a, Operand<T> b, Index b_cols, Index depth, MatrixView<T> y, Write write, const T* bias,
              T* packed) {
  constexpr Index nr = tile_cols<T>;
  constexpr Index mr = tile_rows<T>;
  const bool repack_a = a.outer == 1 && a.depth != 1 && depth > group_depth && y.cols() >= group_cols;
  const bool in_place =
      !repack_a && b.outer == 1 && b.depth <= in_place_stride && y.rows() <= in_place_rows && b_cols % nr == 0;
  const Index n_step = in_place ? y.cols() : block_cols<T>(depth, y.cols());
  const Index m_step = repack_a ? group_rows : y.rows();
  T* const packed_a = packed + (std::min)(depth, depth_block) * block_cols<T>(depth, y.cols());
  for (Index n0 = 0; n0 < y.cols(); n0 += n_step) {
    const Index n1 = (std::min)(y.cols(), n0 + n_step);
    for (Index k0 = 0; k0 < depth; k0 += depth_block) {
      const Index kc = (std::min)(depth_block, depth - k0);
      const bool add = write == Write::add || k0 > 0;
      const T* panels = in_place ? b.data + k0 * b.depth : packed;
      const Index panel_stride = in_place ? b.depth : nr;
      const Index next_panel = in_place ? nr : kc * nr;
      if (!in_place) {
        const Operand<T> block{b.data + n0 * b.outer + k0 * b.depth, b.outer, b.depth};
        detail::pack(block, kc, (std::min)(b_cols, n1) - n0, packed);
      }
      for (Index m0 = 0; m0 < y.rows(); m0 += m_step) {
        const Index m1 = (std::min)(y.rows(), m0 + m_step);
        if (repack_a) {
          detail::pack_rows(a.data + m0 + k0 * a.depth, a.depth, m1 - m0, kc, packed_a);
        }
        // A panel of b stays in L1 while the rows of a pass by.
        for (Index n = n0; n < n1; n += nr) {
          const T* panel = panels + (n - n0) / nr * next_panel;
          for (Index m = m0; m < m1; m += mr) {
            const auto rows = repack_a ? Operand<T>{packed_a + (m - m0) * kc, 1, mr}
                                       : Operand<T>{a.data + m * a.outer + k0 * a.depth, a.outer, a.depth};
            detail::tile_of<mr>((std::min)(mr, m1 - m), rows, panel, panel_stride, kc, y.row(m) + n, y.stride(),
                                (std::min)(nr, n1 - n), add, bias != nullptr && k0 == 0 ? bias + n : nullptr);
          }
        }
      }
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::gemm
