#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/arrays.hpp"
#include "elcrec/core/operations.hpp"

/// Adam in one pass: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g², p -= rate m / (sqrt(v) root + eps), on the
/// arrays of all parameters in one launch, or on chosen rows of tables.
///
/// Bytes a parameter (float): 28 (4 reads, 3 writes); about 12 operations. Bound by memory: one
/// pack of 16 bytes a thread, no shared memory.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// N elements of p, g, m and v that start there.
template <int N, class T>
__device__ void adam_pack(const AdamFactors<T>& step, bool decays, T* p, const T* g, T* m, T* v) {
  const auto load = [](const T* from) { return load_pack<N>(from); };
  auto value = load(p);
  auto mean = load(m);
  auto square = load(v);
  const auto gradient = load(g);
  const T keep = decays ? step.keep : T(1);
  for (int i = 0; i < N; ++i) {
    mean[i] = step.b1 * mean[i] + (T(1) - step.b1) * gradient[i];
    square[i] = step.b2 * square[i] + (T(1) - step.b2) * gradient[i] * gradient[i];
    value[i] = keep * value[i] - step.rate * mean[i] / (std::sqrt(square[i]) * step.root + step.eps);
  }
  store_pack<N>(p, value);
  store_pack<N>(m, mean);
  store_pack<N>(v, square);
}

namespace detail {

/// AdamSlot for kernels.
template <class T>
struct AdamArray {
  T* p;
  const T* g;
  T* m;
  T* v;
  Index count;
  bool decays;

  [[nodiscard]] constexpr Index size() const { return count; }
  [[nodiscard]] bool has_packs() const {
    const auto packed = [this](const T* array) { return cuda::has_packs(MatrixView<const T>(array, 1, count)); };
    return packed(p) && packed(g) && packed(m) && packed(v);
  }
};

template <class T>
struct AdamOfArrays {
  AdamFactors<T> step;

  template <int N>
  __device__ void operator()(const AdamArray<T>& array, Index i) const {
    adam_pack<N>(step, array.decays, array.p + i, array.g + i, array.m + i, array.v + i);
  }
};

}  // namespace detail

template <class T>
void adam(const Stream& stream, const AdamStep& step, std::span<const AdamSlot<T>> slots, Index first, Index last) {
  using Update = detail::AdamOfArrays<T>;
  ArraysLauncher<T, detail::AdamArray<T>, Update> launcher(stream, Update{AdamFactors<T>(step)});
  for_each_part(slots, first, last, [&](const AdamSlot<T>& part) {
    launcher.add({part.p.data(), part.g.data(), part.m.data(), part.v.data(), ssize(part.p), part.decays});
  });
  launcher.flush();
}

/// Row ids_r of the tables.
template <class T, int N>
struct AdamRowsKernel {
  AdamFactors<T> step;
  const std::int32_t* ids;
  Index rows;
  MatrixView<T> p;
  MatrixView<const T> g;
  MatrixView<T> m;
  MatrixView<T> v;

  __device__ void operator()() const {
    for_each_cell(rows, p.cols() / N, [this](Index r, Index pack) {
      const Index row = ids[r];
      const auto at = [&](auto table) { return table.row(row) + pack * N; };
      adam_pack<N>(step, true, at(p), at(g), at(m), at(v));
    });
  }
};

template <class T>
void adam_rows(const Stream& stream, const AdamStep& step, std::span<const std::int32_t> ids, MatrixView<T> p,
               MatrixView<const T> g, MatrixView<T> m, MatrixView<T> v) {
  with_pack_width<T>(has_packs(p) && has_packs(g) && has_packs(m) && has_packs(v), [&](auto n) {
    const auto [grid, block] = cell_shape(ssize(ids), p.cols() / n);
    launch(stream, grid, block, 0, AdamRowsKernel<T, n>{AdamFactors<T>(step), ids.data(), ssize(ids), p, g, m, v});
  });
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
