#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::detail {

/// Scattered additions to the rows of a table without atomics: contributions are grouped by id (counting sort), then
/// every id is summed by one task in the order in which its contributions came. Work and the bits of the result do not
/// depend on the number of threads; time does not depend on the size of the table. AddScaled()(a, x, y, n) does y += a
/// x.
template <class T, class AddScaled>
class RowScatter {
 public:
  /// Ids equal to `skipped` take no part.
  template <class Backend>
  RowScatter(const Backend&, Index table_rows, ItemId skipped)
      : slot_(static_cast<std::size_t>(table_rows), -1), skipped_(skipped) {}

  /// table[ids] += rows. Touched ids are remembered until clear().
  template <class Backend>
  void operator()(const Backend& backend, std::span<const RowContribution<T>> contributions, MatrixView<T> table) {
    count(contributions);
    place(contributions);
    constexpr Index grain = 64;
    backend.parallel_blocks(static_cast<Index>(ends_.size()), grain, [&](auto&, Index first, Index last) {
      for (Index slot = first; slot < last; ++slot) {
        const auto s = static_cast<std::size_t>(slot);
        T* row = table.row(ids_[s]);
        for (std::int32_t e = s == 0 ? 0 : ends_[s - 1]; e < ends_[s]; ++e) {
          const auto [part, r] = entries_[static_cast<std::size_t>(e)];
          const auto& from = contributions[static_cast<std::size_t>(part)];
          const T a = from.coefficients.empty() ? T(1) : from.coefficients[static_cast<std::size_t>(r)];
          AddScaled()(a, from.rows.row(r), row, table.cols());
        }
      }
    });
  }

  /// Ids touched since the last clear, in the order of their first touch.
  [[nodiscard]] std::span<const ItemId> touched() const { return ids_; }

  /// Sets the touched rows of a table to 0, then clears.
  template <class Backend>
  void clear_rows(const Backend&, MatrixView<T> table) {
    for (const ItemId id : ids_) {
      std::fill_n(table.row(id), table.cols(), T(0));
    }
    clear();
  }

  void clear() {
    for (const ItemId id : ids_) {
      slot_[static_cast<std::size_t>(id)] = -1;
    }
    ids_.clear();
  }

 private:
  struct Entry {
    std::int32_t part;
    std::int32_t row;
  };

  template <class F>
  void for_each(std::span<const RowContribution<T>> contributions, F f) const {
    for (std::size_t part = 0; part < contributions.size(); ++part) {
      const auto ids = contributions[part].ids;
      for (std::size_t r = 0; r < ids.size(); ++r) {
        if (ids[r] != skipped_) {
          f(ids[r], Entry{static_cast<std::int32_t>(part), static_cast<std::int32_t>(r)});
        }
      }
    }
  }

  void count(std::span<const RowContribution<T>> contributions) {
    ends_.assign(ids_.size(), 0);
    for_each(contributions, [&](ItemId id, Entry) {
      auto& slot = slot_[static_cast<std::size_t>(id)];
      if (slot < 0) {
        slot = static_cast<std::int32_t>(ids_.size());
        ids_.push_back(id);
        ends_.push_back(0);
      }
      ++ends_[static_cast<std::size_t>(slot)];
    });
  }

  /// Turns counts into starts, and starts into ends by filling.
  void place(std::span<const RowContribution<T>> contributions) {
    std::int32_t start = 0;
    for (auto& n : ends_) {
      start += std::exchange(n, start);
    }
    entries_.resize(static_cast<std::size_t>(start));
    for_each(contributions, [&](ItemId id, Entry entry) {
      const auto slot = static_cast<std::size_t>(slot_[static_cast<std::size_t>(id)]);
      entries_[static_cast<std::size_t>(ends_[slot]++)] = entry;
    });
  }

  std::vector<std::int32_t> slot_;  ///< place of an id in ids_, or -1
  std::vector<ItemId> ids_;
  std::vector<std::int32_t> ends_;  ///< entries of ids_[s] end here
  std::vector<Entry> entries_;
  ItemId skipped_;
};

}  // namespace elcrec::inline ELCREC_TARGET::detail
