#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/backend/host_staging.hpp"
#include "elcrec/backend/reference/operations.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Plain loops on one thread: what the other backends are tested against. Use double.
template <class T>
class BasicReference {
 public:
  using Scalar = T;
  using Lane = ReferenceLane<T>;
  template <class U>
  using Buffer = HostBuffer<U>;
  using Workspace = typename Lane::Workspace;
  using Staging = HostStaging;

  /// A lane of one's own, for a thread of one's own.
  [[nodiscard]] static Lane make_lane() { return Lane(); }
  template <class U>
  [[nodiscard]] Buffer<U> allocate(Index n) const {
    return Buffer<U>(n);
  }
  [[nodiscard]] static Workspace make_workspace() { return Lane::make_workspace(); }
  template <class U>
  void copy(std::span<const std::type_identity_t<U>> from, std::span<U> to) const {
    std::copy(from.begin(), from.end(), to.begin());
  }

  /// Into how many parts a batch is cut for gradient accumulation, whatever the number of threads.
  [[nodiscard]] static constexpr Index slices() { return 1; }
  /// Tokens that a component takes through in one go.
  [[nodiscard]] static constexpr Index shard_tokens() { return Index{1} << 30; }
  [[nodiscard]] static constexpr Index threads() { return 1; }
  /// Sequences that are encoded in one go outside of training.
  [[nodiscard]] static constexpr Index encoded_sequences() { return 64; }
  /// Whether an operation spreads over the whole machine by itself, so that many small tasks only hold it up.
  static constexpr bool spreads_operations = false;

  /// Calls f, which runs the operations of a training step.
  template <class F>
  void run_step(F&& f) const {
    f();
  }

  /// f(lane, i) for i in [0, count).
  template <class F>
  void parallel_for(Index count, F&& f) const {
    Lane lane;
    for (Index i = 0; i < count; ++i) {
      f(lane, i);
    }
  }

  /// f(lane, begin, end) for blocks of at most `grain` that cover [0, count).
  template <class F>
  void parallel_blocks(Index count, [[maybe_unused]] Index grain, F&& f) const {
    Lane lane;
    if (count > 0) {
      f(lane, Index{0}, count);
    }
  }

  /// Adds rows to a table in the order given and remembers which ids were touched.
  class RowScatter {
   public:
    RowScatter(const BasicReference&, Index table_rows, ItemId skipped)
        : touched_(static_cast<std::size_t>(table_rows)), skipped_(skipped) {}

    void operator()(const BasicReference&, std::span<const RowContribution<T>> contributions, MatrixView<T> table) {
      for (const auto& part : contributions) {
        for (Index r = 0; r < ssize(part.ids); ++r) {
          const ItemId id = part.ids[static_cast<std::size_t>(r)];
          if (id == skipped_) {
            continue;
          }
          if (std::exchange(touched_[static_cast<std::size_t>(id)], char{1}) == 0) {
            ids_.push_back(id);
          }
          const T a = part.coefficients.empty() ? T(1) : part.coefficients[static_cast<std::size_t>(r)];
          for (Index c = 0; c < table.cols(); ++c) {
            table(id, c) += a * part.rows(r, c);
          }
        }
      }
    }

    /// Ids touched since the last clear, in the order of their first touch.
    [[nodiscard]] std::span<const ItemId> touched() const { return ids_; }
    /// Sets the touched rows of a table to 0, then clears.
    void clear_rows(const BasicReference&, MatrixView<T> table) {
      for (const ItemId id : ids_) {
        std::fill_n(table.row(id), table.cols(), T(0));
      }
      clear();
    }
    void clear() {
      ids_.clear();
      std::fill(touched_.begin(), touched_.end(), char{0});
    }

   private:
    std::vector<char> touched_;  // not bool: std::exchange needs a reference
    std::vector<ItemId> ids_;
    ItemId skipped_;
  };
};

using Reference = BasicReference<double>;

}  // namespace elcrec::inline ELCREC_TARGET
