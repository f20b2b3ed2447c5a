#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/cuda/kernels/activations.hpp"
#include "elcrec/backend/cuda/kernels/adam.hpp"
#include "elcrec/backend/cuda/kernels/attention.hpp"
#include "elcrec/backend/cuda/kernels/dropout.hpp"
#include "elcrec/backend/cuda/kernels/embedding.hpp"
#include "elcrec/backend/cuda/kernels/gelu.hpp"
#include "elcrec/backend/cuda/kernels/gram.hpp"
#include "elcrec/backend/cuda/kernels/info_nce_rows.hpp"
#include "elcrec/backend/cuda/kernels/layer_norm.hpp"
#include "elcrec/backend/cuda/kernels/nearest_rows.hpp"
#include "elcrec/backend/cuda/kernels/next_item.hpp"
#include "elcrec/backend/cuda/kernels/normalize_rows.hpp"
#include "elcrec/backend/cuda/kernels/pooling.hpp"
#include "elcrec/backend/cuda/kernels/project_sequences.hpp"
#include "elcrec/backend/cuda/kernels/ranking.hpp"
#include "elcrec/backend/cuda/kernels/softmax.hpp"
#include "elcrec/backend/cuda/lane.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/core/token_view.hpp"

/// The functions of a CudaLane, each by the kernels of the file of its name.
namespace elcrec::inline ELCREC_TARGET {

template <class T>
void embed(CudaLane<T>& lane, const TokenView& tokens, Input<T> table, Input<T> positions, Output<T> y) {
  cuda::embed(lane.stream(), tokens, table, positions, y);
}

template <class T>
void position_gradient(CudaLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dpositions) {
  cuda::position_gradient(lane.stream(), lane.workspace(), tokens, dy, dpositions);
}

template <class T>
void layer_norm(CudaLane<T>& lane, Input<T> x, Input<T> gamma, Input<T> beta, std::type_identity_t<T> eps,
                Output<T> normalised, Output<T> rstd, Output<T> y) {
  cuda::layer_norm(lane.stream(), x, gamma, beta, eps, normalised, rstd, y);
}

template <class T>
void layer_norm_backward(CudaLane<T>& lane, Input<T> normalised, Input<T> rstd, Input<T> gamma, Input<T> dy,
                         Output<T> dx, Output<T> dgamma, Output<T> dbeta) {
  cuda::layer_norm_backward(lane.stream(), lane.workspace(), normalised, rstd, gamma, dy, dx, dgamma, dbeta);
}

template <class T>
void add_norm(CudaLane<T>& lane, const TokenView& tokens, const DropoutMask& mask, Input<T> x, Input<T> b,
              Input<T> residual, Input<T> gamma, Input<T> beta, std::type_identity_t<T> eps, Output<T> normalised,
              Output<T> rstd, Output<T> y) {
  cuda::add_norm(lane.stream(), tokens, mask, x, b, residual, gamma, beta, eps, normalised, rstd, y);
}

template <class T>
void add_norm_backward(CudaLane<T>& lane, const TokenView& tokens, const DropoutMask& mask, Input<T> normalised,
                       Input<T> rstd, Input<T> gamma, Input<T> dy, Output<T> ds, Output<T> dx, Output<T> dgamma,
                       Output<T> dbeta, Output<T> db) {
  cuda::add_norm_backward(lane.stream(), lane.workspace(), tokens, mask, normalised, rstd, gamma, dy, ds, dx, dgamma,
                          dbeta, db);
}

template <class T>
void bias_gelu(CudaLane<T>& lane, Input<T> x, Input<T> b, Output<T> y) {
  cuda::bias_gelu(lane.stream(), x, b, y);
}

template <class T>
void bias_gelu_backward(CudaLane<T>& lane, Input<T> x, Input<T> b, Input<T> dy, Output<T> y, Output<T> dx) {
  cuda::bias_gelu_backward(lane.stream(), x, b, dy, y, dx);
}

template <class T>
void dropout(CudaLane<T>& lane, const TokenView& tokens, const DropoutMask& mask, Output<T> x) {
  cuda::dropout(lane.stream(), tokens, mask, x);
}

template <class T>
void attention(CudaLane<T>& lane, const TokenView& tokens, Index heads, AttentionMask visible, const DropoutMask& mask,
               Input<T> qkv, Output<T> probabilities, Output<T> context) {
  cuda::attention(lane.stream(), tokens, heads, visible, mask, qkv, probabilities, context);
}

template <class T>
void attention_backward(CudaLane<T>& lane, const TokenView& tokens, Index heads, AttentionMask visible,
                        const DropoutMask& mask, Input<T> qkv, Input<T> probabilities, Input<T> dcontext,
                        Output<T> dqkv) {
  cuda::attention_backward(lane.stream(), tokens, heads, visible, mask, qkv, probabilities, dcontext, dqkv);
}

template <class T>
void last_attention(CudaLane<T>& lane, const TokenView& tokens, std::type_identity_t<T> scale, Input<T> queries,
                    Input<T> x, Output<T> sums) {
  cuda::last_attention(lane.stream(), tokens, scale, queries, x, sums);
}

template <class T>
void mean_pool(CudaLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  cuda::mean_pool(lane.stream(), tokens, x, y);
}

template <class T>
void mean_pool_backward(CudaLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  cuda::mean_pool_backward(lane.stream(), tokens, dy, dx);
}

template <class T>
void last_pool(CudaLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  cuda::last_pool(lane.stream(), tokens, x, y);
}

template <class T>
void last_pool_backward(CudaLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  cuda::last_pool_backward(lane.stream(), tokens, dy, dx);
}

template <class T>
void concat_pool(CudaLane<T>& lane, const TokenView& tokens, Input<T> x, Output<T> y) {
  cuda::concat_pool(lane.stream(), tokens, x, y);
}

template <class T>
void concat_pool_backward(CudaLane<T>& lane, const TokenView& tokens, Input<T> dy, Output<T> dx) {
  cuda::concat_pool_backward(lane.stream(), tokens, dy, dx);
}

template <class T>
void project_sequences(CudaLane<T>& lane, const TokenView& tokens, Input<T> basis, Input<T> x, Output<T> y) {
  cuda::project_sequences(lane.stream(), tokens, basis, x, y);
}

template <class T>
void normalize_rows(CudaLane<T>& lane, Input<T> x, Output<T> norms, Output<T> y) {
  cuda::normalize_rows(lane.stream(), x, norms, y);
}

template <class T>
void normalize_rows_backward(CudaLane<T>& lane, Input<T> y, Input<T> norms, Input<T> dy, Output<T> dx) {
  cuda::normalize_rows_backward(lane.stream(), y, norms, dy, dx);
}

template <class T>
void nearest_rows(CudaLane<T>& lane, Input<T> x, Input<T> centers, std::span<std::int32_t> ids) {
  cuda::nearest_rows(lane.stream(), lane.workspace(), x, centers, ids);
}

template <class T>
void expand_ids(CudaLane<T>& lane, const TokenView& tokens, std::span<const std::int32_t> sample_ids, Index rows_each,
                std::span<std::int32_t> out) {
  cuda::expand_ids(lane.stream(), tokens, sample_ids, rows_each, out);
}

template <class T>
void pairwise_next_item(CudaLane<T>& lane, PairwiseLoss kind, std::span<const ItemId> targets,
                        std::span<const ItemId> negatives, Input<T> x, Input<T> table, std::type_identity_t<T> weight,
                        Output<T> loss, Output<T> positive, Output<T> negative, Output<T> dx) {
  cuda::pairwise_next_item(lane.stream(), kind, targets, negatives, x, table, weight, loss, positive, negative, dx);
}

template <class T>
void exponentials(CudaLane<T>& lane, Output<T> z, Output<T> largest, Output<T> sum) {
  cuda::exponentials(lane.stream(), z, largest, sum);
}

template <class T>
void softmax_factors(CudaLane<T>& lane, Input<T> largest, Input<T> sum, Input<T> at_target,
                     std::type_identity_t<T> weight, Output<T> factors, Output<T> loss) {
  cuda::softmax_factors(lane.stream(), largest, sum, at_target, weight, factors, loss);
}

template <class T>
void gram(CudaLane<T>& lane, const GramIndex& index, Input<T> z, Index i0, Index i1, Index j0, Index j1, Output<T> s) {
  cuda::gram(lane.stream(), index, z, i0, i1, j0, j1, s);
}

template <class T>
void gram_backward(CudaLane<T>& lane, const GramIndex& index, Input<T> g, Input<T> z, Index i0, Index i1, Index p0,
                   Index p1, Write write, Output<T> dz) {
  cuda::gram_backward(lane.stream(), index, g, z, i0, i1, p0, p1, write, dz);
}

template <class T>
void info_nce_rows(CudaLane<T>& lane, std::span<const std::int32_t> labels, std::type_identity_t<T> temperature,
                   std::type_identity_t<T> weight, Index i0, Index i1, Output<T> s, Output<T> loss) {
  cuda::info_nce_rows(lane.stream(), labels, temperature, weight, i0, i1, s, loss);
}

template <class T>
void add_transposed(CudaLane<T>& lane, Input<T> s, Index i0, Index i1, Output<T> g) {
  cuda::add_transposed(lane.stream(), s, i0, i1, g);
}

template <class T>
void adam(CudaLane<T>& lane, const AdamStep& step, std::span<const AdamSlot<std::type_identity_t<T>>> slots,
          Index first, Index last) {
  cuda::adam(lane.stream(), step, slots, first, last);
}

template <class T>
void adam_rows(CudaLane<T>& lane, const AdamStep& step, std::span<const std::int32_t> ids, Output<T> p, Input<T> g,
               Output<T> m, Output<T> v) {
  cuda::adam_rows(lane.stream(), step, ids, p, g, m, v);
}

template <class T>
void rank_targets(CudaLane<T>& lane, const RankingRule& rule, Input<T> queries, Input<T> table,
                  std::span<const ItemId> targets, std::span<const std::int32_t> offsets, std::span<const ItemId> seen,
                  std::span<Index> ranks) {
  cuda::rank_targets(lane.stream(), lane.workspace(), rule, queries, table, targets, offsets, seen, ranks);
}

template <class T, class Element>
void top_k(CudaLane<T>& lane, const RankingRule& rule, Input<T> queries, MatrixView<const Element> table,
           std::span<const std::int32_t> offsets, std::span<const ItemId> seen, Output<T> scores,
           std::span<ItemId> items, std::span<Index> found) {
  cuda::top_k(lane.stream(), lane.workspace(), rule, queries, table, offsets, seen, scores, items, found);
}

template <class T>
void sigmoid(CudaLane<T>& lane, Input<T> x, Output<T> y) {
  cuda::sigmoid(lane.stream(), x, y);
}

template <class T>
void sigmoid_backward(CudaLane<T>& lane, Input<T> y, Input<T> dy, Output<T> dx) {
  cuda::sigmoid_backward(lane.stream(), y, dy, dx);
}

template <class T>
void tanh(CudaLane<T>& lane, Input<T> x, Output<T> y) {
  cuda::tanh(lane.stream(), x, y);
}

template <class T>
void tanh_backward(CudaLane<T>& lane, Input<T> y, Input<T> dy, Output<T> dx) {
  cuda::tanh_backward(lane.stream(), y, dy, dx);
}

template <class T>
void relu(CudaLane<T>& lane, Input<T> x, Output<T> y) {
  cuda::relu(lane.stream(), x, y);
}

template <class T>
void relu_backward(CudaLane<T>& lane, Input<T> y, Input<T> dy, Output<T> dx) {
  cuda::relu_backward(lane.stream(), y, dy, dx);
}

template <class T>
void silu(CudaLane<T>& lane, Input<T> x, Output<T> y) {
  cuda::silu(lane.stream(), x, y);
}

template <class T>
void silu_backward(CudaLane<T>& lane, Input<T> x, Input<T> dy, Output<T> dx) {
  cuda::silu_backward(lane.stream(), x, dy, dx);
}

}  // namespace elcrec::inline ELCREC_TARGET
