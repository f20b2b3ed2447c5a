#pragma once

#include <algorithm>
#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/loss/step.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// How the cross entropy over V items is cut. Fixed by V and the kind of backend, never by the number of threads.
/// `Spreads` is Backend::spreads_operations: a block fills a whole device, not a cache of one core.
template <bool Spreads>
struct SoftmaxBlocks {
  static constexpr Index most_items = Spreads ? Index{1} << 15 : 256;  ///< a CPU's block stays in a cache
  static constexpr Index most_queries = Spreads ? Index{1} << 13 : 1024;
  static constexpr Index budget = Spreads ? Index{1} << 25 : Index{1} << 22;  ///< logits of a chunk of queries
  static constexpr Index tasks = 16;  ///< at most: each sums a gradient of its own for the queries

  explicit SoftmaxBlocks(Index table_rows)
      : items((std::min)(table_rows, most_items)),
        room(items + 16),
        blocks((table_rows + items - 1) / items),
        blocks_of_task((blocks + tasks - 1) / tasks),
        chunk(std::clamp<Index>(budget / (blocks * items) / 32 * 32, 32, most_queries)) {}

  Index items;  ///< of a block of logits
  Index room;   ///< between its rows: a power of two would crowd a few cache sets
  Index blocks;
  Index blocks_of_task;
  Index chunk;  ///< queries at a time
};

}  // namespace detail

/// What the labels of a full softmax hold besides the target: shares of 0 or more, together less than 1.
struct SoftmaxLabels {
  double smoothing = 0;           ///< s: share that is spread over all items
  double agreement = 0;           ///< a: share of what the sequence's other encoding predicts; needs a second view
  bool padding_competes = false;  ///< whether id 0 is among the candidates, as in RecBole

  static void visit_options(auto& self, auto&& visitor) {
    visitor("smoothing", self.smoothing);
    visitor("agreement", self.agreement);
    visitor("padding_competes", self.padding_competes);
  }
  void check() const {
    check_share("smoothing", smoothing);
    check_share("agreement", agreement);
    require(smoothing + agreement < 1, "smoothing and agreement: found ", smoothing + agreement,
            " together, expected less than 1");
  }
};

