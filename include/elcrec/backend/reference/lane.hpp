#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/backend/reference/elementwise.hpp"
#include "elcrec/backend/reference/products.hpp"
#include "elcrec/backend/reference/rows.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/core/workspace.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What every backend's lane can do, as the plain loops that define it; the files of this folder document each
/// operation and are the specification. The other operations are functions of a lane, one file each, overloaded on the
/// lanes that replace them (reference/operations.hpp lists them).
///
/// An operation reads its `In` arguments, writes its `Out` arguments, keeps nothing, and throws nothing; inputs and
/// outputs may not overlap unless a comment says so. Shapes: T tokens, S sequences, D columns, V table rows.
template <class T>
class ReferenceLane {
 public:
  using Scalar = T;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;
  using Ids = std::span<const std::int32_t>;
  using Bytes = HostBuffer<std::byte>;
  using Workspace = elcrec::Workspace<Bytes>;

  [[nodiscard]] static Workspace make_workspace() {
    return Workspace(
        [](std::size_t bytes) { return Bytes(static_cast<Index>(bytes), typename Bytes::Uninitialised{}); });
  }

  /// Scratch memory of this lane.
  [[nodiscard]] Workspace& workspace() { return workspace_; }

  // ---- between host and backend memory --------------------------------------------------------------------------

  /// A batch or an array in backend memory, valid as long as both the host's and the frame of the workspace last: here,
  /// the caller's own.
  [[nodiscard]] static TokenView stage(const TokenView& host) { return host; }
  template <class U>
  [[nodiscard]] static std::span<const U> stage(std::span<const U> host) {
    return host;
  }

  /// Copies backend memory to the host, when all that was asked of the lane before is done.
  template <class U>
  static void read(std::span<const U> from, std::span<std::type_identity_t<U>> to) {
    std::copy(from.begin(), from.end(), to.begin());
  }

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  void fill(Out x, T value) const { reference::fill(x, value); }
  void clear(std::span<const Out> list) const { reference::clear(list); }
  void copy(In x, Out y) const { reference::copy(x, y); }
  void scale(T a, Out x) const { reference::scale(a, x); }
  void add_scaled(T a, In x, Out y) const { reference::add_scaled(a, x, y); }
  void multiply_elementwise(In x, In z, Out y, Write write) const { reference::multiply_elementwise(x, z, y, write); }
  void add_row(T a, In row, Out y) const { reference::add_row(a, row, y); }
  void scale_rows(In factors, Out x) const { reference::scale_rows(factors, x); }
  void row_dots(In x, In y, Out dots) const { reference::row_dots(x, y, dots); }
  void add_dot(double a, In x, In y, double* sum) const { reference::add_dot(a, x, y, sum); }
  void add_sum(double a, In x, double* sum) const { reference::add_sum(a, x, sum); }
  void column_mean(In x, Out mean) const { reference::column_mean(x, mean); }
  void add_column_sum(In dy, Out db) const { reference::add_column_sum(dy, db); }

  // ---- products -------------------------------------------------------------------------------------------------

  void multiply_nt(In x, In w, Out y, Write write) const { reference::multiply_nt(x, w, y, write); }
  void multiply_nn(In x, In w, Out y, Write write) const { reference::multiply_nn(x, w, y, write); }
  void multiply_tn(In x, In w, Out y, Write write) const { reference::multiply_tn(x, w, y, write); }
  void linear(In x, In w, In b, Out y) const { reference::linear(x, w, b, y); }

  // ---- rows -----------------------------------------------------------------------------------------------------

  void gather_rows(In table, Ids ids, Out y, Write write) const { reference::gather_rows(table, ids, y, write); }
  void scatter_add_rows(In x, Ids ids, Out y) const { reference::scatter_add_rows(x, ids, y); }
  void gather_ids(Ids values, Ids ids, std::span<std::int32_t> out) const { reference::gather_ids(values, ids, out); }

  /// Columns that the probabilities of one head take in `attention` where no sequence has more than `keys` tokens.
  [[nodiscard]] static Index key_columns(Index keys) { return keys; }

 private:
  Workspace workspace_ = make_workspace();
};

}  // namespace elcrec::inline ELCREC_TARGET
