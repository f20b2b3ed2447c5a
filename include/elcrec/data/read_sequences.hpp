#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <istream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/data/sequence_dataset.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// Cuts the first run of non-blanks off `line`; empty at the end.
[[nodiscard]] inline std::string_view take_token(std::string_view& line) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  const auto begin = std::find_if_not(line.begin(), line.end(), blank);
  const auto end = std::find_if(begin, line.end(), blank);
  const std::string_view token(begin, end);
  line = {end, line.end()};
  return token;
}

/// Distinct values, ascending. A table of flags where ids are dense, as they usually are; a sort otherwise.
[[nodiscard]] inline std::vector<std::int64_t> distinct_ids(const std::vector<ItemId>& ids) {
  const auto largest = static_cast<std::size_t>(*std::max_element(ids.begin(), ids.end()));
  std::vector<std::int64_t> distinct;
  if (largest / 8 <= ids.size()) {
    std::vector<bool> present(largest + 1);
    for (const ItemId id : ids) {
      present[static_cast<std::size_t>(id)] = true;
    }
    for (std::size_t id = 0; id <= largest; ++id) {
      if (present[id]) {
        distinct.push_back(static_cast<std::int64_t>(id));
      }
    }
  } else {
    distinct.assign(ids.begin(), ids.end());
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  }
  return distinct;
}

/// Reads the lines of one text. `name` stands for the text in errors.
class SequenceParser {
 public:
  SequenceParser(std::string_view text, std::string_view name) : name_(name) {
    constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
    text.remove_prefix(text.starts_with(byte_order_mark) ? byte_order_mark.size() : 0);
    while (!text.empty()) {
      ++line_;
      const std::size_t length = (std::min)(text.find('\n'), text.size());
      std::string_view line = text.substr(0, length);
      text.remove_prefix((std::min)(length + 1, text.size()));
      // Only before a line's end: a file whose lines end in '\r' alone would pass for one user otherwise.
      if (line.ends_with('\r')) {
        line.remove_suffix(1);
      }
      parse_line(line);
    }
    require<FileError>(!users_.empty(), name_, ": found no users; expected lines of \"user item item ...\"");
    require_distinct_users();
  }

  /// Rows from `known`, or from the items of the text where it is null. Leaves the parser empty.
  [[nodiscard]] SequenceDataset finish(const ItemMap* known) && {
    ItemMap map = known != nullptr ? *known : ItemMap(distinct_ids(items_));
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const std::optional<ItemId> row = map.find(items_[i]);
      if (!row) {
        const auto user =
            std::upper_bound(offsets_.begin(), offsets_.end(), static_cast<Index>(i)) - offsets_.begin() - 1;
        throw FileError(message(name_, ':', lines_[static_cast<std::size_t>(user)], ": found item ", items_[i],
                                "; expected one of the ", map.size(), " known items"));
      }
      items_[i] = *row;
    }
    return {std::move(users_), std::move(offsets_), std::move(items_), std::move(map)};
  }

 private:
  void parse_line(std::string_view line) {
    std::string_view token = take_token(line);
    if (token.empty()) {
      return;
    }
    users_.push_back(parse_id<std::int64_t>(token, "user", (std::numeric_limits<std::int64_t>::min)()));
    while (!(token = take_token(line)).empty()) {
      items_.push_back(parse_id<ItemId>(token, "item", 1));
    }
    require<FileError>(static_cast<Index>(items_.size()) > offsets_.back(), name_, ':', line_,
                       ": found no item of user ", users_.back(), "; expected at least one");
    lines_.push_back(line_);
    offsets_.push_back(static_cast<Index>(items_.size()));
  }

  template <class Id>
  [[nodiscard]] Id parse_id(std::string_view token, const char* role, Id smallest) const {
    Id id = 0;
    const char* end = token.data() + token.size();
    const auto [stop, error] = std::from_chars(token.data(), end, id);
    if (error != std::errc() || stop != end || id < smallest) {
      throw FileError(message(name_, ':', line_, ": found ", role, " id ", in_quotes(token),
                              "; expected a whole number from ", smallest, " to ", (std::numeric_limits<Id>::max)()));
    }
    return id;
  }

  void require_distinct_users() const {
    std::vector<std::pair<std::int64_t, Index>> by_name(users_.size());
    for (std::size_t u = 0; u < users_.size(); ++u) {
      by_name[u] = {users_[u], lines_[u]};
    }
    std::sort(by_name.begin(), by_name.end());
    const auto twice = std::adjacent_find(by_name.begin(), by_name.end(),
                                          [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != by_name.end()) {
      throw FileError(message(name_, ':', (twice + 1)->second, ": found user ", twice->first, " again, after line ",
                              twice->second, "; expected one line a user"));
    }
  }

  std::string_view name_;
  Index line_ = 0;
  std::vector<std::int64_t> users_;
  std::vector<Index> lines_;  // where each user stands
  std::vector<Index> offsets_ = {0};
  std::vector<ItemId> items_;
};

[[nodiscard]] inline SequenceDataset parse_sequences(std::istream& in, std::string_view name, const ItemMap* known) {
  require<FileError>(in.good(), name, ": cannot be read: the stream has failed already");
  std::string text;
  std::array<char, 1 << 16> block;
  do {
    in.read(block.data(), static_cast<std::streamsize>(block.size()));
    text.append(block.data(), static_cast<std::size_t>(in.gcount()));
  } while (in.good());
  require<FileError>(!in.bad(), name, ": cannot be read to its end: the device or stream failed");
  return SequenceParser(text, name).finish(known);
}

[[nodiscard]] inline SequenceDataset parse_sequences(const std::filesystem::path& path, const ItemMap* known) {
  std::error_code ignored;
  require<FileError>(!std::filesystem::is_directory(path, ignored), path.string(),
                     ": found a directory; expected a file of lines \"user item item ...\"");
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  require<FileError>(in.is_open(), path.string(), ": cannot be opened: ", std::generic_category().message(errno));
  return parse_sequences(in, path.string(), known);
}

}  // namespace detail

/// Reads lines `user item item ...`, oldest item first: numbers between blanks or tabs, users of 64 bits, items in
/// [1, 2^31 - 1]; empty lines, CRLF and a UTF-8 byte-order mark at the start are accepted. A row of the item table goes
/// to each item that occurs, in the ascending order of their ids, so that ids 1..n are their own rows. Users stay in
/// the order of their lines. How long a history must be is for its use to say: one item is enough to recommend after
/// it, leave_one_out() wants more. A user without any is a fault of the file: there is nothing to encode.
/// Throws FileError, naming file and line, for a file that cannot be read or has no users, an id that is not such a
/// number, a line without items, and a user with two lines. Holds the whole file in memory meanwhile.
[[nodiscard]] inline SequenceDataset read_sequences(const std::filesystem::path& path) {
  return detail::parse_sequences(path, nullptr);
}

/// The same with the rows that `known` gives, as a checkpoint's items need it. Throws FileError for another item too.
[[nodiscard]] inline SequenceDataset read_sequences(const std::filesystem::path& path, const ItemMap& known) {
  return detail::parse_sequences(path, &known);
}

/// The same from a stream, read to its end. `name` stands for the file in errors.
[[nodiscard]] inline SequenceDataset read_sequences(std::istream& in, std::string_view name) {
  return detail::parse_sequences(in, name, nullptr);
}

}  // namespace elcrec::inline ELCREC_TARGET
