#pragma once

#include "elcrec/backend/cpu/elementwise.hpp"
#include "elcrec/backend/cpu/gemm.hpp"
#include "elcrec/backend/cpu/item_index.hpp"
#include "elcrec/backend/cpu/products.hpp"
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {
template <class T>
struct Vector;
}

/// ReferenceLane with what costs time replaced by vectorised code; what is inherited moves memory at its speed already.
/// What an operation does is documented in backend/reference/. cpu/operations.hpp lists the functions of a lane that
/// are replaced. One lane belongs to one thread at a time.
template <class T>
class CpuLane : public ReferenceLane<T> {
  using Base = ReferenceLane<T>;

 public:
  using Base::workspace;
  using ItemIndex = elcrec::ItemIndex<T>;
  using Vector = cpu::Vector<T>;
  using typename Base::In;
  using typename Base::Out;

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  void multiply_elementwise(In x, In z, Out y, Write write) const { cpu::multiply_elementwise(x, z, y, write); }
  void scale_rows(In factors, Out x) const { cpu::scale_rows(factors, x); }
  void row_dots(In x, In y, Out dots) const { cpu::row_dots(x, y, dots); }
  void add_dot(double a, In x, In y, double* sum) const { cpu::add_dot(a, x, y, sum); }

  // ---- products -------------------------------------------------------------------------------------------------

  void multiply_nt(In x, In w, Out y, Write write) { cpu::multiply_nt(workspace(), x, w, y, write); }
  void multiply_nn(In x, In w, Out y, Write write) { cpu::multiply_nn(workspace(), x, w, y, write); }
  void multiply_tn(In x, In w, Out y, Write write) { cpu::multiply_tn(workspace(), x, w, y, write); }
  void linear(In x, In w, In b, Out y) { cpu::linear(workspace(), x, w, b, y); }

  /// Whole tiles of a product, so that rows of scores need no rests.
  [[nodiscard]] static Index key_columns(Index keys) { return gemm::whole_tiles<T>(keys); }
};

}  // namespace elcrec::inline ELCREC_TARGET
