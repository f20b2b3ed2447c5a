#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/backend/cuda/context.hpp"
#include "elcrec/backend/cuda/device_buffer.hpp"
#include "elcrec/backend/cuda/kernels/adam.hpp"
#include "elcrec/backend/cuda/kernels/attention.hpp"
#include "elcrec/backend/cuda/kernels/contrastive.hpp"
#include "elcrec/backend/cuda/kernels/dropout.hpp"
#include "elcrec/backend/cuda/kernels/elementwise.hpp"
#include "elcrec/backend/cuda/kernels/gelu.hpp"
#include "elcrec/backend/cuda/kernels/layer_norm.hpp"
#include "elcrec/backend/cuda/kernels/nearest.hpp"
#include "elcrec/backend/cuda/kernels/next_item.hpp"
#include "elcrec/backend/cuda/kernels/pooling.hpp"
#include "elcrec/backend/cuda/kernels/ranking.hpp"
#include "elcrec/backend/cuda/kernels/reduce.hpp"
#include "elcrec/backend/cuda/kernels/row_scatter.hpp"
#include "elcrec/backend/cuda/kernels/rows.hpp"
#include "elcrec/backend/cuda/product.hpp"
#include "elcrec/backend/cuda/token_pack.hpp"
#include "elcrec/core/bfloat16.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The operations of ReferenceLane, which documents them, on a CUDA stream: they are enqueued, in order, and done when
/// read() returns or the stream is waited for. All matrices and spans are in device memory. One lane belongs to one
/// thread at a time.
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
    return cuda::TokenPack::unpack(host, stage(Ids(packed_)));
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

  // ---- encoder --------------------------------------------------------------------------------------------------

  void embed(const TokenView& tokens, In table, In positions, Out y) {
    cuda::embed(stream_, tokens, table, positions, y);
  }
  void position_gradient(const TokenView& tokens, In dy, Out dpositions) {
    cuda::position_gradient(stream_, workspace_, tokens, dy, dpositions);
  }
  void layer_norm(In x, In gamma, In beta, T eps, Out normalised, Out rstd, Out y) {
    cuda::layer_norm(stream_, x, gamma, beta, eps, normalised, rstd, y);
  }
  void layer_norm_backward(In normalised, In rstd, In gamma, In dy, Out dx, Out dgamma, Out dbeta) {
    cuda::layer_norm_backward(stream_, workspace_, normalised, rstd, gamma, dy, dx, dgamma, dbeta);
  }
  void add_norm(const TokenView& tokens, const DropoutMask& mask, In x, In b, In residual, In gamma, In beta, T eps,
                Out normalised, Out rstd, Out y) {
    cuda::add_norm(stream_, tokens, mask, x, b, residual, gamma, beta, eps, normalised, rstd, y);
  }
  void add_norm_backward(const TokenView& tokens, const DropoutMask& mask, In normalised, In rstd, In gamma, In dy,
                         Out ds, Out dx, Out dgamma, Out dbeta, Out db) {
    cuda::add_norm_backward(stream_, workspace_, tokens, mask, normalised, rstd, gamma, dy, ds, dx, dgamma, dbeta, db);
  }
  void bias_gelu(In x, In b, Out y) { cuda::bias_gelu(stream_, x, b, y); }
  void bias_gelu_backward(In x, In b, In dy, Out y, Out dx) { cuda::bias_gelu_backward(stream_, x, b, dy, y, dx); }
  void dropout(const TokenView& tokens, const DropoutMask& mask, Out x) { cuda::dropout(stream_, tokens, mask, x); }

  [[nodiscard]] static Index key_columns(Index keys) { return keys; }
  void attention(const TokenView& tokens, Index heads, AttentionMask visible, const DropoutMask& mask, In qkv,
                 Out probabilities, Out context) {
    cuda::attention(stream_, tokens, heads, visible, mask, qkv, probabilities, context);
  }
  void attention_backward(const TokenView& tokens, Index heads, AttentionMask visible, const DropoutMask& mask, In qkv,
                          In probabilities, In dcontext, Out dqkv) {
    cuda::attention_backward(stream_, tokens, heads, visible, mask, qkv, probabilities, dcontext, dqkv);
  }
  void last_attention(const TokenView& tokens, T scale, In queries, In x, Out sums) {
    cuda::last_attention(stream_, tokens, scale, queries, x, sums);
  }

  // ---- pooling and rows -----------------------------------------------------------------------------------------

  void mean_pool(const TokenView& tokens, In x, Out y) { cuda::mean_pool(stream_, tokens, x, y); }
  void mean_pool_backward(const TokenView& tokens, In dy, Out dx) { cuda::mean_pool_backward(stream_, tokens, dy, dx); }
  void last_pool(const TokenView& tokens, In x, Out y) { cuda::last_pool(stream_, tokens, x, y); }
  void last_pool_backward(const TokenView& tokens, In dy, Out dx) { cuda::last_pool_backward(stream_, tokens, dy, dx); }
  void concat_pool(const TokenView& tokens, In x, Out y) { cuda::concat_pool(stream_, tokens, x, y); }
  void concat_pool_backward(const TokenView& tokens, In dy, Out dx) {
    cuda::concat_pool_backward(stream_, tokens, dy, dx);
  }
  void project_sequences(const TokenView& tokens, In basis, In x, Out y) {
    cuda::project_sequences(stream_, tokens, basis, x, y);
  }
  void normalize_rows(In x, Out norms, Out y) { cuda::normalize_rows(stream_, x, norms, y); }
  void normalize_rows_backward(In y, In norms, In dy, Out dx) {
    cuda::normalize_rows_backward(stream_, y, norms, dy, dx);
  }
  void nearest(In x, In centers, std::span<std::int32_t> ids) { cuda::nearest(stream_, workspace_, x, centers, ids); }
  void gather_rows(In table, Ids ids, Out y, Write write) { cuda::gather_rows(stream_, table, ids, y, write); }
  void gather_ids(Ids values, Ids ids, std::span<std::int32_t> out) { cuda::gather_ids(stream_, values, ids, out); }
  void scatter_add_rows(In x, Ids ids, Out y) { cuda::scatter_add_rows(stream_, workspace_, x, ids, y); }
  void expand_ids(const TokenView& tokens, Ids sample_ids, std::span<std::int32_t> out) {
    cuda::expand_ids(stream_, tokens, sample_ids, out);
  }

  // ---- losses ---------------------------------------------------------------------------------------------------

  void pairwise_next_item(PairwiseLoss kind, const TokenView& tokens, In x, In table, T weight, Out loss, Out positive,
                          Out negative, Out dx) {
    cuda::pairwise_next_item(stream_, kind, tokens, x, table, weight, loss, positive, negative, dx);
  }
  void exponentials(Out z, Out largest, Out sum) { cuda::exponentials(stream_, z, largest, sum); }
  void softmax_factors(In largest, In sum, In at_target, T weight, Out factors, Out loss) {
    cuda::softmax_factors(stream_, largest, sum, at_target, weight, factors, loss);
  }
  void gram(const GramIndex& index, In z, Index i0, Index i1, Index j0, Index j1, Out s) {
    cuda::gram(stream_, index, z, i0, i1, j0, j1, s);
  }
  void gram_backward(const GramIndex& index, In g, In z, Index i0, Index i1, Index p0, Index p1, Write write, Out dz) {
    cuda::gram_backward(stream_, index, g, z, i0, i1, p0, p1, write, dz);
  }
  void info_nce(Ids labels, T temperature, T weight, Index i0, Index i1, Out s, Out loss) {
    cuda::info_nce(stream_, labels, temperature, weight, i0, i1, s, loss);
  }
  void add_transposed(In s, Index i0, Index i1, Out g) { cuda::add_transposed(stream_, s, i0, i1, g); }

  // ---- optimizer ------------------------------------------------------------------------------------------------

  void adam(const AdamStep& step, std::span<const AdamSlot<T>> slots, Index first, Index last) {
    cuda::adam(stream_, step, slots, first, last);
  }
  void adam_rows(const AdamStep& step, Ids ids, Out p, In g, Out m, Out v) {
    cuda::adam_rows(stream_, step, ids, p, g, m, v);
  }

  // ---- ranking --------------------------------------------------------------------------------------------------

  void rank_targets(const RankingRule& rule, In queries, In table, std::span<const ItemId> targets, Ids offsets,
                    std::span<const ItemId> seen, std::span<Index> ranks) {
    cuda::rank_targets(stream_, workspace_, rule, queries, table, targets, offsets, seen, ranks);
  }
  template <class Element>
  void top_k(const RankingRule& rule, In queries, MatrixView<const Element> table, Ids offsets,
             std::span<const ItemId> seen, Out scores, std::span<ItemId> items, std::span<Index> found) {
    cuda::top_k(stream_, workspace_, rule, queries, table, offsets, seen, scores, items, found);
  }

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
  std::vector<std::int32_t> packed_;
};

}  // namespace elcrec::inline ELCREC_TARGET
