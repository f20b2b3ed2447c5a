#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/core/operations.hpp"
#include "elcrec/data/token_batch.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// The lists of a GramIndex, columns of the whole batch.
struct PositionColumn {
  using Value = std::int32_t;
  static constexpr Per per = Per::batch;
  static constexpr std::string_view source = "index_positions(), as in AugmentedPair,";
};
struct PositionBegins : PositionColumn {
  static constexpr std::string_view name = "position_begins";
};
struct PositionSamples : PositionColumn {
  static constexpr std::string_view name = "position_samples";
};
struct PositionTokens : PositionColumn {
  static constexpr std::string_view name = "position_tokens";
};

[[nodiscard]] inline bool is_dense(const TokenView& tokens) {
  return tokens.tokens() == tokens.sequences() * tokens.max_length;
}

}  // namespace detail

/// Lists the tokens of a finished batch by position, for similarities of flattened sequences: position_index() then
/// has them. Where every sequence has L tokens nothing is listed.
inline void index_positions(TokenBatch& batch) {
  const TokenView tokens = batch.view();
  if (detail::is_dense(tokens)) {
    return;
  }
  std::vector<std::int32_t> begins(static_cast<std::size_t>(tokens.max_length) + 1);
  for (const auto p : tokens.positions) {
    ++begins[static_cast<std::size_t>(p) + 1];
  }
  for (std::size_t p = 1; p < begins.size(); ++p) {
    begins[p] += begins[p - 1];
  }
  std::vector<std::int32_t> samples(tokens.items.size());
  std::vector<std::int32_t> token(tokens.items.size());
  std::vector<std::int32_t> next(begins.begin(), begins.end() - 1);
  for (Index s = 0; s < tokens.sequences(); ++s) {
    for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
      const auto entry = static_cast<std::size_t>(next[static_cast<std::size_t>(tokens.position(t))]++);
      samples[entry] = static_cast<std::int32_t>(s);
      token[entry] = static_cast<std::int32_t>(t);
    }
  }
  batch.append(with<detail::PositionBegins>(begins));
  batch.append(with<detail::PositionSamples>(samples));
  batch.append(with<detail::PositionTokens>(token));
}

/// Which tokens share a position, in the memory of the view; no allocation. Throws ArgumentError for a batch, or a part
/// of one, that has not L tokens in every sequence and was not indexed.
[[nodiscard]] inline GramIndex position_index(const TokenView& tokens) {
  GramIndex index{.samples = tokens.sequences(),
                  .positions = tokens.max_length,
                  .dense = detail::is_dense(tokens),
                  .begins = {},
                  .sample = {},
                  .token = {}};
  if (!index.dense) {
    index.begins = tokens.column<detail::PositionBegins>();
    index.sample = tokens.column<detail::PositionSamples>();
    index.token = tokens.column<detail::PositionTokens>();
  }
  return index;
}

}  // namespace elcrec::inline ELCREC_TARGET
