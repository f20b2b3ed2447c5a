#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include "elcrec/core/bfloat16.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What parts ask of a lane L, an operation or a few that go together each. The first four are every backend's and the
/// lane's members; the others are functions of a lane, found by its type: one that no part of a model uses may be
/// missing, and anyone may add one.
namespace operation {

template <class L>
using In = MatrixView<const typename L::Scalar>;
template <class L>
using Out = MatrixView<typename L::Scalar>;
using Ids = std::span<const std::int32_t>;

template <class L>
concept Transfers = requires(L& lane, const TokenView& tokens, Ids in, std::span<std::int32_t> out) {
  { lane.stage(tokens) } -> std::same_as<TokenView>;
  { lane.stage(in) } -> std::same_as<Ids>;
  lane.read(in, out);
};

template <class L>
concept Elementwise = requires(L& lane, typename L::Scalar a, In<L> x, Out<L> y, std::span<const Out<L>> list,
                               double* sum, Write write) {
  lane.fill(y, a);
  lane.clear(list);
  lane.copy(x, y);
  lane.scale(a, y);
  lane.add_scaled(a, x, y);
  lane.multiply_elementwise(x, x, y, write);
  lane.add_row(a, x, y);
  lane.scale_rows(x, y);
  lane.row_dots(x, x, y);
  lane.add_dot(1.0, x, x, sum);
  lane.add_sum(1.0, x, sum);
  lane.column_mean(x, y);
  lane.add_column_sum(x, y);
};

template <class L>
concept Products = requires(L& lane, In<L> x, Out<L> y, Write write) {
  lane.multiply_nt(x, x, y, write);
  lane.multiply_nn(x, x, y, write);
  lane.multiply_tn(x, x, y, write);
  lane.linear(x, x, x, y);
};

template <class L>
concept Rows = requires(L& lane, In<L> x, Out<L> y, Ids ids, std::span<std::int32_t> out, Write write) {
  lane.gather_rows(x, ids, y, write);
  lane.scatter_add_rows(x, ids, y);
  lane.gather_ids(ids, ids, out);
};

template <class L>
concept Activations = requires(L& lane, In<L> x, Out<L> y) {
  sigmoid(lane, x, y);
  sigmoid_backward(lane, x, x, y);
  tanh(lane, x, y);
  tanh_backward(lane, x, x, y);
  relu(lane, x, y);
  relu_backward(lane, x, x, y);
  silu(lane, x, y);
  silu_backward(lane, x, x, y);
};

template <class L>
concept Gelu = requires(L& lane, In<L> x, Out<L> y) {
  bias_gelu(lane, x, x, y);
  bias_gelu_backward(lane, x, x, x, y, y);
};

template <class L>
concept Embedding = requires(L& lane, const TokenView& tokens, In<L> x, Out<L> y) {
  embed(lane, tokens, x, x, y);
  position_gradient(lane, tokens, x, y);
};

template <class L>
concept LayerNorm = requires(L& lane, const TokenView& tokens, const DropoutMask& mask, typename L::Scalar eps, In<L> x,
                             Out<L> y) {
  layer_norm(lane, x, x, x, eps, y, y, y);
  layer_norm_backward(lane, x, x, x, x, y, y, y);
  add_norm(lane, tokens, mask, x, x, x, x, x, eps, y, y, y);
  add_norm_backward(lane, tokens, mask, x, x, x, x, y, y, y, y, y);
};

template <class L>
concept Dropout = requires(L& lane, const TokenView& tokens, const DropoutMask& mask, Out<L> y) {
  dropout(lane, tokens, mask, y);
};

template <class L>
concept Attention = requires(L& lane, const TokenView& tokens, Index heads, AttentionMask visible,
                             const DropoutMask& mask, typename L::Scalar scale, In<L> x, Out<L> y) {
  { L::key_columns(heads) } -> std::same_as<Index>;
  attention(lane, tokens, heads, visible, mask, x, y, y);
  attention_backward(lane, tokens, heads, visible, mask, x, x, x, y);
  last_attention(lane, tokens, scale, x, x, y);
};

template <class L>
concept LastPooling = requires(L& lane, const TokenView& tokens, In<L> x, Out<L> y) {
  last_pool(lane, tokens, x, y);
  last_pool_backward(lane, tokens, x, y);
};

template <class L>
concept Pooling = LastPooling<L> && requires(L& lane, const TokenView& tokens, In<L> x, Out<L> y) {
  mean_pool(lane, tokens, x, y);
  mean_pool_backward(lane, tokens, x, y);
  concat_pool(lane, tokens, x, y);
  concat_pool_backward(lane, tokens, x, y);
};

template <class L>
concept ExpandIds = requires(L& lane, const TokenView& tokens, Ids ids, Index n, std::span<std::int32_t> out) {
  expand_ids(lane, tokens, ids, n, out);
};

template <class L>
concept SequenceProjection = requires(L& lane, const TokenView& tokens, In<L> x, Out<L> y) {
  project_sequences(lane, tokens, x, x, y);
};

template <class L>
concept RowNormalization = requires(L& lane, In<L> x, Out<L> y) {
  normalize_rows(lane, x, y, y);
  normalize_rows_backward(lane, x, x, x, y);
};

template <class L>
concept NearestRows = requires(L& lane, In<L> x, std::span<std::int32_t> out) {
  nearest_rows(lane, x, x, out);
};

template <class L>
concept PairwiseNextItem = requires(L& lane, std::span<const ItemId> items, typename L::Scalar a, In<L> x, Out<L> y) {
  pairwise_next_item(lane, PairwiseLoss::bce, items, items, x, x, a, y, y, y, y);
};

template <class L>
concept Softmax = requires(L& lane, typename L::Scalar a, In<L> x, Out<L> y) {
  exponentials(lane, y, y, y);
  softmax_factors(lane, x, x, x, a, y, y);
};

template <class L>
concept InfoNce = requires(L& lane, typename L::Scalar a, In<L> x, Out<L> y, const GramIndex& index, Index i,
                           Ids labels, Write write) {
  gram(lane, index, x, i, i, i, i, y);
  gram_backward(lane, index, x, x, i, i, i, i, write, y);
  add_transposed(lane, x, i, i, y);
  info_nce_rows(lane, labels, a, a, i, i, y, y);
};

template <class L>
concept Adam = requires(L& lane, const AdamStep& step, std::span<const AdamSlot<typename L::Scalar>> slots, Index i,
                        Ids ids, In<L> x, Out<L> y) {
  adam(lane, step, slots, i, i);
  adam_rows(lane, step, ids, y, x, y, y);
};

template <class L>
concept Ranking = requires(L& lane, const RankingRule& rule, In<L> x, Out<L> y, std::span<const ItemId> ids,
                           Ids offsets, std::span<Index> ranks, std::span<ItemId> items) {
  rank_targets(lane, rule, x, x, ids, offsets, ids, ranks);
  top_k(lane, rule, x, x, offsets, ids, y, items, ranks);
  top_k(lane, rule, x, MatrixView<const BFloat16>(), offsets, ids, y, items, ranks);
};

}  // namespace operation

