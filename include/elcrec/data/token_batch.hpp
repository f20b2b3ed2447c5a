#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What a batch holds besides real items. Both give the same encoder output at real positions, next-item loss and
/// scores.
enum class Padding {
  paper,  ///< every sequence is filled up to L tokens with item 0 on the left, and padding takes part in means and sums
          ///< over positions, as in the released code
  masked  ///< real tokens only: 5 to 8 times less work on the paper's data
};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Padding>{"paper", "masked"};

/// Values for a column, as TokenBatch takes them; refers to the caller's.
struct ColumnValues {
  const ColumnInfo* info;
  const std::byte* data;
  Index size;
  Index width;
};

/// Rows of `width` values each for column C.
template <Column C>
[[nodiscard]] ColumnValues with(std::span<const typename C::Value> values, Index width = 1) {
  return {&column_info<C>, std::as_bytes(values).data(), ssize(values), width};
}
/// The single value of a row.
template <Column C>
[[nodiscard]] ColumnValues with(const typename C::Value& value) {
  return with<C>(std::span<const typename C::Value>(&value, 1));
}

/// Owns the tokens and columns of a batch in host memory and grows sequence by sequence. Reuse one object: its
/// capacity stays.
class TokenBatch {
 public:
  /// Empties the batch.
  void start(Index max_length, Padding padding) {
    require(1 <= max_length && max_length <= most_tokens, "maximum length: found ", max_length, ", expected 1 to ",
            most_tokens);
    max_length_ = max_length;
    padding_ = padding;
    longest_ = 0;
    first_sample_ = 0;
    offsets_.assign(1, 0);
    items_.clear();
    positions_.clear();
    for (auto& column : columns_) {
      column.in_use = false;
    }
  }

