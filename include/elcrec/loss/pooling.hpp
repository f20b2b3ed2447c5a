#pragma once

#include <array>
#include <string_view>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How the tokens of a sequence become one embedding of its user.
enum class Pooling {
  mean,    ///< mean over positions (D), what the released code does
  concat,  ///< all positions side by side (L·D), the paper's equation 2
  last     ///< the last position (D), from which the next item is predicted
};
template <>
inline constexpr std::array<std::string_view, 3> names_of<Pooling>{"mean", "concat", "last"};

/// Columns of a pooled sequence. Throws ArgumentError if they are no Index.
[[nodiscard]] inline Index pooled_columns(Pooling pooling, Index max_length, Index hidden) {
  return pooling == Pooling::concat ? checked_product("pooling: length L · hidden size D", max_length, hidden) : hidden;
}

/// x (T, D) -> y (S, pooled_columns)
template <BackendLane Lane>
void pool(Lane& lane, Pooling pooling, const TokenView& tokens, MatrixView<const typename Lane::Scalar> x,
          MatrixView<typename Lane::Scalar> y) {
  static_assert(operation::Pooling<Lane>, "pool: the lane lacks operations of operation::Pooling");
  switch (pooling) {
    case Pooling::mean:
      return mean_pool(lane, tokens, x, y);
    case Pooling::concat:
      return concat_pool(lane, tokens, x, y);
    case Pooling::last:
      return last_pool(lane, tokens, x, y);
  }
}

/// dx (T, D) += what dy (S, pooled_columns) passes back
template <BackendLane Lane>
void pool_backward(Lane& lane, Pooling pooling, const TokenView& tokens, MatrixView<const typename Lane::Scalar> dy,
                   MatrixView<typename Lane::Scalar> dx) {
  static_assert(operation::Pooling<Lane>, "pool: the lane lacks operations of operation::Pooling");
  switch (pooling) {
    case Pooling::mean:
      return mean_pool_backward(lane, tokens, dy, dx);
    case Pooling::concat:
      return concat_pool_backward(lane, tokens, dy, dx);
    case Pooling::last:
      return last_pool_backward(lane, tokens, dy, dx);
  }
}

}  // namespace elcrec::inline ELCREC_TARGET
