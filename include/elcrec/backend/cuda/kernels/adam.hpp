#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/packs.hpp"
#include "elcrec/core/operations.hpp"

/// Adam in one pass: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g², p -= rate m / (sqrt(v) root + eps), on flat arrays
/// or on chosen rows of tables.
///
/// Bytes a parameter (float): 28 (4 reads, 3 writes), 24 without gradient; about 12 operations. Bound by memory: one
/// pack of 16 bytes a thread, no shared memory.
namespace elcrec::cuda {

/// AdamStep with its factors in T, as ReferenceLane takes them.
template <class T>
struct AdamFactors {
  T b1;
  T b2;
  T rate;
  T root;
  T eps;

  explicit AdamFactors(const AdamStep& step)
      : b1(static_cast<T>(step.beta1)),
        b2(static_cast<T>(step.beta2)),
        rate(static_cast<T>(step.rate / step.correction1)),
        root(static_cast<T>(1.0 / std::sqrt(step.correction2))),
        eps(static_cast<T>(step.epsilon)) {}
};

/// Row ids_r of the tables, or row r where there are no ids. A gradient without memory is 0.
template <class T, int N>
struct AdamKernel {
  AdamFactors<T> step;
  const std::int32_t* ids;
  Index rows;
  MatrixView<T> p;
  MatrixView<const T> g;
  MatrixView<T> m;
  MatrixView<T> v;

  __device__ void operator()() const {
    for_each_cell(rows, p.cols() / N, [this](Index r, Index pack) {
      const Index row = ids == nullptr ? r : ids[r];
      const Index c = pack * N;
      const auto load = [&](auto table) { return load_pack<N>(static_cast<const T*>(table.row(row) + c)); };
      auto value = load(p);
      auto mean = load(m);
      auto square = load(v);
      const auto gradient = g.data() == nullptr ? Pack<T, N>{} : load(g);
      for (int i = 0; i < N; ++i) {
        mean[i] = step.b1 * mean[i] + (T(1) - step.b1) * gradient[i];
        square[i] = step.b2 * square[i] + (T(1) - step.b2) * gradient[i] * gradient[i];
        value[i] -= step.rate * mean[i] / (std::sqrt(square[i]) * step.root + step.eps);
      }
      store_pack<N>(p.row(row) + c, value);
      store_pack<N>(m.row(row) + c, mean);
      store_pack<N>(v.row(row) + c, square);
    });
  }
};

namespace detail {

template <class T>
void launch_adam(const Stream& stream, const AdamStep& step, const std::int32_t* ids, Index rows, MatrixView<T> p,
                 MatrixView<const T> g, MatrixView<T> m, MatrixView<T> v) {
  const bool packed = has_packs(p) && (g.data() == nullptr || has_packs(g)) && has_packs(m) && has_packs(v);
  with_pack_width<T>(packed, [&](auto n) {
    const auto [grid, block] = cell_shape(rows, p.cols() / n);
    launch(stream, grid, block, 0, AdamKernel<T, n>{AdamFactors<T>(step), ids, rows, p, g, m, v});
  });
}

}  // namespace detail

template <class T>
void adam(const Stream& stream, const AdamStep& step, std::span<T> p, std::span<const T> g, std::span<T> m,
          std::span<T> v) {
  const auto row = [&](auto span) { return MatrixView(span.data(), 1, ssize(p)); };
  detail::launch_adam(stream, step, nullptr, 1, row(p), g.empty() ? MatrixView<const T>() : row(g), row(m), row(v));
}

template <class T>
void adam_rows(const Stream& stream, const AdamStep& step, std::span<const std::int32_t> ids, MatrixView<T> p,
               MatrixView<const T> g, MatrixView<T> m, MatrixView<T> v) {
  detail::launch_adam(stream, step, ids.data(), ssize(ids), p, g, m, v);
}

}  // namespace elcrec::cuda
