#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include <elcrec/core/error.hpp>
#include <elcrec/core/excerpt.hpp>
#include <elcrec/data/item_map.hpp>
#include <elcrec/data/read_sequences.hpp>

namespace program {

/// The rows of items that `text` names between blanks. Throws ArgumentError for what is not a whole number, for an item
/// that the map does not have, and for an empty history. `source` says where the map is from.
[[nodiscard]] inline std::vector<elcrec::ItemId> parse_history(std::string_view text, const elcrec::ItemMap& map,
                                                               std::string_view source) {
  std::vector<elcrec::ItemId> rows;
  for (std::string_view token; !(token = elcrec::detail::take_token(text)).empty();) {
    std::int64_t name = 0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), name);
    elcrec::require(error == std::errc() && end == token.data() + token.size(), "--history: found ",
                    elcrec::detail::in_quotes(token), "; expected item ids between blanks");
    const std::optional<elcrec::ItemId> row = map.find(name);
    elcrec::require(row.has_value(), "--history: found item ", name, "; expected one of the ", map.size(), " items of ",
                    source);
    rows.push_back(*row);
  }
  elcrec::require(!rows.empty(), "--history: found no items; expected at least one");
  return rows;
}

}  // namespace program
