#pragma once

#include <algorithm>
#include <atomic>

#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/token_batch.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y (N, C): what model.encode_user says of each user's items up to `which`, before it is normalised. Runs on the
/// model's backend, in blocks of its encoded_sequences(). When `stop` turns true (null: never), it returns false within
/// a block; y is then undefined.
template <class Model>
[[nodiscard]] bool encode_users(const Model& model, const LeaveOneOut& split, Split which,
                                MatrixView<typename Model::Scalar> y, const std::atomic<bool>* stop = nullptr) {
  using Lane = typename Model::Lane;
  const Index n = split.user_count();
  const Index block = model.backend().encoded_sequences();
  std::atomic<bool> stopped{false};
  model.backend().parallel_for((n + block - 1) / block, [&](Lane& lane, Index b) {
    if (stopped || (stop != nullptr && stop->load(std::memory_order_relaxed))) {
      stopped = true;
      return;
    }
    const Index first = b * block;
    const Index last = (std::min)(n, first + block);
    TokenBatch batch;
    batch.start(model.max_length(), model.padding);
    for (Index user = first; user < last; ++user) {
      batch.add(split.input(user, which));
    }
    const auto frame = lane.workspace().frame();
    const TokenView tokens = lane.stage(batch.view());
    model.encode_user(lane, tokens, y.slice_rows(first, last));
  });
  return !stopped;
}

}  // namespace elcrec::inline ELCREC_TARGET
