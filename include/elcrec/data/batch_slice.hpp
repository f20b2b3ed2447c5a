#pragma once

#include <vector>

#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Part of a batch: sequences [first_sequence, last_sequence), tokens [first_token, last_token).
struct BatchSlice {
  Index first_sequence = 0;
  Index last_sequence = 0;
  Index first_token = 0;
  Index last_token = 0;
  TokenView tokens{};

  BatchSlice(const TokenView& batch, Index first, Index last)
      : first_sequence(first),
        last_sequence(last),
        first_token(batch.host_begin(first)),
        last_token(batch.host_begin(last)),
        tokens(batch.subrange(first, last)) {}

  /// The slice's rows of a matrix by token.
  [[nodiscard]] auto rows(auto matrix) const { return matrix.slice_rows(first_token, last_token); }
  /// The slice's columns of a row with a number for each token.
  [[nodiscard]] auto columns(auto row) const { return row.slice_cols(first_token, last_token); }
};

/// Cuts a batch into `count` runs of whole sequences of about as many tokens each; some may be empty.
[[nodiscard]] inline std::vector<BatchSlice> slices_of(const TokenView& batch, Index count) {
  const Index t = batch.tokens();
  std::vector<BatchSlice> slices;
  Index first = 0;
  for (Index s = 0; s < count; ++s) {
    const Index until = s + 1 == count ? t : (s + 1) * t / count;
    Index last = first;
    while (last < batch.sequences() && (batch.host_begin(last + 1) <= until || s + 1 == count)) {
      ++last;
    }
    slices.emplace_back(batch, first, last);
    first = last;
  }
  return slices;
}

/// Cuts the sequences [first, last) of a batch into runs of at most `tokens` tokens, or of one sequence.
[[nodiscard]] inline std::vector<BatchSlice> runs_of(const TokenView& batch, Index first, Index last, Index tokens) {
  std::vector<BatchSlice> runs;
  while (first < last) {
    Index end = first + 1;
    while (end < last && batch.host_begin(end + 1) - batch.host_begin(first) <= tokens) {
      ++end;
    }
    runs.emplace_back(batch, first, end);
    first = end;
  }
  return runs;
}

}  // namespace elcrec::inline ELCREC_TARGET
