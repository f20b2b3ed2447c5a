#pragma once

#include <cstddef>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <istream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <elcrec/core/error.hpp>
#include <elcrec/core/excerpt.hpp>
#include <elcrec/core/types.hpp>
#include <nlohmann/json.hpp>

namespace experiments {

using elcrec::Index;
using nlohmann::ordered_json;

/// nlohmann::ordered_json::parse of what nests no deeper than a file of ours, since copies and the end of a value
/// recurse with it. Throws its exceptions, and FileError beyond that depth.
[[nodiscard]] inline ordered_json parse_json(std::string_view text) {
  static constexpr int deepest = 32;
  const auto check = [](int depth, ordered_json::parse_event_t, ordered_json&) {
    elcrec::require<elcrec::FileError>(depth <= deepest, "nests deeper than ", deepest, " levels");
    return true;
  };
  return ordered_json::parse(text.begin(), text.end(), check);
}

/// A text of one JSON object a line, to which processes that may be killed append.
struct JsonLines {
  std::vector<ordered_json> lines;
  std::size_t bytes = 0;      ///< of the text without a cut line
  Index cut_line = 0;         ///< the number of the last line if it was cut while it was written: it is dropped; else 0
  bool ends_in_line = false;  ///< the last line is whole but for its end
};

/// Reads `in`, which errors call `name`. Only the last line can have been cut: it is no JSON and has no end. Throws
/// FileError, with the line, for all others that are not JSON or that check(line), which returns what was found and
/// expected or "", does not take.
template <class Check>
[[nodiscard]] JsonLines read_json_lines(std::istream& in, const std::string& name, Check check) {
  const std::string all(std::istreambuf_iterator<char>(in), {});
  std::string_view text = all;
  JsonLines found;
  for (Index number = 1; !text.empty(); ++number) {
    const std::size_t length = text.find('\n');
    const bool ends = length != std::string_view::npos;
    const std::string_view line = text.substr(0, length);
    text.remove_prefix(ends ? length + 1 : text.size());
    ordered_json json;
    try {
      json = parse_json(line);
    } catch (const std::exception&) {  // no object: see below
      if (!ends) {
        found.cut_line = number;
        break;
      }
    }
    const std::string fault =
        !json.is_object() ? elcrec::message("found ", elcrec::detail::in_quotes(line), "; expected one JSON object")
                          : check(json);
    elcrec::require<elcrec::FileError>(fault.empty(), name, ':', number, ": ", fault);
    found.lines.push_back(std::move(json));
    found.bytes += line.size() + (ends ? 1 : 0);
    found.ends_in_line = !ends;
  }
  return found;
}

/// The same from a file, of no lines if it is not there; says on standard error that a line was dropped.
template <class Check>
[[nodiscard]] JsonLines read_json_lines(const std::filesystem::path& path, Check check) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return {};
  }
  elcrec::require<elcrec::FileError>(!std::filesystem::is_directory(path, ignored), path.string(),
                                     ": found a directory; expected a file of JSON lines");
  std::ifstream in(path, std::ios::binary);
  elcrec::require<elcrec::FileError>(in.is_open(), path.string(), ": cannot be opened; expected a file of JSON lines");
  JsonLines found = read_json_lines(in, path.string(), check);
  if (found.cut_line > 0) {
    std::cerr << elcrec::detail::printable(path.string()) << ':' << found.cut_line
              << ": the last line was cut while it was written; dropped" << std::endl;
  }
  return found;
}

}  // namespace experiments
