// Every kernel that the library launches in float.
#include "elcrec/backend/cuda.hpp"

namespace {

using elcrec::BFloat16;
using Lane = elcrec::CudaLane<float>;
using In = Lane::In;
using Out = Lane::Out;

[[maybe_unused]] void every_operation(Lane& lane, const elcrec::TokenView& tokens, const elcrec::DropoutMask& mask,
                                      In x, Out y, Lane::Ids ids, std::span<elcrec::Index> numbers,
                                      std::span<std::int32_t> out) {
  sigmoid(lane, x, y);
  sigmoid_backward(lane, x, x, y);
  tanh(lane, x, y);
  tanh_backward(lane, x, x, y);
  relu(lane, x, y);
  relu_backward(lane, x, x, y);
  silu(lane, x, y);
  silu_backward(lane, x, x, y);
  bias_gelu(lane, x, x, y);
  bias_gelu_backward(lane, x, x, x, y, y);
  embed(lane, tokens, x, x, y);
  position_gradient(lane, tokens, x, y);
  layer_norm(lane, x, x, x, 0, y, y, y);
  layer_norm_backward(lane, x, x, x, x, y, y, y);
  add_norm(lane, tokens, mask, x, x, x, x, x, 0, y, y, y);
  add_norm_backward(lane, tokens, mask, x, x, x, x, y, y, y, y, y);
  dropout(lane, tokens, mask, y);
  attention(lane, tokens, 1, elcrec::AttentionMask::causal, mask, x, y, y);
  attention_backward(lane, tokens, 1, elcrec::AttentionMask::causal, mask, x, x, x, y);
  last_attention(lane, tokens, 1, x, x, y);
  mean_pool(lane, tokens, x, y);
  mean_pool_backward(lane, tokens, x, y);
  last_pool(lane, tokens, x, y);
  last_pool_backward(lane, tokens, x, y);
  concat_pool(lane, tokens, x, y);
  concat_pool_backward(lane, tokens, x, y);
  expand_ids(lane, tokens, ids, tokens.max_length, out);
  project_sequences(lane, tokens, x, x, y);
  normalize_rows(lane, x, y, y);
  normalize_rows_backward(lane, x, x, x, y);
  nearest_rows(lane, x, x, out);
  pairwise_next_item(lane, elcrec::PairwiseLoss::bce, ids, ids, x, x, 1, y, y, y, y);
  exponentials(lane, y, y, y);
  softmax_factors(lane, x, x, x, 1, y, y);
  gram(lane, {}, x, 0, 0, 0, 0, y);
  gram_backward(lane, {}, x, x, 0, 0, 0, 0, elcrec::Write::add, y);
  add_transposed(lane, x, 0, 0, y);
  info_nce_rows(lane, ids, 1, 1, 0, 0, y, y);
  adam(lane, {}, {}, 0, 0);
  adam_rows(lane, {}, ids, y, x, y, y);
  rank_targets(lane, {}, x, x, ids, ids, ids, numbers);
  top_k(lane, {}, x, x, ids, ids, y, out, numbers);
  top_k(lane, {}, x, elcrec::MatrixView<const BFloat16>(), ids, ids, y, out, numbers);
}

}  // namespace

template class elcrec::CudaLane<float>;
template class elcrec::cuda::RowScatter<float>;
