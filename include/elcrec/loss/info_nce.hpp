#pragma once

#include <algorithm>
#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct InfoNceOptions {
  double temperature = 1.0;
  double share = 1.0;   ///< factor of the loss, and so of its gradient
  double weight = 1.0;  ///< factor of the gradient alone
};

/// InfoNCE (van den Oord et al., 2018) between two views of N/2 samples, rows i and i + N/2 being a pair:
///
///   L = mean_i [ logsumexp_{j ≠ i} s_ij / τ  -  s_i,pair(i) / τ ],   s_ij = Σ_p z_i(p)·z_j(p)
///
/// z (T, D) holds the samples' tokens, `index` says which stand at the same position. Where `labels` (N/2) are given,
/// samples of one label are not negatives of each other (false-negative masking). Adds share · L to *loss and writes
/// share · weight · dL/dz to dz. `memory` gives 2N² + N scalars. The similarities are symmetric: only half of the tiles
/// are computed.
template <Backend B>
void info_nce(const B& backend, typename B::Workspace& memory, const GramIndex& index,
              MatrixView<const typename B::Scalar> z, std::span<const std::int32_t> labels,
              const InfoNceOptions& options, double* loss, MatrixView<typename B::Scalar> dz) {
  using T = typename B::Scalar;
  using Lane = typename B::Lane;
  static_assert(operation::InfoNce<Lane>, "info_nce: the lane lacks operations of operation::InfoNce");
  const Index n = index.samples;
  // Samples of a task: both operands are read again for every tile.
  const Index tile = B::spreads_operations ? std::max<Index>(1, n) : 128;
  const double mean = options.share / static_cast<double>(n);
  const auto frame = memory.frame();
  const auto s = memory.template matrix<T>(n, n);
  const auto g = memory.template matrix<T>(n, n);
  const auto row_loss = memory.template matrix<T>(1, n);

  const Index tiles = (n + tile - 1) / tile;
  backend.parallel_for(tiles * (tiles + 1) / 2, [&](Lane& lane, Index pair) {
    Index i = 0;
    while (pair > i) {
      pair -= ++i;
    }
    const auto end = [&](Index t) { return (std::min)(n, (t + 1) * tile); };
    gram(lane, index, z, i * tile, end(i), pair * tile, end(pair), s);
  });
  constexpr Index rows = 32;
  backend.parallel_blocks(n, rows, [&](Lane& lane, Index first, Index last) {
    info_nce_rows(lane, labels, static_cast<T>(options.temperature), static_cast<T>(options.weight * mean), first, last,
                  s, row_loss);
  });
  backend.parallel_blocks(n, rows, [&](Lane& lane, Index first, Index last) {
    add_transposed(lane, s, first, last, g.slice_rows(first, last));
  });
  // Where samples fill all of many positions, a task takes two of these and every sample, so that z is read once.
  // Elsewhere the positions are too unequal (most samples stand at the last one): a task takes some samples.
  const bool by_position = index.dense && index.positions >= 8;
  const Index grain = by_position ? 2 : tile / 2;
  backend.parallel_blocks(by_position ? index.positions : n, grain, [&](Lane& lane, Index first, Index last) {
    gram_backward(lane, index, g, z, by_position ? 0 : first, by_position ? n : last, by_position ? first : 0,
                  by_position ? last : index.positions, Write::replace, dz);
  });
  backend.parallel_for(1, [&](Lane& lane, Index) { lane.add_sum(mean, row_loss, loss); });
}

}  // namespace elcrec::inline ELCREC_TARGET
