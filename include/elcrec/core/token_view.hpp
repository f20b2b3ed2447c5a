#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <span>

#include "elcrec/core/column.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// S sequences with T tokens in all, one after the other, without gaps between them (a ragged batch). Every per-token
/// matrix of the library is (T, columns) in this order. Under Padding::paper each sequence has L tokens, some of them
/// item 0; under Padding::masked only real tokens are here. Operations need not know which: item 0 is never a key of
/// attention, and a query without any key attends to its whole sequence.
///
/// Non-owning. A part of a batch (`subrange`) is a TokenView again. The arrays are in host memory until a backend has
/// staged the batch; then only that backend's operations may read them, `host_offsets` excepted.
struct TokenView {
  Index max_length = 0;    ///< L; positions are in [0, L), the last item of a sequence at L - 1
  Index longest = 0;       ///< no sequence has more tokens
  Index first_sample = 0;  ///< number of the first sequence in its batch: random numbers are addressed by it
  Index first_token = 0;   ///< offsets[0], known without reading `offsets`
  Index token_count = 0;   ///< T
  std::span<const std::int32_t> offsets;    ///< (S + 1) sequence s starts at offsets[s] - first_token
  std::span<const ItemId> items;            ///< (T)
  std::span<const std::int32_t> positions;  ///< (T)
  /// `offsets` in host memory, whatever memory the other arrays are in: by these a batch is cut into parts.
  std::span<const std::int32_t> host_offsets;
  ColumnList columns;  ///< what else is known of tokens, sequences and batch

  [[nodiscard]] constexpr Index sequences() const { return ssize(offsets) - 1; }
  [[nodiscard]] constexpr Index tokens() const { return token_count; }

  /// Sequence s holds the tokens [begin(s), begin(s + 1)). Reads backend memory.
  [[nodiscard]] constexpr Index begin(Index s) const { return offsets[static_cast<std::size_t>(s)] - first_token; }
  [[nodiscard]] constexpr Index end(Index s) const { return begin(s + 1); }
  [[nodiscard]] constexpr Index length(Index s) const { return end(s) - begin(s); }
  /// begin(s), from host memory.
  [[nodiscard]] Index host_begin(Index s) const { return host_offsets[static_cast<std::size_t>(s)] - first_token; }

  [[nodiscard]] constexpr ItemId item(Index t) const { return items[static_cast<std::size_t>(t)]; }
  [[nodiscard]] constexpr Index position(Index t) const { return positions[static_cast<std::size_t>(t)]; }

  // Columns are looked up by name: once for a batch or a part of one, not for every token.

  template <Column C>
  [[nodiscard]] bool has() const {
    return columns.find(column_info<C>) != nullptr;
  }

  /// Column C: a row of values for each token, each sequence, or as many as there are. Throws ArgumentError that names
  /// the column, and what should bring it, if the batch has none, or one of another kind.
  template <Column C>
  [[nodiscard]] std::span<const typename C::Value> column() const {
    const ColumnView& found = column_view(column_info<C>);
    return {reinterpret_cast<const typename C::Value*>(found.data), static_cast<std::size_t>(found.size)};
  }

  /// Values in a row of column C; errors as for column.
  template <Column C>
  [[nodiscard]] Index width() const {
    return column_view(column_info<C>).width;
  }

  /// Throws ArgumentError if a value of column C is no row of a table of so many rows. Reads host memory only.
  template <Column C>
    requires std::same_as<typename C::Value, std::int32_t>
  void require_rows(Index rows) const {
    const ColumnView& found = column_view(column_info<C>);
    require(0 <= found.lowest && found.largest < rows, "column '", C::name, "': found the value ",
            found.lowest < 0 ? found.lowest : found.largest, ", expected 0 to ", rows - 1);
  }

  [[nodiscard]] const ColumnView& column_view(const ColumnInfo& wanted) const {
    const ColumnView* found = columns.find(wanted);
    if (found == nullptr) [[unlikely]] {
      throw ArgumentError(message("batch: found no column '", wanted.name, "', expected one (", wanted.kind(),
                                  "): ", wanted.source, " brings it",
                                  wanted.per == Per::batch ? ", of a whole batch and not of a part of one" : ""));
    }
    require(found->info->same_kind(wanted), "batch: found column '", wanted.name, "' with ", found->info->kind(),
            ", expected ", wanted.kind());
    return *found;
  }

  /// Address of a token's random numbers: the same under both paddings and for any split of the batch.
  [[nodiscard]] constexpr std::uint64_t random_row(Index s, Index t) const {
    return static_cast<std::uint64_t>((first_sample + s) * max_length + position(t));
  }

  /// Sequences [first, last), in the same memory, without the columns of the whole batch.
  [[nodiscard]] TokenView subrange(Index first, Index last) const {
    const Index t0 = host_begin(first);
    const Index t1 = host_begin(last);
    TokenView part = *this;
    part.first_sample += first;
    part.first_token += t0;
    part.token_count = t1 - t0;
    part.offsets = slice(offsets, first, last + 1);
    part.host_offsets = slice(host_offsets, first, last + 1);
    part.items = slice(items, t0, t1);
    part.positions = slice(positions, t0, t1);
    part.columns.clear();
    for (const ColumnView& column : columns) {
      if (column.info->per != Per::batch) {
        part.columns.push_back(column.info->per == Per::token ? column.rows(t0, t1) : column.rows(first, last));
      }
    }
    part.longest = 0;
    for (Index s = first; s < last; ++s) {
      part.longest = (std::max)(part.longest, host_begin(s + 1) - host_begin(s));
    }
    return part;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
