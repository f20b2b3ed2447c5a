#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/packs.hpp"
#include "elcrec/backend/cuda/kernels/radix_sort.hpp"
#include "elcrec/core/operations.hpp"

/// table[ids_r] += coefficients_r rows_r for lists of rows (R, D) in all, without atomics: the pairs (id, number of the
/// row) are sorted by id, stably; then a warp takes an id and 32 columns, and adds the rows in the order in which they
/// were given. The host reads nothing, so it need not wait.
///
/// Bytes (float): 4 D + 12 a row, 8 D an id, and the sort's 20 a row for every 8 bits of the largest id; 2 R D
/// operations. No shared memory but the sort's 8 KB. Time does not depend on the size of the table, but a single id
/// with very many rows is one warp's work: the lanes decode 32 rows at once and their loads overlap.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// Lists of rows as kernels see them: rows are numbered across the lists.
template <class T>
struct RowLists {
  static constexpr std::size_t most = 8;
  struct List {
    const std::int32_t* ids;
    const T* coefficients;  // or null
    MatrixView<const T> rows;
    Index end;  // number of the first row behind it
  };
  std::array<List, most> lists{};

  explicit RowLists(std::span<const RowContribution<T>> contributions) {
    Index end = 0;
    for (std::size_t i = 0; i < most; ++i) {
      if (i < contributions.size()) {
        const auto& from = contributions[i];
        end += ssize(from.ids);
        lists[i] = {from.ids.data(), from.coefficients.empty() ? nullptr : from.coefficients.data(), from.rows, end};
      } else {
        lists[i].end = end;
      }
    }
  }

  [[nodiscard]] Index count() const { return lists.back().end; }

  /// f(list, its row) of the row with a number below count().
  template <class F>
  __device__ auto at(Index number, F f) const {
    Index begin = 0;
    std::size_t i = 0;
    while (number >= lists[i].end) {
      begin = lists[i++].end;
    }
    return f(lists[i], number - begin);
  }
  [[nodiscard]] __device__ std::int32_t id(Index number) const {
    return at(number, [](const List& list, Index r) { return list.ids[r]; });
  }
};

/// Which ids were touched since they were last forgotten, in device memory: for users that reset or update only the
/// rows of these.
struct TouchedIds {
  std::int32_t* known;  ///< (V) 1 for a touched id, else 0
  ItemId* ids;          ///< (V) the touched ids in the order of their first touch
  std::int32_t* count;  ///< (1) how many
};

/// pairs_i = (id_i, i), ids that are skipped behind all others. `first` (R + 2), if wanted, becomes count, 0, ..., 0.
template <class T>
struct PairRowsKernel {
  RowLists<T> lists;
  Index count;
  std::uint32_t table_rows;
  ItemId skipped;
  KeyValue* pairs;
  std::int32_t* first;
  const std::int32_t* touched_count;

  __device__ void operator()() const {
    const Index i = global_thread();
    if (i < count) {
      const std::int32_t id = lists.id(i);
      pairs[i] = {id == skipped ? table_rows : static_cast<std::uint32_t>(id), static_cast<std::int32_t>(i)};
    }
    if (first != nullptr && i < count + 2) {
      first[i] = i == 0 ? *touched_count : 0;
    }
  }
};

template <class T>
struct AddSortedRowsKernel {
  static constexpr int max_threads = 128;
  RowLists<T> lists;
  Index count;
  const KeyValue* sorted;
  MatrixView<T> table;

  __device__ void operator()() const {
    const Index begin = global_warp();
    if (begin >= count) {
      return;
    }
    const std::uint32_t id = sorted[begin].key;
    if (id >= table.rows() || (begin > 0 && sorted[begin - 1].key == id)) {
      return;  // skipped, or not the first of its id
    }
    const Index c = Index{block_y()} * warp_size + lane();
    const bool inside = c < table.cols();
    T sum = inside ? table(id, c) : T(0);
    int run = warp_size;
    for (Index i = begin; run == warp_size; i += warp_size) {
      // Each lane finds a row; then all add these rows, a column each.
      const bool same = i + lane() < count && sorted[i + lane()].key == id;
      unsigned long long address = 0;
      T coefficient = 0;
      if (same) {
        lists.at(sorted[i + lane()].value, [&](const auto& list, Index r) {
          address = reinterpret_cast<unsigned long long>(list.rows.row(r));
          coefficient = list.coefficients == nullptr ? T(1) : list.coefficients[r];
        });
      }
      run = __popc(__ballot_sync(whole_warp, same));
      ELCREC_UNROLL(4)
      for (int l = 0; l < run; ++l) {
        const T* const row = reinterpret_cast<const T*>(__shfl_sync(whole_warp, address, l));
        const T a = __shfl_sync(whole_warp, coefficient, l);
        if (inside) {
          sum += a * row[c];
        }
      }
    }
    if (inside) {
      table(id, c) = sum;
    }
  }
};

/// Ids not known yet become so, and the first row of each is marked: first_(1 + row) = 1.
struct MarkNewIdsKernel {
  const KeyValue* sorted;
  Index count;
  std::uint32_t table_rows;
  std::int32_t* known;
  std::int32_t* first;

