#pragma once

#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// y = x Wᵀ + b, with W (O, I) and b (O).
template <Backend B>
struct Linear {
  using Backend = B;
  using T = typename B::Scalar;
  using Lane = typename B::Lane;
  using In = MatrixView<const T>;
  using Out = MatrixView<T>;

  Linear(const B& backend, Index inputs, Index outputs) : weight(backend, outputs, inputs), bias(backend, 1, outputs) {}

  /// x (T, I) -> y (T, O)
  void forward(Lane& lane, In x, Out y) const { lane.linear(x, weight.view(), bias.view(), y); }

  /// x Wᵀ alone, for an operation behind it that adds the bias
  void forward_without_bias(Lane& lane, In x, Out y) const { lane.multiply_nt(x, weight.view(), y, Write::replace); }

  /// dW += dyᵀ x, db += Σ dy
  void accumulate(Lane& lane, In x, In dy, Linear& gradient) const {
    accumulate_weight(lane, x, dy, gradient);
    lane.add_column_sum(dy, gradient.bias.view());
  }
  /// dW += dyᵀ x
  void accumulate_weight(Lane& lane, In x, In dy, Linear& gradient) const {
    lane.multiply_tn(dy, x, gradient.weight.view(), Write::add);
  }

  /// dx = or += dy W
  void input_gradient(Lane& lane, In dy, Out dx, Write write) const { lane.multiply_nn(dy, weight.view(), dx, write); }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("weight", self.weight.view(), 2);
    visitor("bias", self.bias.view(), 1);
  }

  static void visit_shapes(Index inputs, Index outputs, auto&& visitor) {
    visitor("weight", std::vector<Index>{outputs, inputs});
    visitor("bias", std::vector<Index>{outputs});
  }

  Matrix<B> weight;  // (O, I)
  Matrix<B> bias;    // (1, O)
};

}  // namespace elcrec::inline ELCREC_TARGET
