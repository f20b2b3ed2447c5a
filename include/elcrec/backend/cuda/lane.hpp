#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/elementwise.hpp"
#include "elcrec/backend/cuda/kernels/reduce.hpp"
#include "elcrec/backend/cuda/kernels/row_scatter.hpp"
#include "elcrec/backend/cuda/kernels/rows.hpp"
#include "elcrec/backend/cuda/product.hpp"
#include "elcrec/backend/cuda/token_pack.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The operations that backend/reference/ documents on a CUDA stream: they are enqueued, in order, and done when read()
/// returns or the stream is waited for. All matrices and spans are in device memory. cuda/operations.hpp lists the
/// functions of a lane. One lane belongs to one thread at a time.
template <class T>
class CudaLane {
 public:
  using Scalar = T;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;
  using Ids = std::span<const std::int32_t>;
  using Workspace = CudaWorkspace;

  /// On the context's main stream.
  explicit CudaLane(std::shared_ptr<const cuda::Context> context)
      : context_(std::move(context)), stream_(context_->main()), workspace_(context_, stream_.handle) {}
  /// On a stream of its own.
  CudaLane(std::shared_ptr<const cuda::Context> context, std::unique_ptr<cuda::OwnStream> own)
      : context_(std::move(context)),
        own_(std::move(own)),
        stream_(own_->get()),
        workspace_(context_, stream_.handle) {}

  [[nodiscard]] Workspace& workspace() { return workspace_; }
  [[nodiscard]] const cuda::Stream& stream() const { return stream_; }

  // ---- between host and device ----------------------------------------------------------------------------------

  [[nodiscard]] TokenView stage(const TokenView& host) {
    packed_.resize(static_cast<std::size_t>(cuda::TokenPack::size(host)));
    cuda::TokenPack::pack(host, packed_);
    return cuda::TokenPack::unpack(host, stage(std::span<const std::byte>(packed_)));
  }
  template <class U>
  [[nodiscard]] std::span<const U> stage(std::span<const U> host) {
    const auto device = workspace_.template array<U>(ssize(host));
    transfer(host.data(), device.data(), host.size_bytes());
    return device;
  }
  template <class U>
  void read(std::span<const U> from, std::span<std::type_identity_t<U>> to) const {
    transfer(from.data(), to.data(), from.size_bytes());
    cuda::check(cudaStreamSynchronize(stream_.handle), "cudaStreamSynchronize");
  }

  // ---- elementwise and reductions -------------------------------------------------------------------------------

  void fill(Out x, T value) { cuda::fill(stream_, x, value); }
  void clear(std::span<const Out> list) { cuda::clear(stream_, list); }
  void copy(In x, Out y) { cuda::copy(stream_, x, y); }
  void scale(T a, Out x) { cuda::scale(stream_, a, x); }
  void add_scaled(T a, In x, Out y) { cuda::add_scaled(stream_, a, x, y); }
  void multiply_elementwise(In x, In z, Out y, Write write) { cuda::multiply_elementwise(stream_, x, z, y, write); }
  void add_row(T a, In row, Out y) { cuda::add_row(stream_, a, row, y); }
  void scale_rows(In factors, Out x) { cuda::scale_rows(stream_, factors, x); }
  void row_dots(In x, In y, Out dots) { cuda::row_dots(stream_, x, y, dots); }
  void add_dot(double a, In x, In y, double* sum) { cuda::add_dot(stream_, workspace_, a, x, y, sum); }
  void add_sum(double a, In x, double* sum) { cuda::add_sum(stream_, workspace_, a, x, sum); }
  void column_mean(In x, Out mean) { cuda::column_mean(stream_, workspace_, x, mean); }
  void add_column_sum(In dy, Out db) { cuda::add_column_sum(stream_, workspace_, dy, db); }

  // ---- products -------------------------------------------------------------------------------------------------

  void multiply_nt(In x, In w, Out y, Write write) { cuda::multiply_nt(stream_, x, w, y, write); }
  void multiply_nn(In x, In w, Out y, Write write) { cuda::multiply_nn(stream_, x, w, y, write); }
  void multiply_tn(In x, In w, Out y, Write write) { cuda::multiply_tn(stream_, x, w, y, write); }
  void linear(In x, In w, In b, Out y) {
    constexpr Index every_row_again = 0;
    cuda::copy(stream_, In(b.data(), y.rows(), y.cols(), every_row_again), y);
    cuda::multiply_nt(stream_, x, w, y, Write::add);
  }

  // ---- rows -----------------------------------------------------------------------------------------------------

  void gather_rows(In table, Ids ids, Out y, Write write) { cuda::gather_rows(stream_, table, ids, y, write); }
  void gather_ids(Ids values, Ids ids, std::span<std::int32_t> out) { cuda::gather_ids(stream_, values, ids, out); }
  void scatter_add_rows(In x, Ids ids, Out y) { cuda::scatter_add_rows(stream_, workspace_, x, ids, y); }

  [[nodiscard]] static Index key_columns(Index keys) { return keys; }

 private:
  void transfer(const void* from, void* to, std::size_t bytes) const {
    if (bytes > 0) {
      const cuda::DeviceGuard guard(stream_.device);
      cuda::check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.handle), "cudaMemcpyAsync");
    }
  }

  std::shared_ptr<const cuda::Context> context_;
  std::unique_ptr<cuda::OwnStream> own_;  // or none
  cuda::Stream stream_;
  Workspace workspace_;
  std::vector<std::byte> packed_;
};

}  // namespace elcrec::inline ELCREC_TARGET