  __device__ void operator()() const {
    const Index i = global_thread();
    if (i >= count) {
      return;
    }
    const auto [id, row] = sorted[i];
    if (id < table_rows && (i == 0 || sorted[i - 1].key != id) && known[id] == 0) {
      known[id] = 1;
      first[1 + row] = 1;
    }
  }
};

/// ids[place_(1 + i)] = id_i for the marked rows, whose place is less than the next row's.
template <class T>
struct AppendNewIdsKernel {
  RowLists<T> lists;
  Index count;
  const std::int32_t* places;
  ItemId* ids;

  __device__ void operator()() const {
    const Index i = global_thread();
    if (i < count && places[i + 1] < places[i + 2]) {
      ids[places[i + 1]] = lists.id(i);
    }
  }
};

/// table += the rows, in the order given; ids equal to `skipped` take no part, all others are rows of the table. The
/// ids touched are remembered unless `touched` is null. Scratch: 16 bytes a row, and 4 to remember.
template <class T>
void scatter_rows(const Stream& stream, CudaWorkspace& memory, std::span<const RowContribution<T>> contributions,
                  ItemId skipped, MatrixView<T> table, const TouchedIds* touched) {
  constexpr Index threads = 256;
  constexpr Index warps_of_block = AddSortedRowsKernel<T>::max_threads / warp_size;
  const auto table_rows = static_cast<std::uint32_t>(table.rows());
  for (; !contributions.empty();
       contributions = contributions.subspan((std::min)(contributions.size(), RowLists<T>::most))) {
    const RowLists<T> lists(contributions.first((std::min)(contributions.size(), RowLists<T>::most)));
    const Index count = lists.count();
    if (count == 0) {
      continue;
    }
    const auto frame = memory.frame();
    const auto pairs = memory.template array<KeyValue>(count);
    const auto scratch = memory.template array<KeyValue>(count);
    std::int32_t* const first = touched != nullptr ? memory.template array<std::int32_t>(count + 2).data() : nullptr;
    launch(stream, {.x = blocks_for(count + 2, threads)}, {.x = threads}, 0,
           PairRowsKernel<T>{lists, count, table_rows, skipped, pairs.data(), first,
                             touched != nullptr ? touched->count : nullptr});
    const auto sorted = sort_pairs(stream, memory, pairs, scratch, table_rows + 1);
    launch(stream, {.x = blocks_for(count, warps_of_block), .y = blocks_for(table.cols(), warp_size)},
           {.x = AddSortedRowsKernel<T>::max_threads}, 0, AddSortedRowsKernel<T>{lists, count, sorted.data(), table});
    if (touched != nullptr) {
      const Grid grid{.x = blocks_for(count, threads)};
      launch(stream, grid, {.x = threads}, 0,
             MarkNewIdsKernel{sorted.data(), count, table_rows, touched->known, first});
      scan(stream, first, count + 2, touched->count);
      launch(stream, grid, {.x = threads}, 0, AppendNewIdsKernel<T>{lists, count, first, touched->ids});
    }
  }
}

/// y[ids_r] += x_r; with equal ids in the order of r
template <class T>
void scatter_add_rows(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> x,
                      std::span<const std::int32_t> ids, MatrixView<T> y) {
  constexpr ItemId nothing_skipped = -1;
  const RowContribution<T> rows{slice(ids, 0, x.rows()), {}, x};
  scatter_rows(stream, memory, std::span(&rows, 1), nothing_skipped, y, nullptr);
}

// ---- the ids touched ----------------------------------------------------------------------------------------------

/// Rows of touched ids become 0. How many there are is known to the device only: blocks go on until all are done.
template <class T>
struct ClearTouchedRowsKernel {
  TouchedIds touched;
  MatrixView<T> table;

  __device__ void operator()() const {
    for (Index i = global_warp(); i < *touched.count; i += Index{blocks_x()} * warps()) {
      for (Index c = lane(); c < table.cols(); c += warp_size) {
        table(touched.ids[i], c) = T(0);
      }
    }
  }
};

struct ForgetTouchedKernel {
  TouchedIds touched;

  __device__ void operator()() const {
    for (Index i = global_thread(); i < *touched.count; i += Index{blocks_x()} * threads_x()) {
      touched.known[touched.ids[i]] = 0;
    }
  }
};

namespace detail {

inline constexpr Block touched_block{.x = 128};

/// Enough blocks to fill a device, or for all rows of a small table.
[[nodiscard]] inline Grid touched_grid(Index table_rows) {
  constexpr Index most_blocks = 256;
  return {.x = (std::min)(most_blocks, blocks_for(table_rows, touched_block.x / warp_size))};
}

}  // namespace detail

/// table[id] = 0 for the touched ids
template <class T>
void clear_touched_rows(const Stream& stream, const TouchedIds& touched, MatrixView<T> table) {
  launch(stream, detail::touched_grid(table.rows()), detail::touched_block, 0,
         ClearTouchedRowsKernel<T>{touched, table});
}

inline void forget_touched(const Stream& stream, const TouchedIds& touched, Index table_rows) {
  launch(stream, detail::touched_grid(table_rows), detail::touched_block, 0, ForgetTouchedKernel{touched});
  const DeviceGuard guard(stream.device);
  check(cudaMemsetAsync(touched.count, 0, sizeof(*touched.count), stream.handle), "cudaMemsetAsync");
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
