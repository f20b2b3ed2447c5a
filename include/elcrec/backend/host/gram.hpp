#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "elcrec/backend/host/vector_lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// (T, D) by token as (N, P·D) by sample, of a dense index.
template <class View>
[[nodiscard]] View flat_samples(const GramIndex& index, View z) {
  return {z.data(), index.samples, index.positions * z.cols()};
}

/// f(samples in [i0, i1), their tokens, samples in [j0, j1), their tokens) for every position in [p0, p1) that both
/// have, of an index in host memory that is not dense.
template <class F>
void for_each_position(const GramIndex& index, Index i0, Index i1, Index j0, Index j1, Index p0, Index p1, F f) {
  for (Index p = p0; p < p1; ++p) {
    const Index begin = index.begins[static_cast<std::size_t>(p)];
    const Index end = index.begins[static_cast<std::size_t>(p) + 1];
    const auto samples = slice(index.sample, begin, end);
    const auto within = [&](Index low, Index high) {
      const auto a = std::lower_bound(samples.begin(), samples.end(), low);
      const auto b = std::lower_bound(a, samples.end(), high);
      return std::pair{begin + (a - samples.begin()), begin + (b - samples.begin())};
    };
    const auto [ia, ib] = within(i0, i1);
    const auto [ja, jb] = within(j0, j1);
    if (ia != ib && ja != jb) {
      f(slice(index.sample, ia, ib), slice(index.token, ia, ib), slice(index.sample, ja, jb),
        slice(index.token, ja, jb));
    }
  }
}

template <VectorLane L>
[[nodiscard]] typename L::Out gathered(L& lane, typename L::In z, std::span<const std::int32_t> tokens) {
  const auto rows = lane.workspace().template matrix<typename L::Scalar>(ssize(tokens), z.cols());
  lane.gather_rows(z, tokens, rows, Write::replace);
  return rows;
}

}  // namespace detail

template <VectorLane L>
void gram(L& lane, const GramIndex& index, typename L::In z, Index i0, Index i1, Index j0, Index j1,
          typename L::Out s) {
  using T = typename L::Scalar;
  const typename L::Out tile{s.row(i0) + j0, i1 - i0, j1 - j0, s.stride()};
  if (index.dense) {
    const auto flat = detail::flat_samples(index, z);
    lane.multiply_nt(flat.slice_rows(i0, i1), flat.slice_rows(j0, j1), tile, Write::replace);
  } else {
    lane.fill(tile, T(0));
    detail::for_each_position(index, i0, i1, j0, j1, 0, index.positions, [&](auto is, auto it, auto js, auto jt) {
      const auto frame = lane.workspace().frame();
      const auto zi = detail::gathered(lane, z, it);
      const auto zj = detail::gathered(lane, z, jt);
      const auto products = lane.workspace().template matrix<T>(zi.rows(), zj.rows());
      lane.multiply_nt(zi, zj, products, Write::replace);
      for (Index a = 0; a < products.rows(); ++a) {
        T* const row = s.row(is[static_cast<std::size_t>(a)]);
        for (Index b = 0; b < products.cols(); ++b) {
          row[js[static_cast<std::size_t>(b)]] += products(a, b);
        }
      }
    });
  }
  if (i0 != j0) {
    L::Vector::transpose(lane, tile, {s.row(j0) + i0, j1 - j0, i1 - i0, s.stride()});
  }
}

template <VectorLane L>
void gram_backward(L& lane, const GramIndex& index, typename L::In g, typename L::In z, Index i0, Index i1, Index p0,
                   Index p1, Write write, typename L::Out dz) {
  using T = typename L::Scalar;
  if (index.dense) {
    const auto columns = [&](auto view) {
      return detail::flat_samples(index, view).slice_cols(p0 * z.cols(), p1 * z.cols());
    };
    lane.multiply_nn(g.slice_rows(i0, i1), columns(z), columns(dz).slice_rows(i0, i1), write);
    return;
  }
  detail::for_each_position(index, i0, i1, 0, index.samples, p0, p1, [&](auto is, auto it, auto js, auto jt) {
    const auto frame = lane.workspace().frame();
    const auto zj = detail::gathered(lane, z, jt);
    const auto gij = lane.workspace().template matrix<T>(ssize(is), ssize(js));
    for (Index a = 0; a < gij.rows(); ++a) {
      const T* const row = g.row(is[static_cast<std::size_t>(a)]);
      for (Index b = 0; b < gij.cols(); ++b) {
        gij(a, b) = row[js[static_cast<std::size_t>(b)]];
      }
    }
    const auto result = lane.workspace().template matrix<T>(gij.rows(), z.cols());
    lane.multiply_nn(gij, zj, result, Write::replace);
    for (Index a = 0; a < result.rows(); ++a) {
      const Index t = it[static_cast<std::size_t>(a)];
      if (write == Write::add) {
        lane.add_scaled(T(1), result.slice_rows(a, a + 1), dz.slice_rows(t, t + 1));
      } else {
        lane.copy(result.slice_rows(a, a + 1), dz.slice_rows(t, t + 1));
      }
    }
  });
}

template <VectorLane L>
void add_transposed(L& lane, typename L::In s, Index i0, Index i1, typename L::Out g) {
  L::Vector::add_transpose(lane, s.slice_rows(i0, i1), s.slice_cols(i0, i1), g);
}

}  // namespace elcrec::inline ELCREC_TARGET
