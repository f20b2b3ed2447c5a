#pragma once

#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/row_scatter.hpp"
#include "elcrec/backend/cuda/staging.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::cuda {

/// Scattered additions to the rows of a table on a backend's stream, in the order given for each id.
template <class T>
class RowScatter {
 public:
  /// Ids equal to `skipped` take no part.
  template <class Backend>
  RowScatter(const Backend& backend, Index table_rows, ItemId skipped)
      : context_(backend.context()),
        known_(backend.template allocate<std::int32_t>(table_rows)),
        ids_(backend.template allocate<ItemId>(table_rows)),
        count_(backend.template allocate<std::int32_t>(1)),
        host_count_(1),
        skipped_(skipped) {
    host_count_.span()[0] = 0;
  }

  /// table[ids] += rows. Touched ids are remembered until clear().
  template <class Backend>
  void operator()(const Backend& backend, std::span<const RowContribution<T>> contributions, MatrixView<T> table) {
    const TouchedIds ids = touched_ids();
    backend.parallel_for(1, [&](auto& lane, Index) {
      scatter_rows(lane.stream(), lane.workspace(), contributions, skipped_, table, &ids);
    });
    copy_count();
  }

  /// Ids touched since the last clear, in the order of their first touch, in device memory. Waits for the stream.
  [[nodiscard]] std::span<const ItemId> touched() const {
    check(cudaStreamSynchronize(context_->main().handle), "cudaStreamSynchronize");
    return {ids_.data(), static_cast<std::size_t>(host_count_.span()[0])};
  }

  /// Sets the touched rows of a table to 0, then clears.
  template <class Backend>
  void clear_rows(const Backend&, MatrixView<T> table) {
    clear_touched_rows(context_->main(), touched_ids(), table);
    clear();
  }

  void clear() {
    forget_touched(context_->main(), touched_ids(), known_.size());
    copy_count();
  }

 private:
  [[nodiscard]] TouchedIds touched_ids() { return {known_.data(), ids_.data(), count_.data()}; }

  void copy_count() {
    const Stream& stream = context_->main();
    const DeviceGuard guard(stream.device);
    check(cudaMemcpyAsync(host_count_.span().data(), count_.data(), sizeof(std::int32_t), cudaMemcpyDeviceToHost,
                          stream.handle),
          "cudaMemcpyAsync");
  }

  std::shared_ptr<const Context> context_;
  DeviceBuffer<std::int32_t> known_;  // (V)
  DeviceBuffer<ItemId> ids_;          // (V)
  DeviceBuffer<std::int32_t> count_;
  PinnedBuffer<std::int32_t> host_count_;
  ItemId skipped_;
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
