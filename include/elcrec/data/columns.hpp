#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "elcrec/core/column.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Row of a user in a user table. 0 is nobody in particular; known users start at 1.
using UserId = std::int32_t;

/// The row of a data set's user. Throws ArgumentError for more users than rows can count.
[[nodiscard]] inline UserId user_row(Index user) {
  constexpr Index most = (std::numeric_limits<UserId>::max)();
  require(0 <= user && user < most, "user number: found ", user, ", expected 0 to ", most - 1);
  return static_cast<UserId>(user + 1);
}

// The columns that the library's views bring and its parts read (see Column): a column of your own is one more such
// type. Values of a token or sequence that are several, such as attributes, have a fixed width, filled up with 0: a
// part of the batch is then a range of rows and a kernel's row a multiple of the width, where a ragged column would
// bring offsets of its own to cut, pad and stage. Take the width that holds all or nearly all of them.

/// (number of targets) the tokens with a target, ascending.
struct TargetTokens {
  using Value = std::int32_t;
  static constexpr std::string_view name = "target_tokens";
  static constexpr Per per = Per::batch;
  static constexpr std::string_view source = "a view with targets";
};

/// (T) the item to be predicted at a token, 0 where there is none.
struct Targets {
  using Value = ItemId;
  using Listed = TargetTokens;
  static constexpr std::string_view name = "targets";
  static constexpr Per per = Per::token;
  static constexpr std::string_view source = "a view with targets (InputView, PrefixView, ClozeView)";
};

/// (T, N) sampled items that the user did not choose, beside a target.
struct Negatives {
  using Value = ItemId;
  static constexpr std::string_view name = "negatives";
  static constexpr Per per = Per::token;
  static constexpr std::string_view source = "a view with targets, where BatchSource::negatives is set,";
};

/// (S) whose sequence it is: user_row() of the data set's user, 0 where that is not known.
struct Users {
  using Value = UserId;
  static constexpr std::string_view name = "users";
  static constexpr Per per = Per::sequence;
  static constexpr std::string_view source = "each of the library's views, evaluation or serving";
};

/// (B) a label for each user of an augmented pair, its target item: users of one label are not negatives.
struct Labels {
  using Value = std::int32_t;
  static constexpr std::string_view name = "labels";
  static constexpr Per per = Per::batch;
  static constexpr std::string_view source = "AugmentedPair";
};

}  // namespace elcrec::inline ELCREC_TARGET
