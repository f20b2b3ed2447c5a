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

// Every operation is a concept of its own, so that a backend that lacks one is told its name.
namespace operation {

template <class L>
using In = MatrixView<const typename L::Scalar>;
template <class L>
using Out = MatrixView<typename L::Scalar>;

template <class L>
concept Transfers = requires(L lane, const TokenView& tokens, std::span<const std::int32_t> in,
                             std::span<std::int32_t> out) {
  { lane.stage(tokens) } -> std::same_as<TokenView>;
  { lane.stage(in) } -> std::same_as<std::span<const std::int32_t>>;
  lane.read(in, out);
};

template <class L>
concept Elementwise = requires(L lane, typename L::Scalar a, In<L> x, Out<L> y, std::span<const Out<L>> list,
                               double* sum) {
  lane.fill(y, a);
  lane.clear(list);
  lane.copy(x, y);
  lane.scale(a, y);
  lane.add_scaled(a, x, y);
  lane.add_row(a, x, y);
  lane.scale_rows(x, y);
  lane.row_dots(x, x, y);
  lane.add_dot(1.0, x, x, sum);
  lane.add_sum(1.0, x, sum);
  lane.column_mean(x, y);
  lane.add_column_sum(x, y);
};

template <class L>
concept Products = requires(L lane, In<L> x, Out<L> y, Write write) {
  lane.multiply_nt(x, x, y, write);
  lane.multiply_nn(x, x, y, write);
  lane.multiply_tn(x, x, y, write);
  lane.linear(x, x, x, y);
};

template <class L>
concept Embedding = requires(L lane, const TokenView& tokens, In<L> x, Out<L> y) {
  lane.embed(tokens, x, x, y);
  lane.position_gradient(tokens, x, y);
};

template <class L>
concept LayerNorm = requires(L lane, const TokenView& tokens, const DropoutMask& mask, typename L::Scalar eps, In<L> x,
                             Out<L> y) {
  lane.layer_norm(x, x, x, eps, y, y, y);
  lane.layer_norm_backward(x, x, x, x, y, y, y);
  lane.add_norm(tokens, mask, x, x, x, x, x, eps, y, y, y);
  lane.add_norm_backward(tokens, mask, x, x, x, x, y, y, y, y, y);
};

template <class L>
concept Gelu = requires(L lane, In<L> x, Out<L> y) {
  lane.bias_gelu(x, x, y);
  lane.bias_gelu_backward(x, x, x, y, y);
};

template <class L>
concept Dropout = requires(L lane, const TokenView& tokens, const DropoutMask& mask, Out<L> y) {
  lane.dropout(tokens, mask, y);
};

template <class L>
concept Attention = requires(L lane, const TokenView& tokens, Index heads, AttentionMask visible,
                             const DropoutMask& mask, typename L::Scalar scale, In<L> x, Out<L> y) {
  { L::key_columns(heads) } -> std::same_as<Index>;
  lane.attention(tokens, heads, visible, mask, x, y, y);
  lane.attention_backward(tokens, heads, visible, mask, x, x, x, y);
  lane.last_attention(tokens, scale, x, x, y);
};

template <class L>
concept Pooling = requires(L lane, const TokenView& tokens, In<L> x, Out<L> y) {
  lane.mean_pool(tokens, x, y);
  lane.mean_pool_backward(tokens, x, y);
  lane.last_pool(tokens, x, y);
  lane.last_pool_backward(tokens, x, y);
  lane.concat_pool(tokens, x, y);
  lane.concat_pool_backward(tokens, x, y);
  lane.project_sequences(tokens, x, x, y);
  lane.normalize_rows(x, y, y);
  lane.normalize_rows_backward(x, x, x, y);
};

template <class L>
concept RowSelection = requires(L lane, const TokenView& tokens, In<L> x, Out<L> y, std::span<const std::int32_t> ids,
                                std::span<std::int32_t> out, Write write) {
  lane.nearest(x, x, out);
  lane.gather_rows(x, ids, y, write);
  lane.scatter_add_rows(x, ids, y);
  lane.gather_ids(ids, ids, out);
  lane.expand_ids(tokens, ids, out);
};

template <class L>
concept NextItemLosses = requires(L lane, const TokenView& tokens, typename L::Scalar a, In<L> x, Out<L> y,
                                  std::span<const ItemId> targets) {
  lane.pairwise_next_item(PairwiseLoss::bce, tokens, x, x, a, y, y, y, y);
  lane.exponentials(y, y, y);
  lane.softmax_factors(x, x, x, a, y, y);
};

template <class L>
concept ContrastiveLosses = requires(L lane, typename L::Scalar a, In<L> x, Out<L> y, const GramIndex& index, Index i,
                                     std::span<const std::int32_t> labels, Write write) {
  lane.gram(index, x, i, i, i, i, y);
  lane.gram_backward(index, x, x, i, i, i, i, write, y);
  lane.info_nce(labels, a, a, i, i, y, y);
  lane.add_transposed(x, i, i, y);
};

template <class L>
concept AdamUpdate = requires(L lane, const AdamStep& step, std::span<const AdamSlot<typename L::Scalar>> slots,
                              Index i, std::span<const std::int32_t> ids, In<L> x, Out<L> y) {
  lane.adam(step, slots, i, i);
  lane.adam_rows(step, ids, y, x, y, y);
};

template <class L>
concept Ranking = requires(L lane, const RankingRule& rule, In<L> x, Out<L> y, std::span<const ItemId> ids,
                           std::span<const std::int32_t> offsets, std::span<Index> ranks, std::span<ItemId> items) {
  lane.rank_targets(rule, x, x, ids, offsets, ids, ranks);
  lane.top_k(rule, x, x, offsets, ids, y, items, ranks);
  lane.top_k(rule, x, MatrixView<const BFloat16>(), offsets, ids, y, items, ranks);
};

}  // namespace operation

