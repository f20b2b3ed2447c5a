#pragma once

#include <span>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/nn/check_gradients.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Checks an encoder's backward pass: every parameter, and "input", the item rows (V, D) that it looks up. The loss is
/// <w, y> with random w. `tokens` is in host memory, `table` in the backend's; `dropout` may be on, its bits are fixed.
template <SequenceEncoder E>
  requires GradientCheckable<E>
[[nodiscard]] GradientCheck check_encoder_gradients(const E& encoder, const TokenView& tokens,
                                                    MatrixView<const double> table, const DropoutBits& dropout = {},
                                                    const GradientCheckOptions& options = {},
                                                    const typename E::Backend& backend = typename E::Backend()) {
  using B = typename E::Backend;
  WithInput<E> subject{encoder, {backend, table.rows(), table.cols()}};
  Matrix<B> weights(backend, tokens.tokens(), encoder.hidden());
  initialise_normal(backend, options.seed, 0, 1.0, weights.view());
  backend.parallel_for(1, [&](typename B::Lane& lane, Index) { lane.copy(table, subject.input.view()); });

  typename B::Staging staging(backend);
  staging.upload(tokens);
  const TokenView staged = staging.view();
  auto memory = backend.make_workspace();
  const auto loss = [&](const WithInput<E>& at, WithInput<E>* gradient) {
    auto sum = backend.template allocate<double>(1);
    memory.clear();
    backend.parallel_for(1, [&](typename B::Lane& lane, Index) {
      const Pass<B> pass{lane, memory, dropout};
      const auto y = pass.keep(tokens.tokens(), encoder.hidden());
      typename E::Cache cache;
      at.component.forward(pass, staged, at.input.view(), cache, y);
      lane.add_dot(1.0, weights.view(), y, sum.data());
      if (gradient != nullptr) {
        const auto dy = pass.keep(y.rows(), y.cols());
        const auto dembedded = pass.keep(y.rows(), y.cols());
        lane.copy(weights.view(), dy);
        at.component.backward(pass, staged, cache, dy, gradient->component, dembedded);
        lane.scatter_add_rows(dembedded, staged.items, gradient->input.view());
      }
    });
    double value = 0;
    backend.template copy<double>(std::span<const double>(sum.data(), 1), std::span(&value, 1));
    return value;
  };
  return check_gradients(subject, loss, options, backend);
}

}  // namespace elcrec::inline ELCREC_TARGET
