// expect: Column
// A column whose values are neither int32 nor float.
#include <string_view>

#include "elcrec/data/token_batch.hpp"

struct Days {
  using Value = double;
  static constexpr std::string_view name = "days";
  static constexpr elcrec::Per per = elcrec::Per::token;
  static constexpr std::string_view source = "DaysView";
};

auto days(const elcrec::TokenView& tokens) { return tokens.column<Days>(); }