/// Runs operations on one piece of a batch: a thread of the CPU, a stream of a GPU. ReferenceLane specifies each one.
template <class L>
concept BackendLane = operation::Transfers<L> && operation::Elementwise<L> && operation::Products<L> &&
    operation::Embedding<L> && operation::LayerNorm<L> && operation::Gelu<L> && operation::Dropout<L> &&
    operation::Attention<L> && operation::Pooling<L> && operation::RowSelection<L> && operation::NextItemLosses<L> &&
    operation::ContrastiveLosses<L> && operation::AdamUpdate<L> && operation::Ranking<L> && requires(L lane) {
  lane.workspace().frame();
};

/// For authors of backends: `static_assert(check_lane<MyLane>())` names each group of operations that a lane lacks,
/// where the concept alone would only say that it is not satisfied.
template <class L>
consteval bool check_lane() {
  static_assert(operation::Transfers<L>, "the lane lacks operations of operation::Transfers");
  static_assert(operation::Elementwise<L>, "the lane lacks operations of operation::Elementwise");
  static_assert(operation::Products<L>, "the lane lacks operations of operation::Products");
  static_assert(operation::Embedding<L>, "the lane lacks operations of operation::Embedding");
  static_assert(operation::LayerNorm<L>, "the lane lacks operations of operation::LayerNorm");
  static_assert(operation::Gelu<L>, "the lane lacks operations of operation::Gelu");
  static_assert(operation::Dropout<L>, "the lane lacks operations of operation::Dropout");
  static_assert(operation::Attention<L>, "the lane lacks operations of operation::Attention");
  static_assert(operation::Pooling<L>, "the lane lacks operations of operation::Pooling");
  static_assert(operation::RowSelection<L>, "the lane lacks operations of operation::RowSelection");
  static_assert(operation::NextItemLosses<L>, "the lane lacks operations of operation::NextItemLosses");
  static_assert(operation::ContrastiveLosses<L>, "the lane lacks operations of operation::ContrastiveLosses");
  static_assert(operation::AdamUpdate<L>, "the lane lacks operations of operation::AdamUpdate");
  static_assert(operation::Ranking<L>, "the lane lacks operations of operation::Ranking");
  return BackendLane<L>;
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
