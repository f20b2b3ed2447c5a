#pragma once

#include "elcrec/backend/eigen/elementwise.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/backend/eigen/tile_product.hpp"
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {
template <class T>
struct Vector;
}

/// ReferenceLane with what costs time as Eigen expressions. What an operation does is documented in backend/reference/.
/// eigen/operations.hpp lists the functions of a lane that are replaced. One lane belongs to one thread at a time.
template <class T>
class EigenLane : public ReferenceLane<T> {
  using Base = ReferenceLane<T>;

 public:
  using Base::workspace;
  using Vector = eigen::Vector<T>;
  using typename Base::In;
  using typename Base::Out;

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  void scale(T a, Out x) const { eigen::scale(a, x); }
  void add_scaled(T a, In x, Out y) const { eigen::add_scaled(a, x, y); }
  void multiply_elementwise(In x, In z, Out y, Write write) const { eigen::multiply_elementwise(x, z, y, write); }
  void add_row(T a, In row, Out y) const { eigen::add_row(a, row, y); }
  void scale_rows(In factors, Out x) const { eigen::scale_rows(factors, x); }
  void row_dots(In x, In y, Out dots) const { eigen::row_dots(x, y, dots); }
  void add_dot(double a, In x, In y, double* sum) const { eigen::add_dot(a, x, y, sum); }
  void column_mean(In x, Out mean) const { eigen::column_mean(x, mean); }
  void add_column_sum(In dy, Out db) const { eigen::add_column_sum(dy, db); }

  // ---- products -------------------------------------------------------------------------------------------------

  void multiply_nt(In x, In w, Out y, Write write) { eigen::multiply_nt(workspace(), x, w, y, write); }
  void multiply_nn(In x, In w, Out y, Write write) { eigen::multiply_nn(workspace(), x, w, y, write); }
  void multiply_tn(In x, In w, Out y, Write write) { eigen::multiply_tn(workspace(), x, w, y, write); }
  void linear(In x, In w, In b, Out y) { eigen::linear(workspace(), x, w, b, y); }

  /// Whole tiles of a product, so that rows of scores need no rests.
  [[nodiscard]] static Index key_columns(Index keys) { return eigen::whole_tiles<T>(keys); }
};

}  // namespace elcrec::inline ELCREC_TARGET
