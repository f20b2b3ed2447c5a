#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/packs.hpp"
#include "elcrec/backend/cuda/kernels/reduce.hpp"
#include "elcrec/backend/cuda/kernels/tokens.hpp"
#include "elcrec/core/operations.hpp"

/// Rows of tables by number: gather_rows. (Additions by arbitrary ids are row_scatter.hpp.)
///
/// 8 D + 4 bytes (float) a row of D, 12 D + 4 where it adds. One operation an element at most. One pack of 16 bytes a
/// thread, no shared memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T, int N, bool Add>
struct GatherRowsKernel {
  MatrixView<const T> table;
  const std::int32_t* ids;
  MatrixView<T> y;

  __device__ void operator()() const {
    for_each_cell(y.rows(), y.cols() / N, [this](Index r, Index c) {
      auto row = load_pack<N>(table.row(ids[r]) + c * N);
      if constexpr (Add) {
        const auto before = load_pack<N>(static_cast<const T*>(y.row(r) + c * N));
        for (int i = 0; i < N; ++i) {
          row[i] += before[i];
        }
      }
      store_pack<N>(y.row(r) + c * N, row);
    });
  }
};

template <class T>
void gather_rows(const Stream& stream, MatrixView<const T> table, std::span<const std::int32_t> ids, MatrixView<T> y,
                 Write write) {
  with_pack_width<T>(has_packs(table) && has_packs(y), [&](auto n) {
    const auto [grid, block] = cell_shape(y.rows(), y.cols() / n);
    if (write == Write::add) {
      launch(stream, grid, block, 0, GatherRowsKernel<T, n, true>{table, ids.data(), y});
    } else {
      launch(stream, grid, block, 0, GatherRowsKernel<T, n, false>{table, ids.data(), y});
    }
  });
}

struct GatherIdsKernel {
  const std::int32_t* values;
  const std::int32_t* ids;
  std::int32_t* out;
  Index count;

  __device__ void operator()() const {
    if (const Index i = global_thread(); i < count) {
      out[i] = values[ids[i]];
    }
  }
};

inline void gather_ids(const Stream& stream, std::span<const std::int32_t> values, std::span<const std::int32_t> ids,
                       std::span<std::int32_t> out) {
  constexpr Index threads = 256;
  launch(stream, {.x = blocks_for(ssize(ids), threads)}, {.x = threads}, 0,
         GatherIdsKernel{values.data(), ids.data(), out.data(), ssize(ids)});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