  /// Appends a sequence of n items: its last L, the last one at position L - 1. A column per token has a row for each
  /// item (of all n), a column per sequence one row, or nothing: then, and where a sequence does not name a column, the
  /// row is 0. Throws ArgumentError for another number of values, a width that is not the column's, and more tokens
  /// than an offset can count; the batch is then as before.
  ///
  ///   batch.add(items, {with<Targets>(targets), with<Negatives>(negatives, 4), with<Users>(user)});
  void add(std::span<const ItemId> items, std::initializer_list<ColumnValues> columns = {}) {
    const Index n = ssize(items);
    for (const ColumnValues& values : columns) {
      const Index rows = values.info->per == Per::token ? n : 1;
      check(values);
      require(values.info->per != Per::batch, "column '", values.info->name,
              "': found it with a sequence, expected append(): it is the whole batch's");
      require(values.size == 0 || values.size == rows * values.width, "column '", values.info->name, "': found ",
              values.size, " values for ", n, " items, expected ", rows * values.width, " or none");
    }
    const Index most_added = padding_ == Padding::paper ? max_length_ : (std::min)(n, max_length_);
    require(most_added <= most_tokens - tokens(), "batch: found ", most_added, " tokens more than the ", tokens(),
            " in it, expected at most ", most_tokens, "; a smaller batch size or maximum length takes fewer");

    const Index first_token = tokens();
    const Index first = std::max<Index>(0, n - max_length_);
    const Index shift = max_length_ - n;  // from number to position
    const Index pad = padding_ == Padding::paper ? first + shift : 0;
    for (Index p = 0; p < pad; ++p) {
      push(padding_item, p);
    }
    const bool whole =
        padding_ == Padding::paper || std::find(items.begin() + first, items.end(), padding_item) == items.end();
    const auto for_each_kept = [&](auto f) { whole ? f(first, n) : for_each_run(items, first, f); };
    for_each_kept([&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        push(items[static_cast<std::size_t>(i)], shift + i);
      }
    });
    for (const ColumnValues& values : columns) {
      if (values.size == 0) {
        continue;
      }
      Stored& column = use(values);
      if (values.info->per == Per::sequence) {
        column.resize(sequences());
        column.append(values, 0, 1);
      } else {
        column.resize(first_token + pad);
        for_each_kept([&](Index begin, Index end) { column.append(values, begin, end); });
        if (values.info->listed != nullptr) {
          list_tokens(column, first_token);
        }
      }
    }
    longest_ = std::max<Index>(longest_, tokens() - offsets_.back());
    offsets_.push_back(static_cast<std::int32_t>(tokens()));
    for (Stored& column : columns_) {
      if (column.in_use && column.info->per != Per::batch) {
        column.resize(column.info->per == Per::token ? tokens() : sequences());
      }
    }
  }

  /// Appends rows to a column per batch. Throws ArgumentError for a column of another kind.
  void append(const ColumnValues& values) {
    check(values);
    require(values.info->per == Per::batch, "column '", values.info->name, "': found ", values.info->kind(),
            " and no sequence, expected add()");
    use(values).append(values, 0, values.size / values.width);
  }

  /// Appends `items` and `last` after them as one sequence. Its columns are per sequence.
  void add_ending_in(std::span<const ItemId> items, ItemId last, std::initializer_list<ColumnValues> columns = {}) {
    const auto kept = items.last((std::min)(items.size(), static_cast<std::size_t>(max_length_) - 1));
    joined_.assign(kept.begin(), kept.end());
    joined_.push_back(last);
    add(joined_, columns);
  }

  /// Becomes the sequences [first, last) of another batch, whose numbers there they keep: random numbers are addressed
  /// by them. They have their columns; of those per batch only the lists of tokens are there.
  void assign(const TokenBatch& all, Index first, Index last) {
    start(all.max_length_, all.padding_);
    first_sample_ = all.first_sample_ + first;
    const auto begin = all.offsets_[static_cast<std::size_t>(first)];
    const auto end = all.offsets_[static_cast<std::size_t>(last)];
    items_.assign(all.items_.begin() + begin, all.items_.begin() + end);
    positions_.assign(all.positions_.begin() + begin, all.positions_.begin() + end);
    for (Index s = first + 1; s <= last; ++s) {
      const auto offset = all.offsets_[static_cast<std::size_t>(s)] - begin;
      longest_ = std::max<Index>(longest_, offset - offsets_.back());
      offsets_.push_back(offset);
    }
    for (const Stored& column : all.columns_) {
      if (!column.in_use || column.info->per == Per::batch) {
        continue;
      }
      const ColumnValues values{column.info, column.values.data(), 0, column.width};
      const bool by_token = column.info->per == Per::token;
      Stored& part = use(values);
      part.append(values, by_token ? begin : first, by_token ? end : last);
      if (column.info->listed != nullptr) {
        list_tokens(part, 0);
      }
    }
  }

  /// Rows of column C, 0 where it is not there.
  template <Column C>
  [[nodiscard]] Index count() const {
    for (const Stored& column : columns_) {
      if (column.in_use && column.info->name == C::name) {
        return column.view().size / column.width;
      }
    }
    return 0;
  }

  [[nodiscard]] Index max_length() const { return max_length_; }
  [[nodiscard]] Index sequences() const { return offsets_.empty() ? 0 : static_cast<Index>(offsets_.size()) - 1; }
  [[nodiscard]] Index tokens() const { return static_cast<Index>(items_.size()); }

  /// Valid until the batch changes. Throws ArgumentError for more columns than a view has room for.
  [[nodiscard]] TokenView view() const {
    TokenView v;
    v.max_length = max_length_;
    v.longest = longest_;
    v.first_sample = first_sample_;
    v.token_count = tokens();
    v.offsets = offsets_.empty() ? std::span(no_sequences) : std::span(offsets_);
    v.host_offsets = v.offsets;
    v.items = items_;
    v.positions = positions_;
    for (const Stored& column : columns_) {
      if (column.in_use) {
        v.columns.push_back(column.view());
      }
    }
    return v;
  }

 private:
  /// A column, or the memory of one that an earlier batch had.
  struct Stored {
    const ColumnInfo* info = nullptr;
    bool in_use = false;
    Index width = 1;
    std::int32_t lowest = 0;
    std::int32_t largest = 0;
    std::vector<std::byte> values;

    void start(const ColumnValues& first) {
      info = first.info;
      in_use = true;
      width = first.width;
      lowest = 0;
      largest = 0;
      values.clear();
    }
    /// To so many rows; new ones are 0.
    void resize(Index rows) { values.resize(static_cast<std::size_t>(rows * width * column_value_bytes)); }
    /// Appends rows [begin, end) of `from`.
    void append(const ColumnValues& from, Index begin, Index end) {
      const std::byte* data = from.data + begin * width * column_value_bytes;
      const std::byte* data_end = from.data + end * width * column_value_bytes;
      values.insert(values.end(), data, data_end);
      if (!info->is_float) {
        std::int32_t low = lowest;
        std::int32_t high = largest;
        for (; data != data_end; data += column_value_bytes) {
          const std::int32_t value = read(data);
          low = (std::min)(low, value);
          high = (std::max)(high, value);
        }
        lowest = low;
        largest = high;
      }
    }
    [[nodiscard]] ColumnView view() const {
      return {info, values.data(), static_cast<Index>(values.size()) / column_value_bytes, width, lowest, largest};
    }
  };

  static std::int32_t read(const std::byte* data) {
    std::int32_t value = 0;
    std::memcpy(&value, data, sizeof value);
    return value;
  }

  void push(ItemId item, Index position) {
    items_.push_back(item);
    positions_.push_back(static_cast<std::int32_t>(position));
  }

  /// f(begin, end) for the runs of items from `first` on that are not masked.
  template <class F>
  static void for_each_run(std::span<const ItemId> items, Index first, F f) {
    while (first < ssize(items)) {
      const auto from = items.begin() + first;
      const auto begin = std::find_if(from, items.end(), [](ItemId item) { return item != padding_item; });
      const auto end = std::find(begin, items.end(), padding_item);
      f(begin - items.begin(), end - items.begin());
      first = end - items.begin();
    }
  }

  /// The column of that name, in use or not, or nullptr.
  [[nodiscard]] Stored* find(const ColumnInfo& wanted) {
    const auto found = std::find_if(columns_.begin(), columns_.end(),
                                    [&](const Stored& c) { return c.info == &wanted || c.info->name == wanted.name; });
    return found == columns_.end() ? nullptr : &*found;
  }

  /// Throws ArgumentError where the values do not go with the column as it is.
  void check(const ColumnValues& values) {
    require(values.width >= 1, "column '", values.info->name, "': found width ", values.width, ", expected at least 1");
    const Stored* column = find(*values.info);
    if (column != nullptr && column->in_use) {
      require(column->info->same_kind(*values.info), "column '", values.info->name, "': found ", values.info->kind(),
              ", expected ", column->info->kind(), " as in the sequences before");
      require(values.size == 0 || column->width == values.width, "column '", values.info->name, "': found width ",
              values.width, ", expected ", column->width, " as in the sequences before");
    }
  }

  /// The column that checked values are for.
  Stored& use(const ColumnValues& values) {
    Stored* column = find(*values.info);
    if (column == nullptr) {
      column = &columns_.emplace_back();
    }
    if (!column->in_use) {
      column->start(values);
      if (values.info->listed != nullptr) {
        use({values.info->listed, nullptr, 0, 1});
        return *find(*values.info);  // where a new column moved it
      }
    }
    return *column;
  }

  /// Lists the tokens from `first` on that have a value.
  void list_tokens(const Stored& column, Index first) {
    Stored& list = *find(*column.info->listed);
    const std::byte* data = column.values.data() + first * column_value_bytes;
    for (auto t = static_cast<std::int32_t>(first); t < tokens(); ++t, data += column_value_bytes) {
      if (read(data) != 0) {
        const auto token = std::as_bytes(std::span(&t, 1));
        list.values.insert(list.values.end(), token.begin(), token.end());
        list.largest = t;
      }
    }
  }

  static constexpr Index most_tokens = (std::numeric_limits<std::int32_t>::max)();

  static constexpr std::array<std::int32_t, 1> no_sequences{0};

  Index max_length_ = 1;
  Padding padding_ = Padding::masked;
  Index longest_ = 0;
  Index first_sample_ = 0;
  std::vector<std::int32_t> offsets_;  // empty as long as nothing was added: a new batch allocates nothing
  std::vector<std::int32_t> items_;
  std::vector<std::int32_t> positions_;
  std::vector<Stored> columns_;
  std::vector<ItemId> joined_;  // of add_ending_in
};

}  // namespace elcrec::inline ELCREC_TARGET
