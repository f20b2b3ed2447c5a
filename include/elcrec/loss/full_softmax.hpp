#pragma once

#include <algorithm>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"

namespace elcrec {

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
      : items(std::min(table_rows, most_items)),
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

/// Cross entropy over all items at every target of view V, averaged and added to *loss; `weight` times its gradients go
/// to the step. With z = x·Eᵀ, p = softmax(z):
///
///   L = mean(logsumexp(z) - z_target),   dL/dx = mean (p·E - E_target),   dL/dE = mean (pᵀ·x - onehotᵀ·x)
///
/// With label smoothing s in [0, 1) the target's share is 1 - s and every item's s / V: E_target above is then
/// (1 - s) E_target + s mean(E), and the one of onehot 1 - s, with s / V added everywhere.
///
/// The queries pass in chunks whose logits take at most 16 MB, on a device 128 MB (of very large tables 32 queries'
/// logits), in blocks of items: a block is turned to exponentials against its own maximum while it is in a cache, and
/// once all blocks have told their maxima and sums it is read once more for both gradients. Three products a chunk and
/// block.
template <class V, class Step>
void evaluate_full_softmax(Step& step, double weight, double smoothing, double* loss) {
  using T = typename Step::Scalar;
  using Lane = typename Step::Lane;
  using In = MatrixView<const T>;
  using Blocks = detail::SoftmaxBlocks<Step::Backend::spreads_operations>;
  auto& input = step.template encoding<V>();
  const In all_items = step.items();
  const auto table = all_items.slice_rows(1, step.model().item_count() + 1);  // without padding and mask id
  const auto dtable = step.all_item_gradients().slice_rows(1, table.rows() + 1);
  const Index d = table.cols();
  const Index n = input.tokens.target_count;
  const double mean = 1.0 / static_cast<double>(std::max<Index>(1, n));
  const auto scale = static_cast<T>(weight * mean);
  const Blocks cut(table.rows());
  const Index tasks = (cut.blocks + cut.blocks_of_task - 1) / cut.blocks_of_task;

  // The target's own terms: -E_target at each query, -x at each target.
  const auto minus_scale = step.memory().template matrix<T>(1, input.tokens.tokens());
  step.backend().parallel_for(
      1, [&](Lane& lane, Index) { lane.fill(minus_scale, static_cast<T>(smoothing - 1) * scale); });
  step.add_item_rows({input.tokens.targets, minus_scale.flat(), input.y});

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
  const auto targets = step.memory().template array<ItemId>(cut.chunk);
  const auto mean_item = memory(1, d);
  const auto x_sum = memory(1, d);
  if (smoothing > 0) {
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.column_mean(table, mean_item);
      lane.fill(x_sum, T(0));
    });
  }
  for (Index first = 0; first < n; first += cut.chunk) {
    const Index rows = std::min(cut.chunk, n - first);
    const auto tokens = slice(input.tokens.target_tokens, first, first + rows);
    const auto xr = x.slice_rows(0, rows);
    const auto block = [&](Index b) {
      const Index width = std::min(cut.items, table.rows() - b * cut.items);
      return logits.slice_rows(b * cut.chunk, b * cut.chunk + rows).slice_cols(0, width);
    };
    const auto items_of = [&](auto matrix, Index b) {
      return matrix.slice_rows(b * cut.items, std::min(table.rows(), (b + 1) * cut.items));
    };
    const auto part = [&](auto statistics, Index b) { return statistics.slice_rows(b, b + 1).slice_cols(0, rows); };
    const auto dx_of = [&](Index task) { return dx.slice_rows(task * cut.chunk, task * cut.chunk + rows); };

    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.gather_rows(input.y, tokens, xr, Write::replace);
      lane.gather_ids(input.tokens.targets, tokens, targets);
      lane.gather_rows(all_items, targets, target_rows.slice_rows(0, rows), Write::replace);
      if (smoothing > 0) {
        lane.scale(static_cast<T>(1 - smoothing), target_rows.slice_rows(0, rows));
        lane.add_row(static_cast<T>(smoothing), mean_item, target_rows.slice_rows(0, rows));
        lane.add_column_sum(xr, x_sum);
      }
      lane.row_dots(xr, target_rows.slice_rows(0, rows), at_target.slice_cols(0, rows));
    });
    step.backend().parallel_for(cut.blocks, [&](Lane& lane, Index b) {
      lane.multiply_nt(xr, items_of(table, b), block(b), Write::replace);
      lane.exponentials(block(b), part(largest, b), part(sums, b));
    });
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.softmax_factors(largest.slice_cols(0, rows), sums.slice_cols(0, rows), at_target.slice_cols(0, rows), scale,
                           factors.slice_cols(0, rows), row_loss.slice_cols(0, rows));
      lane.add_sum(mean, row_loss.slice_cols(0, rows), loss);
    });
    step.backend().parallel_for(tasks, [&](Lane& lane, Index task) {
      const Index begin = task * cut.blocks_of_task;
      for (Index b = begin; b < std::min(cut.blocks, begin + cut.blocks_of_task); ++b) {
        lane.scale_rows(part(factors, b), block(b));
        lane.multiply_tn(block(b), xr, items_of(dtable, b), Write::add);
        lane.multiply_nn(block(b), items_of(table, b), dx_of(task), b == begin ? Write::replace : Write::add);
      }
    });
    constexpr Index row_grain = 64;
    step.backend().parallel_blocks(rows, row_grain, [&](Lane& lane, Index r0, Index r1) {
      const auto total = dx_of(0).slice_rows(r0, r1);
      for (Index task = 1; task < tasks; ++task) {
        lane.add_scaled(T(1), dx_of(task).slice_rows(r0, r1), total);
      }
      lane.add_scaled(-scale, target_rows.slice_rows(r0, r1), total);
      lane.scatter_add_rows(total, slice(tokens, r0, r1), input.dy);
    });
  }
  if (smoothing > 0) {
    const T share = static_cast<T>(smoothing / static_cast<double>(table.rows()));
    step.backend().parallel_for(1, [&](Lane& lane, Index) { lane.add_row(-scale * share, x_sum, dtable); });
  }
}

}  // namespace elcrec
