#pragma once

#include "elcrec/backend/cpu/pooled_backend.hpp"
#include "elcrec/backend/cpu/row_scatter.hpp"
#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/operations.hpp"
#include "elcrec/backend/eigen/packs.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The CPU backend of Eigen expressions, on the same pool of threads as BasicCpu: plain C++20, for any compiler and
/// processor that Eigen knows. Eigen's own threads play no part.
template <class T>
class BasicEigenCpu : public detail::PooledBackend<EigenLane<T>> {
 public:
  explicit BasicEigenCpu(CpuOptions options = {}) : detail::PooledBackend<EigenLane<T>>(options) {}

  /// Tokens that a component takes through in one go: the activations of a layer (4 KB a token at hidden size 64) stay
  /// in L2.
  [[nodiscard]] static constexpr Index shard_tokens() { return 128; }

 private:
  struct AddScaled {
    void operator()(T a, const T* x, T* y, Index n) const { eigen::add_scaled(a, x, y, n); }
  };

 public:
  using RowScatter = detail::RowScatter<T, AddScaled>;
};

using EigenCpu = BasicEigenCpu<float>;

}  // namespace elcrec::inline ELCREC_TARGET
