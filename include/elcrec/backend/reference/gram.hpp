#pragma once

#include <algorithm>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

/// f(i, token of i, j, token of j) for all samples i in [i0, i1) and j in [j0, j1) with a common position in [p0,
/// p1).
template <class F>
void for_each_pair(const GramIndex& index, Index i0, Index i1, Index j0, Index j1, Index p0, Index p1, F f) {
  for (Index p = p0; p < p1; ++p) {
    if (index.dense) {
      for (Index i = i0; i < i1; ++i) {
        for (Index j = j0; j < j1; ++j) {
          f(i, i * index.positions + p, j, j * index.positions + p);
        }
      }
      continue;
    }
    const auto at = static_cast<std::size_t>(p);
    for (auto a = static_cast<std::size_t>(index.begins[at]); a < static_cast<std::size_t>(index.begins[at + 1]); ++a) {
      for (auto b = static_cast<std::size_t>(index.begins[at]); b < static_cast<std::size_t>(index.begins[at + 1]);
           ++b) {
        if (index.sample[a] >= i0 && index.sample[a] < i1 && index.sample[b] >= j0 && index.sample[b] < j1) {
          f(index.sample[a], index.token[a], index.sample[b], index.token[b]);
        }
      }
    }
  }
}

/// s[j, i] = s[i, j] for the block [i0, i1) x [j0, j1).
template <class T>
void mirror(Index i0, Index i1, Index j0, Index j1, MatrixView<T> s) {
  for (Index j = j0; j < j1; ++j) {
    for (Index i = i0; i < i1; ++i) {
      s(j, i) = s(i, j);
    }
  }
}

}  // namespace reference

/// Similarities s_ij = Σ_p z_i(p)·z_j(p) of the samples i in [i0, i1) and j in [j0, j1), and their mirror s_ji.
/// z is (T, D) by token; s is (N, N).
template <class T>
void gram(ReferenceLane<T>&, const GramIndex& index, Input<T> z, Index i0, Index i1, Index j0, Index j1, Output<T> s) {
  for (Index i = i0; i < i1; ++i) {
    std::fill(s.row(i) + j0, s.row(i) + j1, T(0));
  }
  reference::for_each_pair(index, i0, i1, j0, j1, 0, index.positions, [&](Index i, Index t, Index j, Index u) {
    s(i, j) += reference::dot(z.row(t), z.row(u), z.cols());
  });
  reference::mirror(i0, i1, j0, j1, s);
}

/// dz_t = or += Σ_j g_ij z_j(p) for every token t of a sample i in [i0, i1) at a position p in [p0, p1). g (N, N)
template <class T>
void gram_backward(ReferenceLane<T>& lane, const GramIndex& index, Input<T> g, Input<T> z, Index i0, Index i1, Index p0,
                   Index p1, Write write, Output<T> dz) {
  if (write == Write::replace) {
    reference::for_each_pair(index, i0, i1, i0, i1, p0, p1,
                             [&](Index, Index t, Index, Index) { lane.fill(dz.slice_rows(t, t + 1), T(0)); });
  }
  reference::for_each_pair(index, i0, i1, 0, index.samples, p0, p1, [&](Index i, Index t, Index j, Index u) {
    lane.add_scaled(g(i, j), z.slice_rows(u, u + 1), dz.slice_rows(t, t + 1));
  });
}

/// g (i1 - i0, N) = s[i0..i1, :] + s[:, i0..i1]ᵀ
template <class T>
void add_transposed(ReferenceLane<T>&, Input<T> s, Index i0, Index i1, Output<T> g) {
  for (Index i = i0; i < i1; ++i) {
    for (Index j = 0; j < s.cols(); ++j) {
      g(i - i0, j) = s(i, j) + s(j, i);
    }
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
