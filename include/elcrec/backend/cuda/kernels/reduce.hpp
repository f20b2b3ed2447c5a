#pragma once

#include <algorithm>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/packs.hpp"

/// Sums over matrices (R, D): of all elements in double (add_dot, add_sum), of rows (row_dots), and of columns
/// (add_column_sum, column_mean). Two launches each, where a matrix has more than a few rows: blocks write partial
/// sums, then these are added in the order of the blocks. How many blocks there are depends on the shape alone, so the
/// bits of a result do not depend on the device.
///
/// Bytes an element (float): 4, add_dot 8; 1 or 2 operations. Shared memory: 8.5 KB for columns of double.
namespace elcrec::inline ELCREC_TARGET::cuda {

// ---- all elements -------------------------------------------------------------------------------------------------

namespace detail {

template <class T>
struct ElementProduct {
  MatrixView<const T> x;
  MatrixView<const T> y;
  __device__ double operator()(Index r, Index c) const {
    return static_cast<double>(x(r, c)) * static_cast<double>(y(r, c));
  }
};
template <class T>
struct Element {
  MatrixView<const T> x;
  __device__ double operator()(Index r, Index c) const { return static_cast<double>(x(r, c)); }
};

inline constexpr Index sum_threads = 256;

}  // namespace detail

template <class F>
struct PartialSumKernel {
  static constexpr int max_threads = detail::sum_threads;
  F f;
  Index rows;
  Index cols;
  double* partial;  // (blocks)

  __device__ void operator()() const {
    double sum = 0;
    const Index step = Index{blocks_x()} * threads_x();
    for (Index i = global_thread(); i < rows * cols; i += step) {
      sum += rows == 1 ? f(0, i) : f(i / cols, i % cols);
    }
    sum = block_sum(sum);
    if (thread_x() == 0) {
      partial[block_x()] = sum;
    }
  }
};

struct FinishSumKernel {
  static constexpr int max_threads = detail::sum_threads;
  const double* partial;
  int count;
  double a;
  double* sum;

  __device__ void operator()() const {
    double total = 0;
    for (int i = thread_x(); i < count; i += threads_x()) {
      total += partial[i];
    }
    total = block_sum(total);
    if (thread_x() == 0) {
      *sum += a * total;
    }
  }
};

/// *sum += a Σ f(r, c)
template <class F>
void add_sum_of(const Stream& stream, CudaWorkspace& memory, double a, Index rows, Index cols, F f, double* sum) {
  constexpr Index per_thread = 8;
  constexpr Index most_blocks = 512;
  if (rows * cols == 0) {
    return;
  }
  const Index blocks = (std::min)(most_blocks, blocks_for(rows * cols, per_thread * detail::sum_threads));
  const auto frame = memory.frame();
  double* const partial = memory.template array<double>(blocks).data();
  launch(stream, {.x = blocks}, {.x = detail::sum_threads}, 0, PartialSumKernel<F>{f, rows, cols, partial});
  launch(stream, {}, {.x = detail::sum_threads}, 0, FinishSumKernel{partial, static_cast<int>(blocks), a, sum});
}

template <class T>
void add_dot(const Stream& stream, CudaWorkspace& memory, double a, MatrixView<const T> x, MatrixView<const T> y,
             double* sum) {
  const bool gapless = x.contiguous() && y.contiguous();
  x = as_one_row(x, gapless);
  y = as_one_row(y, gapless);
  add_sum_of(stream, memory, a, x.rows(), x.cols(), detail::ElementProduct<T>{x, y}, sum);
}

template <class T>
void add_sum(const Stream& stream, CudaWorkspace& memory, double a, MatrixView<const T> x, double* sum) {
  x = as_one_row(x, x.contiguous());
  add_sum_of(stream, memory, a, x.rows(), x.cols(), detail::Element<T>{x}, sum);
}

// ---- rows ---------------------------------------------------------------------------------------------------------

/// A warp a row.
template <class T>
struct RowDotsKernel {
  static constexpr int warps_of_block = 4;
  static constexpr int max_threads = warps_of_block * warp_size;
  MatrixView<const T> x;
  MatrixView<const T> y;
  T* dots;