/// Cross entropy over all items at every target of an encoding, averaged and added to *loss; `weight` times its
/// gradients go to the step. With z = x·Eᵀ, p = softmax(z):
///
///   L = mean(logsumexp(z) - z_target),   dL/dx = mean (p·E - E_target),   dL/dE = mean (pᵀ·x - onehotᵀ·x)
///
/// With label smoothing s the target's share is 1 - s and every item's s / V: E_target above is then
/// (1 - s) E_target + s mean(E), and the one of onehot 1 - s, with s / V added everywhere.
///
/// With a second encoding, of sequences with the same targets in the same order (the same ones under other dropout), L
/// is the mean over both, and what one predicts takes part in the other's label, as a constant:
///
///   label = (1 - s - a) onehot + s / V + a p',   dL/dx = mean (p - label)·E,   dL/dE = mean (p - label)ᵀ·x
///
/// It pulls the two towards each other as R-Drop does (Liang et al., "R-Drop: Regularized Dropout for Neural Networks",
/// NeurIPS 2021). *loss gets the part that does not depend on p', divided by its share 1 - a: the cross entropy with
/// smoothing s / (1 - a).
///
/// The queries pass in chunks whose logits take at most 16 MB, on a device 128 MB (of very large tables 32 queries'
/// logits), in blocks of items: a block is turned to exponentials against its own maximum while it is in a cache, and
/// once all blocks have told their maxima and sums it is read once more for both gradients. Three products a chunk and
/// block.
template <TrainingStep Step>
void full_softmax(Step& step, std::span<Encoding<typename Step::Scalar>* const> sides, double weight,
                  const SoftmaxLabels& labels, double* loss) {
  using T = typename Step::Scalar;
  using Lane = typename Step::Lane;
  static_assert(operation::Softmax<Lane>, "full_softmax: the lane lacks operations of operation::Softmax");
  using In = MatrixView<const T>;
  using Blocks = detail::SoftmaxBlocks<Step::Backend::spreads_operations>;
  const Index side_count = ssize(sides);
  const In all_items = step.scored_items();
  const Index candidate = labels.padding_competes ? 0 : 1;  // the first; the mask id is none
  const auto table = all_items.slice_rows(candidate, step.model().item_count() + 1);
  const auto dtable = step.scored_items_gradient().all().slice_rows(candidate, candidate + table.rows());
  const Index d = table.cols();
  const Index n = ssize(sides[0]->tokens.template column<TargetTokens>());
  const double mean = 1.0 / static_cast<double>(side_count * std::max<Index>(1, sides[0]->targets));
  const double agreement = side_count == 2 ? labels.agreement : 0;
  const double fixed = 1 - agreement;  // share of the label that is known beforehand
  const double spread = labels.smoothing / fixed;
  const auto scale = static_cast<T>(weight * mean);
  const auto fixed_scale = static_cast<T>(weight * mean * fixed);
  const Blocks cut(table.rows());
  const Index tasks = (cut.blocks + cut.blocks_of_task - 1) / cut.blocks_of_task;
  const Index chunk = cut.chunk / side_count;  // targets at a time, each with a query of every side

  // The target's own terms: -E_target at each query, -x at each target.
  for (const auto* side : sides) {
    const auto minus_scale = step.memory().template matrix<T>(1, side->tokens.tokens());
    step.backend().parallel_for(
        1, [&](Lane& lane, Index) { lane.fill(minus_scale, static_cast<T>(spread - 1) * fixed_scale); });
    step.scored_items_gradient().add({side->tokens.template column<Targets>(), minus_scale.flat(), side->q});
  }

  const auto frame = step.memory().frame();
  const auto memory = [&](Index rows, Index cols) { return step.memory().template matrix<T>(rows, cols); };
  const auto x = memory(cut.chunk, d);
  const auto at_target = memory(1, cut.chunk);
  const auto target_rows = memory(cut.chunk, d);
  const auto logits = memory(cut.blocks * cut.chunk, cut.room);
  const auto largest = memory(cut.blocks, cut.chunk);
  const auto sums = memory(cut.blocks, cut.chunk);
  const auto factors = memory(cut.blocks, cut.chunk);
  const auto row_loss = memory(1, cut.chunk);
  const auto dx = memory(tasks * cut.chunk, d);
  const auto targets = step.memory().template array<ItemId>(chunk);
  const auto mean_item = memory(1, d);
  const auto x_sum = memory(1, d);
  if (spread > 0) {
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.column_mean(table, mean_item);
      lane.fill(x_sum, T(0));
    });
  }
  for (Index first = 0; first < n; first += chunk) {
    const Index count = (std::min)(chunk, n - first);
    const Index rows = side_count * count;
    const auto tokens_of = [&](const auto& side) {
      return slice(side.tokens.template column<TargetTokens>(), first, first + count);
    };
    const auto of_side = [&](auto matrix, Index side) { return matrix.slice_rows(side * count, (side + 1) * count); };
    const auto xr = x.slice_rows(0, rows);
    const auto target_rows_r = target_rows.slice_rows(0, rows);
    const auto block = [&](Index b) {
      const Index width = (std::min)(cut.items, table.rows() - b * cut.items);
      return logits.slice_rows(b * cut.chunk, b * cut.chunk + rows).slice_cols(0, width);
    };
    const auto items_of = [&](auto matrix, Index b) {
      return matrix.slice_rows(b * cut.items, (std::min)(table.rows(), (b + 1) * cut.items));
    };
    const auto part = [&](auto statistics, Index b) { return statistics.slice_rows(b, b + 1).slice_cols(0, rows); };
    const auto dx_of = [&](Index task) { return dx.slice_rows(task * cut.chunk, task * cut.chunk + rows); };

    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      const auto ids = slice(targets, 0, count);
      lane.gather_ids(sides[0]->tokens.template column<Targets>(), tokens_of(*sides[0]), ids);
      for (Index side = 0; side < side_count; ++side) {
        const auto& encoding = *sides[static_cast<std::size_t>(side)];
        lane.gather_rows(encoding.q, tokens_of(encoding), of_side(xr, side), Write::replace);
        lane.gather_rows(all_items, ids, of_side(target_rows_r, side), Write::replace);
      }
      if (spread > 0) {
        lane.scale(static_cast<T>(1 - spread), target_rows_r);
        lane.add_row(static_cast<T>(spread), mean_item, target_rows_r);
        lane.add_column_sum(xr, x_sum);
      }
      lane.row_dots(xr, target_rows_r, at_target.slice_cols(0, rows));
    });
    step.backend().parallel_for(cut.blocks, [&](Lane& lane, Index b) {
      lane.multiply_nt(xr, items_of(table, b), block(b), Write::replace);
      exponentials(lane, block(b), part(largest, b), part(sums, b));
    });
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      softmax_factors(lane, largest.slice_cols(0, rows), sums.slice_cols(0, rows), at_target.slice_cols(0, rows), scale,
                      factors.slice_cols(0, rows), row_loss.slice_cols(0, rows));
      lane.add_sum(mean, row_loss.slice_cols(0, rows), loss);
    });
    step.backend().parallel_for(tasks, [&](Lane& lane, Index task) {
      const Index begin = task * cut.blocks_of_task;
      for (Index b = begin; b < (std::min)(cut.blocks, begin + cut.blocks_of_task); ++b) {
        lane.scale_rows(part(factors, b), block(b));
        if (agreement > 0) {  // p - a p' and p' - a p, in place
          const auto a = static_cast<T>(agreement);
          const auto p = of_side(block(b), 0);
          const auto other = of_side(block(b), 1);
          lane.add_scaled(-a, other, p);
          lane.scale(1 - a * a, other);
          lane.add_scaled(-a, p, other);
        }
        lane.multiply_tn(block(b), xr, items_of(dtable, b), Write::add);
        lane.multiply_nn(block(b), items_of(table, b), dx_of(task), b == begin ? Write::replace : Write::add);
      }
    });
    for (Index side = 0; side < side_count; ++side) {
      const auto& encoding = *sides[static_cast<std::size_t>(side)];
      constexpr Index row_grain = 64;
      step.backend().parallel_blocks(count, row_grain, [&](Lane& lane, Index r0, Index r1) {
        const auto part_of = [&](auto matrix) { return of_side(matrix, side).slice_rows(r0, r1); };
        const auto total = part_of(dx_of(0));
        for (Index task = 1; task < tasks; ++task) {
          lane.add_scaled(T(1), part_of(dx_of(task)), total);
        }
        lane.add_scaled(-fixed_scale, part_of(target_rows_r), total);
        lane.scatter_add_rows(total, slice(tokens_of(encoding), r0, r1), encoding.dq);
      });
    }
  }
  if (spread > 0) {
    const T share = static_cast<T>(spread / static_cast<double>(table.rows()));
    step.backend().parallel_for(1, [&](Lane& lane, Index) { lane.add_row(-fixed_scale * share, x_sum, dtable); });
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
