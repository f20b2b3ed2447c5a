#pragma once

#include <concepts>
#include <string>
#include <type_traits>
#include <utility>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/nn/part.hpp"
#include "elcrec/nn/pass.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What an encoder adds its gradient to in a slice of a batch: an encoder of the same type, or what its own `Gradient`
/// (nn/part.hpp) has for it, as TableGradient::Slice.
template <class E>
using EncoderGradient = std::remove_reference_t<decltype(std::declval<typename GradientOf<E>::Type&>().of(Index()))>;

/// Turns the items of every sequence into one vector per token.
///
/// - forward(pass, tokens, table, cache, y): y (T, D) from the item table (V, D); what the backward pass needs goes to
///   pass.memory and the cache, which is trivially destructible.
/// - backward(pass, tokens, cache, dy, gradient, dembedded): adds to `gradient`, an EncoderGradient, and
///   writes the gradient of the item rows that were looked up, (T, D) by token. dy (T, D) may be overwritten. What it
///   adds by row lives in dy or pass.memory.
/// - both are const: any number of threads may run them, each with a Pass of its own.
/// - forward_last(pass, tokens, table, y), if it has one: y (S, D), forward's rows for the last token of each sequence,
///   without dropout; otherwise scoring takes them from forward.
/// - causal(), if it has one: whether no row of y depends on a later token of its sequence. An encoder that does
///   not say so is not trained on targets that are later tokens (see is_causal).
/// - hidden(), max_length(), and visit_parameters as in nn/parameter.hpp.
template <class E>
concept SequenceEncoder = Backend<typename E::Backend> && Part<E> &&
    std::is_trivially_destructible_v<typename E::Cache> &&
    requires(const E& encoder, EncoderGradient<E>& gradient, const Pass<typename E::Backend>& pass,
             const TokenView& tokens, typename E::Cache& cache, MatrixView<const typename E::Backend::Scalar> in,
             MatrixView<typename E::Backend::Scalar> out) {
  { encoder.hidden() } -> std::convertible_to<Index>;
  { encoder.max_length() } -> std::convertible_to<Index>;
  encoder.forward(pass, tokens, in, cache, out);
  encoder.backward(pass, tokens, cache, out, gradient, out);
  E::visit_parameters(encoder, AnyFunction{});
};

/// An encoder that says whether it is causal.
template <class E>
concept TellsCausality = requires(const E& encoder) {
  { encoder.causal() } -> std::convertible_to<bool>;
};

/// Whether no row of the encoder's y depends on a later token. False for an encoder that does not say.
template <SequenceEncoder E>
[[nodiscard]] bool is_causal(const E& encoder) {
  if constexpr (TellsCausality<E>) {
    return encoder.causal();
  } else {
    return false;
  }
}

/// An encoder with forward_last. A concept by name, because nvcc 13 takes the same requirement for unmet where an
/// `if constexpr` in a member function states it, and then makes no device code for what the branch launches.
template <class E>
concept EncodesLast = requires(const E& encoder, const Pass<typename E::Backend>& pass, const TokenView& tokens,
                               MatrixView<const typename E::Backend::Scalar> table,
                               MatrixView<typename E::Backend::Scalar> out) {
  encoder.forward_last(pass, tokens, table, out);
};

}  // namespace elcrec::inline ELCREC_TARGET
