#pragma once

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/operations.hpp"
#include "elcrec/backend/cpu/pooled_backend.hpp"
#include "elcrec/backend/cpu/row_scatter.hpp"
#include "elcrec/backend/cpu/simd.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The CPU backend: vectorised operations on a pool of threads.
template <class T>
class BasicCpu : public detail::PooledBackend<CpuLane<T>> {
 public:
  explicit BasicCpu(CpuOptions options = {}) : detail::PooledBackend<CpuLane<T>>(options) {}

  /// Tokens that a component takes through in one go: the activations of a layer (4 KB a token at hidden size 64) stay
  /// in L2, which holds 512 KB or, wherever there is AVX-512, 1 MB and more. Larger shards pack the weights less often.
  [[nodiscard]] static constexpr Index shard_tokens() { return simd::register_count == 32 ? 256 : 128; }

 private:
  struct AddScaled {
    void operator()(T a, const T* x, T* y, Index n) const { simd::add_scaled(a, x, y, n); }
  };

 public:
  using RowScatter = detail::RowScatter<T, AddScaled>;
};

using Cpu = BasicCpu<float>;

}  // namespace elcrec::inline ELCREC_TARGET
