#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec {

/// Plain loops on one thread: what the other backends are tested against. Use double.
template <class T>
class BasicReference {
 public:
  using Scalar = T;
  using Lane = ReferenceLane<T>;
  template <class U>
  using Buffer = HostBuffer<U>;
  using Workspace = typename Lane::Workspace;

  /// A batch in this backend's memory: here, the caller's own.
  [[nodiscard]] static TokenView stage(const TokenView& host) { return host; }

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

}  // namespace elcrec
