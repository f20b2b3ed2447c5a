#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What each row of a column belongs to.
enum class Per {
  token,     ///< cut, padded and masked as the items are
  sequence,  ///< one row for each sequence
  batch      ///< any number of rows, of the batch as a whole: a part of the batch has none of them
};

/// A column of a batch is named by a type:
///
///   struct Users {
///     using Value = std::int32_t;                             // or float
///     static constexpr std::string_view name = "users";       // in messages; columns of one name are the same
///     static constexpr Per per = Per::sequence;
///     static constexpr std::string_view source = "InputView"; // what should bring it, for the message where nobody
///     did
///   };
///
/// Where there is no value, it holds 0: an int32 column counts from 1, as items do. A column per token of width 1 may
/// have `using Listed = Other`, a column per batch that then lists the tokens whose value is not 0, ascending.
template <class C>
concept Column = (std::same_as<typename C::Value, std::int32_t> || std::same_as<typename C::Value, float>)&&requires {
  { C::name } -> std::convertible_to<std::string_view>;
  { C::per } -> std::convertible_to<Per>;
  { C::source } -> std::convertible_to<std::string_view>;
};

/// Either kind of value has so many bytes.
inline constexpr Index column_value_bytes = 4;

/// What a Column says, for code that takes any.
struct ColumnInfo {
  std::string_view name;
  std::string_view source;
  Per per;
  bool is_float;
  const ColumnInfo* listed;

  [[nodiscard]] constexpr bool same_kind(const ColumnInfo& other) const {
    return per == other.per && is_float == other.is_float;
  }
  /// What operator<< writes as "int32 per token".
  struct Kind {
    Per per;
    bool is_float;

    friend std::ostream& operator<<(std::ostream& out, const Kind& kind) {
      constexpr std::array<std::string_view, 3> rows{"token", "sequence", "batch"};
      return out << (kind.is_float ? "float" : "int32") << " per " << rows[static_cast<std::size_t>(kind.per)];
    }
  };
  [[nodiscard]] constexpr Kind kind() const { return {per, is_float}; }
};

template <Column C>
[[nodiscard]] consteval const ColumnInfo* listed_info();

template <Column C>
inline constexpr ColumnInfo column_info{C::name, C::source, C::per, std::same_as<typename C::Value, float>,
                                        listed_info<C>()};

template <Column C>
consteval const ColumnInfo* listed_info() {
  if constexpr (requires { typename C::Listed; }) {
    static_assert(C::per == Per::token && C::Listed::per == Per::batch, "tokens of a column are listed by the batch");
    return &column_info<typename C::Listed>;
  } else {
    return nullptr;
  }
}

/// A column of a batch in the memory of whoever has the batch: R rows of `width` values, row-major.
struct ColumnView {
  const ColumnInfo* info = nullptr;
  const std::byte* data = nullptr;
  Index size = 0;   ///< R · width
  Index width = 1;  ///< values of a row
  /// No value of an int32 column is outside [lowest, largest], nor 0; known in host memory.
  std::int32_t lowest = 0;
  std::int32_t largest = 0;

  /// Rows [first, last).
  [[nodiscard]] ColumnView rows(Index first, Index last) const {
    ColumnView part = *this;
    part.data += first * width * column_value_bytes;
    part.size = (last - first) * width;
    return part;
  }
};

/// The columns of a TokenView, by value.
class ColumnList {
 public:
  static constexpr std::size_t most = 12;

  /// Throws ArgumentError for more than `most` columns.
  void push_back(const ColumnView& column) {
    require(size_ < most, "batch: found column '", column.info->name, "' beside ", size_, " others, expected at most ",
            most, " in all");
    columns_[size_++] = column;
  }
  void clear() { size_ = 0; }

  [[nodiscard]] ColumnView* begin() { return columns_.data(); }
  [[nodiscard]] ColumnView* end() { return columns_.data() + size_; }
  [[nodiscard]] const ColumnView* begin() const { return columns_.data(); }
  [[nodiscard]] const ColumnView* end() const { return columns_.data() + size_; }

  /// The column of that name, or nullptr.
  [[nodiscard]] const ColumnView* find(const ColumnInfo& wanted) const {
    for (const ColumnView& column : *this) {
      if (column.info == &wanted || column.info->name == wanted.name) {
        return &column;
      }
    }
    return nullptr;
  }

 private:
  std::array<ColumnView, most> columns_;
  std::size_t size_ = 0;
};

}  // namespace elcrec::inline ELCREC_TARGET
