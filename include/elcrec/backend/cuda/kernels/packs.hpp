#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/thread.hpp"
#include "elcrec/core/matrix_view.hpp"

/// How kernels walk over matrices: N neighbouring elements of a row at a time (16 bytes where alignment allows, so that
/// a warp moves 512 bytes by one instruction; single elements otherwise), threads x along a row and y across rows.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// N neighbouring elements, read and written 16 bytes at a time.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T values[N];

  [[nodiscard]] __device__ T& operator[](int i) { return values[i]; }
  [[nodiscard]] __device__ const T& operator[](int i) const { return values[i]; }
};

/// Elements of 16 bytes.
template <class T>
inline constexpr int pack_width = static_cast<int>(16 / sizeof(T));

template <int N, class T>
[[nodiscard]] __device__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T>
__device__ void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

/// Whether every row of a matrix is made of whole, aligned packs of 16 bytes.
template <class T>
[[nodiscard]] bool has_packs(MatrixView<T> m) {
  constexpr Index width = pack_width<std::remove_const_t<T>>;
  return reinterpret_cast<std::uintptr_t>(m.data()) % 16 == 0 && m.cols() % width == 0 &&
         (m.rows() <= 1 || m.stride() % width == 0);
}

/// f(the number of elements to take at a time, as a type).
template <class T, class F>
void with_pack_width(bool packed, F f) {
  if (packed) {
    f(std::integral_constant<int, pack_width<T>>());
  } else {
    f(std::integral_constant<int, 1>());
  }
}

/// The same elements as one row, if they lie without gaps; the matrix itself otherwise.
template <class T>
[[nodiscard]] MatrixView<T> as_one_row(MatrixView<T> m, bool gapless) {
  return gapless ? MatrixView<T>(m.data(), 1, m.size()) : m;
}

struct LaunchShape {
  Grid grid;
  Block block;
};

/// Threads for the cells (rows, columns in packs) of a matrix, for kernels that use for_each_cell.
[[nodiscard]] inline LaunchShape cell_shape(Index rows, Index columns) {
  constexpr Index threads = 256;
  constexpr Index most_blocks_y = 65535;
  const auto power = [](Index least, Index most) {
    Index n = 1;
    while (n < least && n < most) {
      n *= 2;
    }
    return n;
  };
  const Index x = power(columns, threads);
  const Index y = power(rows, threads / x);
  return {{.x = columns == 0 ? 0 : blocks_for(rows, y), .y = (std::min)(most_blocks_y, blocks_for(columns, x))},
          {.x = x, .y = y}};
}

/// f(row, column) for the cells of the calling thread.
template <class F>
__device__ void for_each_cell(Index rows, Index columns, F f) {
  const Index r = Index{block_x()} * threads_y() + thread_y();
  if (r < rows) {
    for (Index c = Index{block_y()} * threads_x() + thread_x(); c < columns; c += Index{blocks_y()} * threads_x()) {
      f(r, c);
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