/// Runs operations on one piece of a batch: a thread of the CPU, a stream of a GPU. What is here every backend has;
/// backend/reference/ specifies each operation.
template <class L>
concept BackendLane = operation::Transfers<L> && operation::Elementwise<L> && operation::Products<L> &&
    operation::Rows<L> && requires(L& lane) {
  lane.workspace().frame();
};

/// For authors of backends: `static_assert(check_lane<MyLane>())` names each group of operations that a lane lacks,
/// where the concept alone would only say that it is not satisfied.
template <class L>
consteval bool check_lane() {
  static_assert(operation::Transfers<L>, "the lane lacks operations of operation::Transfers");
  static_assert(operation::Elementwise<L>, "the lane lacks operations of operation::Elementwise");
  static_assert(operation::Products<L>, "the lane lacks operations of operation::Products");
  static_assert(operation::Rows<L>, "the lane lacks operations of operation::Rows");
  return BackendLane<L>;
}

/// The same of every operation that the library's own parts ask for.
template <class L>
consteval bool check_every_operation() {
  static_assert(check_lane<L>());
  static_assert(operation::Activations<L>, "the lane lacks operations of operation::Activations");
  static_assert(operation::Gelu<L>, "the lane lacks operations of operation::Gelu");
  static_assert(operation::Embedding<L>, "the lane lacks operations of operation::Embedding");
  static_assert(operation::LayerNorm<L>, "the lane lacks operations of operation::LayerNorm");
  static_assert(operation::Dropout<L>, "the lane lacks operations of operation::Dropout");
  static_assert(operation::Attention<L>, "the lane lacks operations of operation::Attention");
  static_assert(operation::Pooling<L>, "the lane lacks operations of operation::Pooling");
  static_assert(operation::ExpandIds<L>, "the lane lacks operations of operation::ExpandIds");
  static_assert(operation::SequenceProjection<L>, "the lane lacks operations of operation::SequenceProjection");
  static_assert(operation::RowNormalization<L>, "the lane lacks operations of operation::RowNormalization");
  static_assert(operation::NearestRows<L>, "the lane lacks operations of operation::NearestRows");
  static_assert(operation::PairwiseNextItem<L>, "the lane lacks operations of operation::PairwiseNextItem");
  static_assert(operation::Softmax<L>, "the lane lacks operations of operation::Softmax");
  static_assert(operation::InfoNce<L>, "the lane lacks operations of operation::InfoNce");
  static_assert(operation::Adam<L>, "the lane lacks operations of operation::Adam");
  static_assert(operation::Ranking<L>, "the lane lacks operations of operation::Ranking");
  return true;
}

/// A function of anything, to state in concepts that one may be passed: nvcc takes no lambda there.
struct AnyFunction {
  void operator()(auto&&...) const {}
};

/// Brings a batch into backend memory: upload(host) starts to, view() is the batch there for what runs from now on,
/// finished() says that nothing will read it after what runs already. The host's batch must live as long.
template <class S, class B>
concept BatchStaging = std::constructible_from<S, const B&> && requires(S& staging, const TokenView& tokens) {
  staging.upload(tokens);
  { staging.view() } -> std::same_as<TokenView>;
  staging.finished();
};

/// Owns memory and the way work is spread: what a component is written against.
template <class B>
concept Backend = std::copy_constructible<B> && BackendLane<typename B::Lane> && BatchStaging<typename B::Staging, B> &&
    requires(const B& backend, Index n, std::span<const float> from, std::span<float> to) {
  typename B::Scalar;
  typename B::Workspace;
  typename B::RowScatter;
  { backend.slices() } -> std::convertible_to<Index>;
  { backend.shard_tokens() } -> std::convertible_to<Index>;
  { backend.threads() } -> std::convertible_to<Index>;
  { backend.encoded_sequences() } -> std::convertible_to<Index>;
  { B::spreads_operations } -> std::convertible_to<bool>;
  { backend.make_lane() } -> std::same_as<typename B::Lane>;
  backend.run_step(AnyFunction{});
  backend.template copy<float>(from, to);
  backend.make_workspace();
  backend.template allocate<typename B::Scalar>(n);
  backend.parallel_for(n, AnyFunction{});
  backend.parallel_blocks(n, n, AnyFunction{});
};

}  // namespace elcrec::inline ELCREC_TARGET
