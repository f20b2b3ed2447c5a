#pragma once

#include <algorithm>
#include <utility>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

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

}  // namespace elcrec::inline ELCREC_TARGET::detail