  __device__ void operator()() const {
    const Index r = global_warp();
    if (r >= x.rows()) {
      return;
    }
    T sum = 0;
    for (Index c = lane(); c < x.cols(); c += warp_size) {
      sum += x(r, c) * y(r, c);
    }
    sum = warp_sum(sum);
    if (lane() == 0) {
      dots[r] = sum;
    }
  }
};

template <class T>
void row_dots(const Stream& stream, MatrixView<const T> x, MatrixView<const T> y, MatrixView<T> dots) {
  using Kernel = RowDotsKernel<T>;
  launch(stream, {.x = blocks_for(x.rows(), Kernel::warps_of_block)}, {.x = Kernel::max_threads}, 0,
         Kernel{x, y, dots.data()});
}

// ---- columns ------------------------------------------------------------------------------------------------------

/// store(k, c, Σ f(r, c) over the rows of chunk k). A block takes 32 columns of one chunk, a warp every eighth row of
/// it.
template <class T, class F, class Store>
struct ColumnSumKernel {
  static constexpr int warps_of_block = 8;
  static constexpr int max_threads = warps_of_block * warp_size;
  F f;
  Index rows;
  Index cols;
  Index chunk_rows;
  Store store;

  __device__ void operator()() const {
    __shared__ T parts[warps_of_block][warp_size + 1];
    const Index c = Index{block_x()} * warp_size + lane();
    const Index first = block_y() * chunk_rows;
    const Index last = first + chunk_rows < rows ? first + chunk_rows : rows;
    T sum = 0;
    if (c < cols) {
      for (Index r = first + warp(); r < last; r += warps_of_block) {
        sum += f(r, c);
      }
    }
    parts[warp()][lane()] = sum;
    __syncthreads();
    if (warp() == 0 && c < cols) {
      for (int w = 1; w < warps_of_block; ++w) {
        sum += parts[w][lane()];
      }
      store(block_y(), c, sum);
    }
  }
};

/// y_c = keep y_c + a Σ_k partial_kc
template <class T>
struct FinishColumnSumKernel {
  MatrixView<const T> partial;
  T keep;
  T a;
  T* y;

  __device__ void operator()() const {
    const Index c = global_thread();
    if (c < partial.cols()) {
      T sum = 0;
      for (Index k = 0; k < partial.rows(); ++k) {
        sum += partial(k, c);
      }
      y[c] = (keep == T(0) ? T(0) : keep * y[c]) + a * sum;
    }
  }
};

namespace detail {

template <class T>
struct StoreElement {
  MatrixView<T> y;
  __device__ void operator()(Index r, Index c, T sum) const { y(r, c) = sum; }
};

template <class T, class F, class Store>
void launch_column_sums(const Stream& stream, Index rows, Index cols, Index chunk_rows, F f, Store store) {
  using Kernel = ColumnSumKernel<T, F, Store>;
  launch(stream, {.x = blocks_for(cols, warp_size), .y = blocks_for(rows, chunk_rows)}, {.x = Kernel::max_threads}, 0,
         Kernel{f, rows, cols, chunk_rows, store});
}

}  // namespace detail

/// store(0, c, Σ_r f(r, c)) for each of the columns, in one launch: for some hundreds of rows.
template <class T, class F, class Store>
void sum_columns_at_once(const Stream& stream, Index rows, Index cols, F f, Store store) {
  if (rows > 0) {
    detail::launch_column_sums<T>(stream, rows, cols, rows, f, store);
  }
}

/// y (1, D) = keep y + a Σ_r f(r, c) over R rows
template <class T, class F>
void sum_columns(const Stream& stream, CudaWorkspace& memory, Index rows, F f, T keep, T a, MatrixView<T> y) {
  constexpr Index least_rows = 64;
  constexpr Index most_chunks = 64;
  const Index d = y.cols();
  const Index chunk_rows = (std::max)(least_rows, blocks_for(rows, most_chunks));
  const Index chunks = blocks_for(rows, chunk_rows);
  const auto frame = memory.frame();
  const auto partial = memory.template matrix<T>(chunks, d);
  detail::launch_column_sums<T>(stream, rows, d, chunk_rows, f, detail::StoreElement<T>{partial});
  constexpr Index threads = 64;
  launch(stream, {.x = blocks_for(d, threads)}, {.x = threads}, 0,
         FinishColumnSumKernel<T>{partial, keep, a, y.data()});
}

namespace detail {

template <class T>
struct RowElement {
  MatrixView<const T> x;
  __device__ T operator()(Index r, Index c) const { return x(r, c); }
};

}  // namespace detail

template <class T>
void add_column_sum(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> dy, MatrixView<T> db) {
  sum_columns(stream, memory, dy.rows(), detail::RowElement<T>{dy}, T(1), T(1), db);
}

template <class T>
void column_mean(const Stream& stream, CudaWorkspace& memory, MatrixView<const T> x, MatrixView<T> mean) {
  const T weight = x.rows() == 0 ? T(0) : T(1) / static_cast<T>(x.rows());
  sum_columns(stream, memory, x.rows(), detail::RowElement<T>{x}, T(0), weight, mean);
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
