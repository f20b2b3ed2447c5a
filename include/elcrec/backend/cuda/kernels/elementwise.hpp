#pragma once

#include <span>

#include "elcrec/backend/cuda/kernels/arrays.hpp"
#include "elcrec/core/operations.hpp"

/// y_rc = f(x_rc, y_rc) on matrices (R, D): fill, clear, copy, scale, add_scaled, add_row; multiply_elementwise, a
/// function of three; scale_rows.
///
/// Bytes an element (float): fill and clear 4, copy 8, scale 8, add_scaled 12, add_row 8, multiply_elementwise 16. At
/// most 2 operations. Bound by memory: one pack of 16 bytes a thread, no shared memory, fewer than 32 registers.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T, int N, class F>
struct MapKernel {
  MatrixView<const T> x;
  MatrixView<T> y;
  F f;

  __device__ void operator()() const {
    for_each_cell(y.rows(), y.cols() / N, [this](Index r, Index c) {
      const auto in = load_pack<N>(x.row(r) + c * N);
      auto out = load_pack<N>(static_cast<const T*>(y.row(r) + c * N));
      for (int i = 0; i < N; ++i) {
        out[i] = f(in[i], out[i]);
      }
      store_pack<N>(y.row(r) + c * N, out);
    });
  }
};

/// y_rc = f(x_rc, y_rc). x may be y; a stride of 0 repeats one row of x.
template <class T, class F>
void map(const Stream& stream, MatrixView<const T> x, MatrixView<T> y, F f) {
  const bool gapless = x.contiguous() && y.contiguous() && x.stride() != 0;
  x = as_one_row(x, gapless);
  y = as_one_row(y, gapless);
  with_pack_width<T>(has_packs(x) && has_packs(y), [&](auto n) {
    const auto [grid, block] = cell_shape(y.rows(), y.cols() / n);
    launch(stream, grid, block, 0, MapKernel<T, n, F>{x, y, f});
  });
}

namespace detail {

template <class T>
struct Constant {
  T value;
  __device__ T operator()(T, T) const { return value; }
};
struct TakeX {
  template <class T>
  __device__ T operator()(T x, T) const {
    return x;
  }
};
template <class T>
struct Times {
  T a;
  __device__ T operator()(T x, T) const { return a * x; }
};
template <class T>
struct PlusScaled {
  T a;
  __device__ T operator()(T x, T y) const { return y + a * x; }
};

}  // namespace detail

template <class T>
void fill(const Stream& stream, MatrixView<T> x, T value) {
  map(stream, MatrixView<const T>(x), x, detail::Constant<T>{value});
}

namespace detail {

template <class T>
struct ClearedMatrix {
  MatrixView<T> x;

  [[nodiscard]] constexpr Index size() const { return x.rows() * x.cols(); }
  [[nodiscard]] bool has_packs() const { return cuda::has_packs(x); }
};

template <class T>
struct Clear {
  template <int N>
  __device__ void operator()(const ClearedMatrix<T>& array, Index i) const {
    const auto& x = array.x;
    const Index r = x.rows() == 1 ? 0 : i / x.cols();
    store_pack<N>(x.row(r) + (i - r * x.cols()), Pack<T, N>{});
  }
};

}  // namespace detail

/// Every element of every matrix = 0.
template <class T>
void clear(const Stream& stream, std::span<const MatrixView<T>> list) {
  ArraysLauncher<T, detail::ClearedMatrix<T>, detail::Clear<T>> launcher(stream, {});
  for (const auto x : list) {
    launcher.add({as_one_row(x, x.contiguous())});
  }
  launcher.flush();
}

template <class T>
void copy(const Stream& stream, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::TakeX());
}

template <class T>
void scale(const Stream& stream, T a, MatrixView<T> x) {
  map(stream, MatrixView<const T>(x), x, detail::Times<T>{a});
}

template <class T>
void add_scaled(const Stream& stream, T a, MatrixView<const T> x, MatrixView<T> y) {
  map(stream, x, y, detail::PlusScaled<T>{a});
}

template <class T>
void add_row(const Stream& stream, T a, MatrixView<const T> row, MatrixView<T> y) {
  map(stream, MatrixView<const T>(row.data(), y.rows(), y.cols(), 0), y, detail::PlusScaled<T>{a});
}

template <class T, int N, class F>
struct CombineKernel {
  MatrixView<const T> x;
  MatrixView<const T> z;
  MatrixView<T> y;
  F f;

  __device__ void operator()() const {
    for_each_cell(y.rows(), y.cols() / N, [this](Index r, Index c) {
      const auto in = load_pack<N>(x.row(r) + c * N);
      const auto by = load_pack<N>(z.row(r) + c * N);
      auto out = load_pack<N>(static_cast<const T*>(y.row(r) + c * N));
      for (int i = 0; i < N; ++i) {
        out[i] = f(in[i], by[i], out[i]);
      }
      store_pack<N>(y.row(r) + c * N, out);
    });
  }
};

/// y_rc = f(x_rc, z_rc, y_rc). y may be x or z.
template <class T, class F>
void combine(const Stream& stream, MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y, F f) {
  const bool gapless = x.contiguous() && z.contiguous() && y.contiguous();
  x = as_one_row(x, gapless);
  z = as_one_row(z, gapless);
  y = as_one_row(y, gapless);
  with_pack_width<T>(has_packs(x) && has_packs(z) && has_packs(y), [&](auto n) {
    const auto [grid, block] = cell_shape(y.rows(), y.cols() / n);
    launch(stream, grid, block, 0, CombineKernel<T, n, F>{x, z, y, f});
  });
}

namespace detail {

template <class T>
struct Product {
  __device__ T operator()(T x, T z, T) const { return x * z; }
};
template <class T>
struct PlusProduct {
  __device__ T operator()(T x, T z, T y) const { return y + x * z; }
};

}  // namespace detail

template <class T>
void multiply_elementwise(const Stream& stream, MatrixView<const T> x, MatrixView<const T> z, MatrixView<T> y,
                          Write write) {
  if (write == Write::add) {
    combine(stream, x, z, y, detail::PlusProduct<T>{});
  } else {
    combine(stream, x, z, y, detail::Product<T>{});
  }
}

template <class T, int N>
struct ScaleRowsKernel {
  const T* factors;
  MatrixView<T> x;

  __device__ void operator()() const {
    for_each_cell(x.rows(), x.cols() / N, [this](Index r, Index c) {
      auto pack = load_pack<N>(static_cast<const T*>(x.row(r) + c * N));
      for (int i = 0; i < N; ++i) {
        pack[i] *= factors[r];
      }
      store_pack<N>(x.row(r) + c * N, pack);
    });
  }
};

template <class T>
void scale_rows(const Stream& stream, MatrixView<const T> factors, MatrixView<T> x) {
  with_pack_width<T>(has_packs(x), [&](auto n) {
    const auto [grid, block] = cell_shape(x.rows(), x.cols() / n);
    launch(stream, grid, block, 0, ScaleRowsKernel<T, n>{factors.data(), x});
  });
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
