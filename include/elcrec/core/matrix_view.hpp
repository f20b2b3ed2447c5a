#pragma once

#include <cassert>
#include <span>
#include <type_traits>

#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

template <Index Value>
struct Extent {
  constexpr Extent() = default;
  constexpr explicit Extent([[maybe_unused]] Index value) { assert(value == Value); }
  static constexpr Index get() { return Value; }
};

template <>
struct Extent<Dynamic> {
  constexpr Extent() = default;
  constexpr explicit Extent(Index value) : value_(value) {}
  constexpr Index get() const { return value_; }
  Index value_ = 0;
};

}  // namespace detail

/// A non-owning row-major matrix (rows, cols); `stride` elements separate two rows. Either extent may be fixed at
/// compile time. The memory belongs to a backend: only that backend's operations may read through it, unless the
/// backend is a host backend.
template <class T, Index Rows = Dynamic, Index Cols = Dynamic>
class MatrixView {
 public:
  using Element = T;
  using Scalar = std::remove_const_t<T>;

  constexpr MatrixView() = default;
  constexpr MatrixView(T* data, Index rows, Index cols) : MatrixView(data, rows, cols, cols) {}
  constexpr MatrixView(T* data, Index rows, Index cols, Index stride)
      : data_(data), rows_(rows), cols_(cols), stride_(stride) {}

  /// Adds const, and forgets or asserts extents.
  template <class U, Index R, Index C>
    requires(std::is_convertible_v<U (*)[], T (*)[]> && (R == Rows || R == Dynamic || Rows == Dynamic) &&
             (C == Cols || C == Dynamic || Cols == Dynamic))
  constexpr MatrixView(MatrixView<U, R, C> other)  // NOLINT(google-explicit-constructor)
      : MatrixView(other.data(), other.rows(), other.cols(), other.stride()) {}

  [[nodiscard]] constexpr T* data() const { return data_; }
  [[nodiscard]] constexpr Index rows() const { return rows_.get(); }
  [[nodiscard]] constexpr Index cols() const { return cols_.get(); }
  [[nodiscard]] constexpr Index stride() const { return stride_; }
  [[nodiscard]] constexpr Index size() const { return rows() * cols(); }
  [[nodiscard]] constexpr bool contiguous() const { return stride_ == cols() || rows() == 1; }

  [[nodiscard]] constexpr T* row(Index r) const { return data_ + r * stride_; }
  [[nodiscard]] constexpr T& operator()(Index r, Index c) const { return data_[r * stride_ + c]; }

  /// Rows [begin, end).
  [[nodiscard]] constexpr MatrixView<T, Dynamic, Cols> slice_rows(Index begin, Index end) const {
    assert(0 <= begin && begin <= end && end <= rows());
    return {data_ + begin * stride_, end - begin, cols(), stride_};
  }

  /// Columns [begin, end).
  [[nodiscard]] constexpr MatrixView<T, Rows, Dynamic> slice_cols(Index begin, Index end) const {
    assert(0 <= begin && begin <= end && end <= cols());
    return {data_ + begin, rows(), end - begin, stride_};
  }

  /// The same elements as one row. Needs contiguous rows.
  [[nodiscard]] constexpr std::span<T> flat() const {
    assert(contiguous());
    return {data_, static_cast<std::size_t>(size())};
  }

 private:
  T* data_ = nullptr;
  [[no_unique_address]] detail::Extent<Rows> rows_;
  [[no_unique_address]] detail::Extent<Cols> cols_;
  Index stride_ = 0;
};

/// `s.size()` as the library's signed index.
template <class T>
[[nodiscard]] constexpr Index ssize(std::span<T> s) {
  return static_cast<Index>(s.size());
}

/// `s[begin, end)`.
template <class T>
[[nodiscard]] constexpr std::span<T> slice(std::span<T> s, Index begin, Index end) {
  return s.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
}

/// Matrices that an operation on a lane of scalar T reads and writes. T is deduced from the lane alone, so that views
/// of any extents convert.
template <class T>
using Input = MatrixView<const std::type_identity_t<T>>;
template <class T>
using Output = MatrixView<std::type_identity_t<T>>;

}  // namespace elcrec::inline ELCREC_TARGET
