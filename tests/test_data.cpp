#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <ostream>
#include <set>
#include <span>
#include <sstream>
#include <streambuf>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/augmentation.hpp"
#include "elcrec/data/item_map.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/negative_sampler.hpp"
#include "elcrec/data/read_sequences.hpp"
#include "elcrec/data/sequence_dataset.hpp"
#include "elcrec/data/synthetic.hpp"
#include "elcrec/data/token_batch.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/data/write_sequences.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;

namespace {

using Items = std::vector<el::ItemId>;
using Names = std::vector<std::int64_t>;

/// The message of the E that `action` throws.
template <class E, class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const E& e) {
    return e.what();
  }
  return "nothing thrown";
}

template <class T>
std::vector<std::remove_const_t<T>> copy(std::span<T> values) {
  return {values.begin(), values.end()};
}

el::SequenceDataset read(const std::string& text) {
  std::istringstream in(text);
  return el::read_sequences(in, "f");
}

std::string read_error(const std::string& text) {
  return error_of<el::FileError>([&] { (void)read(text); });
}

std::string written(const el::SequenceDataset& data) {
  std::ostringstream out;
  el::write_sequences(data, out);
  return out.str();
}

el::RandomEngine engine(el::RandomTensor tensor) {
  return el::RandomEngine({.seed = 7, .step = 0, .tensor = static_cast<std::uint32_t>(tensor)});
}

/// Pearson's statistic against equal shares, less its mean, in standard deviations: beyond 5 the counts are not
/// uniform.
template <class Counts>
double chi_square_excess(const Counts& counts) {
  double total = 0.0;
  for (const auto& count : counts) {
    total += static_cast<double>(count);
  }
  const double expected = total / static_cast<double>(counts.size());
  double statistic = 0.0;
  for (const auto& count : counts) {
    statistic += std::pow(static_cast<double>(count) - expected, 2) / expected;
  }
  const auto freedom = static_cast<double>(counts.size() - 1);
  return std::abs(statistic - freedom) / std::sqrt(2.0 * freedom);
}

Items ascending(el::ItemId n) {
  Items items;
  for (el::ItemId i = 1; i <= n; ++i) {
    items.push_back(i);
  }
  return items;
}

/// A file that is gone at the end.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& content)
      : path_(fs::temp_directory_path() / ("elcrec_test_data." + std::to_string(::getpid()))) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { fs::remove(path_); }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Gives a few bytes, then fails; takes none.
class BrokenDisk : public std::streambuf {
 public:
  BrokenDisk() { setg(text_.data(), text_.data(), text_.data() + text_.size()); }

 protected:
  int_type underflow() override { throw std::ios_base::failure("broken"); }

 private:
  std::string text_ = "1 2 3\n";
};

}  // namespace

TEST_CASE("ItemMap: rows and names, both ways") {
  const el::ItemMap map(Names{-3, 2, 4, 70});
  CHECK(map.size() == 4);
  CHECK(map.name(1) == -3);
  CHECK(map.name(4) == 70);
  CHECK(map.find(-3) == std::optional<el::ItemId>(1));
  CHECK(map.find(2) == std::optional<el::ItemId>(2));
  CHECK(map.find(4) == std::optional<el::ItemId>(3));
  CHECK(map.find(70) == std::optional<el::ItemId>(4));
  for (const std::int64_t unknown : {std::int64_t{-4}, std::int64_t{1}, std::int64_t{3}, std::int64_t{71},
                                     std::numeric_limits<std::int64_t>::max()}) {
    CHECK_FALSE(map.find(unknown).has_value());
  }
  CHECK(copy(map.names()) == Names{-3, 2, 4, 70});

  CHECK(el::ItemMap::identity(3) == el::ItemMap(Names{1, 2, 3}));
  CHECK(el::ItemMap::identity(3).find(3) == std::optional<el::ItemId>(3));
  CHECK_FALSE(el::ItemMap::identity(3).find(4).has_value());
  CHECK_FALSE(el::ItemMap().find(0).has_value());
}

TEST_CASE("ItemMap: every name of a map of any size is found, and nothing between them") {
  for (std::int64_t n = 1; n <= 70; ++n) {
    Names names;
    for (std::int64_t row = 1; row <= n; ++row) {
      names.push_back(10 * row - 300);
    }
    const el::ItemMap map(names);
    for (std::int64_t name = -299; name <= 10 * n - 290; ++name) {
      const bool named = name % 10 == 0 && name >= -290 && name <= 10 * n - 300;
      CHECK(map.find(name).value_or(0) == (named ? (name + 300) / 10 : 0));
    }
  }
}

TEST_CASE("ItemMap: errors") {
  using E = el::ArgumentError;
  CHECK(error_of<E>([] {
          el::ItemMap(Names{1, 5, 5});
        }) == "item map: row 3 is named 5 after 5; expected strictly ascending names");
  CHECK(error_of<E>([] {
          el::ItemMap(Names{2, 1});
        }) == "item map: row 2 is named 1 after 2; expected strictly ascending names");
  CHECK(error_of<E>([] { (void)el::ItemMap::identity(-1); }) == "item map of -1 items; expected 0 to 2147483646");
  CHECK(error_of<E>([] { (void)el::ItemMap::identity(2147483647); }) ==
        "item map of 2147483647 items; expected 0 to 2147483646");
  CHECK(error_of<E>([] { (void)el::ItemMap::identity(2).name(0); }) == "item row 0; expected 1 to 2");
  CHECK(error_of<E>([] { (void)el::ItemMap::identity(2).name(3); }) == "item row 3; expected 1 to 2");
}

TEST_CASE("SequenceDataset: users, histories and names") {
  const el::SequenceDataset data({30, 10, 20}, {0, 2, 2, 5}, {1, 3, 2, 2, 1}, el::ItemMap(Names{5, 6, 9}));
  CHECK(data.user_count() == 3);
  CHECK(data.item_count() == 3);
  CHECK(data.interaction_count() == 5);
  CHECK(copy(data.history(0)) == Items{1, 3});
  CHECK(data.history(1).empty());
  CHECK(copy(data.history(2)) == Items{2, 2, 1});
  CHECK(data.user_name(1) == 10);
  CHECK(data.find_user(30) == std::optional<el::Index>(0));
  CHECK(data.find_user(10) == std::optional<el::Index>(1));
  CHECK(data.find_user(20) == std::optional<el::Index>(2));
  CHECK_FALSE(data.find_user(15).has_value());
  CHECK_FALSE(data.find_user(31).has_value());
  CHECK(copy(data.item_names()) == Names{5, 6, 9});
  CHECK(data.item_map().name(3) == 9);
}

TEST_CASE("SequenceDataset: errors") {
  const auto error = [](Names users, std::vector<el::Index> offsets, Items items) {
    return error_of<el::ArgumentError>([&] { el::SequenceDataset(users, offsets, items, el::ItemMap::identity(2)); });
  };
  CHECK(error({1, 2}, {0, 1}, {1}) == "data set of 2 users: 2 offsets; expected one more than users");
  CHECK(error({}, {}, {}) == "data set of 0 users: 0 offsets; expected one more than users");
  const std::string offsets_to_2 = "; expected to rise from 0 to 2, the number of items";
  CHECK(error({1}, {1, 2}, {1, 1}) == "data set: offsets from 1 to 2" + offsets_to_2);
  CHECK(error({1}, {0, 3}, {1, 1}) == "data set: offsets from 0 to 3" + offsets_to_2);
  CHECK(error({1, 2, 3}, {0, 2, 1, 2}, {1, 1}) == "data set: offsets from 0 to 2" + offsets_to_2);
  CHECK(error({1}, {0, 2}, {1, 0}) == "data set: item row 0; expected 1 to 2");
  CHECK(error({1}, {0, 2}, {3, 1}) == "data set: item row 3; expected 1 to 2");
  CHECK(error({4, 1, 4}, {0, 1, 1, 1}, {1}) == "data set: two users are named 4; expected distinct names");

  const el::SequenceDataset data({1, 2}, {0, 1, 2}, {1, 2}, el::ItemMap::identity(2));
  CHECK(error_of<el::ArgumentError>([&] { (void)data.history(2); }) == "user number 2; expected 0 to 1");
  CHECK(error_of<el::ArgumentError>([&] { (void)data.user_name(-1); }) == "user number -1; expected 0 to 1");
}

TEST_CASE("read_sequences: ids 1..n are their own rows, other ids get rows in ascending order") {
  const auto dense = read("1 1 2 3\n2 4 2\n");
  CHECK(dense.item_map() == el::ItemMap::identity(4));
  CHECK(copy(dense.history(1)) == Items{4, 2});

  const auto sparse = read("9 2147483647 5\n3 5 100000 7\n");
  CHECK(copy(sparse.item_names()) == Names{5, 7, 100000, 2147483647});
  CHECK(sparse.user_name(0) == 9);
  CHECK(copy(sparse.history(0)) == Items{4, 1});
  CHECK(copy(sparse.history(1)) == Items{1, 3, 2});

  const auto gap = read("1 2 4 4\n");
  CHECK(copy(gap.item_names()) == Names{2, 4});
  CHECK(copy(gap.history(0)) == Items{1, 2, 2});
}

TEST_CASE("read_sequences: blanks, tabs, CRLF, empty lines and a missing last line end") {
  const auto data = read("\r\n  1\t10  20 \r\n\n \t \n2147483647 20 10 10");
  CHECK(data.user_count() == 2);
  CHECK(copy(data.history(0)) == Items{1, 2});
  CHECK(copy(data.history(1)) == Items{2, 1, 1});
  CHECK(data.user_name(1) == 2147483647);
}

TEST_CASE("read_sequences: one item, user ids of 64 bits, a byte-order mark") {
  const auto data = read(
      "\xEF\xBB\xBF"
      "9223372036854775807 3 1\n-9223372036854775808 3\n0 1 2 3\n");
  CHECK(data.user_count() == 3);
  CHECK(data.user_name(0) == std::numeric_limits<std::int64_t>::max());
  CHECK(data.user_name(1) == std::numeric_limits<std::int64_t>::min());
  CHECK(data.find_user(0) == 2);
  CHECK(copy(data.history(1)) == Items{3});
  CHECK(copy(read(written(data)).history(1)) == Items{3});
  CHECK(read_error("\xEF\xBB\xBF") == read_error(""));
}

TEST_CASE("read_sequences: errors name line, token and expectation") {
  const std::string users = "f: found no users; expected lines of \"user item item ...\"";
  CHECK(read_error("") == users);
  CHECK(read_error("\n \r\n\n") == users);

  CHECK(read_error("1 1 2\n\n7\n") == "f:3: found no item of user 7; expected at least one");

  const std::string range = "; expected a whole number from 1 to 2147483647";
  CHECK(read_error("1 1 2\n2 x7 3\n") == "f:2: found item id \"x7\"" + range);
  const std::string users_range = "; expected a whole number from -9223372036854775808 to 9223372036854775807";
  CHECK(read_error("user items\n") == "f:1: found user id \"user\"" + users_range);
  CHECK(read_error("1 1 -2 3") == "f:1: found item id \"-2\"" + range);
  CHECK(read_error("1 1 0 2") == "f:1: found item id \"0\"" + range);
  CHECK(read_error("1 2147483648 2") == "f:1: found item id \"2147483648\"" + range);
  CHECK(read_error("9223372036854775808 1 2") == "f:1: found user id \"9223372036854775808\"" + users_range);
  CHECK(read_error("1 1 99999999999999999999999999") == "f:1: found item id \"99999999999999999999999999\"" + range);
  CHECK(read_error("1 1 +2") == "f:1: found item id \"+2\"" + range);
  CHECK(read_error("1 1 2.0") == "f:1: found item id \"2.0\"" + range);
  CHECK(read_error("1,1,2\n") == "f:1: found user id \"1,1,2\"" + users_range);
  CHECK(read_error(std::string("1 1 2\0003 4", 9)) == "f:1: found item id \"2\\x003\"" + range);
  CHECK(read_error("1 1 2\n\xEF\xBB\xBF"
                   "2 1 2") == "f:2: found user id \"\\xEF\\xBB\\xBF2\"" + users_range);
  CHECK(read_error("1 1 2\r2 1 2\r") == "f:1: found item id \"2\\x0D2\"" + range);
  CHECK(read_error(std::string(50, 'a')) == "f:1: found user id \"" + std::string(40, 'a') + "...\"" + users_range);

  CHECK(read_error("8 1 2\n5 1 2\n\n8 3 4\n") == "f:4: found user 8 again, after line 1; expected one line a user");
}

TEST_CASE("read_sequences: files, and streams that fail") {
  const ScratchFile file("1 1 2\n2 3 0\n");
  const std::string path = file.path().string();
  const auto error = [](const fs::path& p) { return error_of<el::FileError>([&] { (void)el::read_sequences(p); }); };
  CHECK(error(path) == path + ":2: found item id \"0\"; expected a whole number from 1 to 2147483647");
  CHECK(error(path + ".no") == path + ".no: cannot be opened: No such file or directory");
  CHECK(error(path + "/x") == path + "/x: cannot be opened: Not a directory");
  CHECK(error(fs::temp_directory_path()) ==
        fs::temp_directory_path().string() + ": found a directory; expected a file of lines \"user item item ...\"");

  BrokenDisk disk;
  std::istream in(&disk);
  CHECK(error_of<el::FileError>([&] { (void)el::read_sequences(in, "d"); }) ==
        "d: cannot be read to its end: the device or stream failed");
  CHECK(error_of<el::FileError>([&] { (void)el::read_sequences(in, "d"); }) ==
        "d: cannot be read: the stream has failed already");
}

TEST_CASE("read_sequences: rows from a known map") {
  const el::ItemMap known(Names{2, 4, 6, 8});
  const ScratchFile good("1 8 2\n");
  const auto data = el::read_sequences(good.path(), known);
  CHECK(data.item_count() == 4);
  CHECK(copy(data.history(0)) == Items{4, 1});

  const ScratchFile bad("1 8 2\n\n2 2 4\n3 4 5 7\n");
  CHECK(error_of<el::FileError>([&] { (void)el::read_sequences(bad.path(), known); }) ==
        bad.path().string() + ":4: found item 5; expected one of the 4 known items");
  const ScratchFile first("1 3 2\n2 2 4\n");
  CHECK(error_of<el::FileError>([&] { (void)el::read_sequences(first.path(), known); }) ==
        first.path().string() + ":1: found item 3; expected one of the 4 known items");
}

TEST_CASE("write_sequences: names again, whatever the rows") {
  const std::string text = "9 2147483647 5\n3 5 100000 7\n";
  CHECK(written(read(text)) == text);

  const ScratchFile file(text);
  CHECK(written(el::read_sequences(file.path())) == text);

  BrokenDisk disk;
  std::ostream out(&disk);
  CHECK(error_of<el::FileError>([&] { el::write_sequences(read(text), out); }) ==
        "sequences cannot be written: the stream failed; expected room for 2 lines");
}

TEST_CASE("leave_one_out: inputs and targets of every split") {
  const el::LeaveOneOut split = el::leave_one_out(read("1 1 2 3 4 5 6\n2 6 5 4 3\n"));
  using enum el::Split;
  CHECK(split.user_count() == 2);
  CHECK(split.item_count() == 6);
  CHECK(copy(split.input(0, train)) == Items{1, 2, 3});
  CHECK(copy(split.targets(0)) == Items{2, 3, 4});
  CHECK(copy(split.input(0, valid)) == Items{1, 2, 3, 4});
  CHECK(copy(split.input(0, test)) == Items{1, 2, 3, 4, 5});
  CHECK(split.target(0, train) == 4);
  CHECK(split.target(0, valid) == 5);
  CHECK(split.target(0, test) == 6);
  CHECK(copy(split.items(0)) == Items{1, 2, 3, 4, 5, 6});
  CHECK(copy(split.input(1, train)) == Items{6});
  CHECK(copy(split.targets(1)) == Items{5});
  CHECK(split.target(1, test) == 3);
}

TEST_CASE("leave_one_out: short histories are rejected or dropped") {
  const auto data = read("7 1 2 3 4\n5 9 8 7\n3 9\n6 4 3 2 1 2\n");
  CHECK(error_of<el::ArgumentError>([&] { (void)el::leave_one_out(data); }) ==
        "leave-one-out: user 5 has 3 items; expected at least 4 (ShortHistories::drop leaves such users out)");

  CHECK(error_of<el::ArgumentError>([] { (void)el::leave_one_out(read("7 1 2 3 4\n3 9\n")); }) ==
        "leave-one-out: user 3 has 1 item; expected at least 4 (ShortHistories::drop leaves such users out)");

  const el::LeaveOneOut split = el::leave_one_out(data, el::ShortHistories::drop);
  CHECK(split.user_count() == 2);
  CHECK(split.dataset().user_name(1) == 6);
  CHECK(split.dataset().item_map() == data.item_map());
  CHECK(copy(split.items(1)) == Items{4, 3, 2, 1, 2});
  CHECK(copy(split.input(1, el::Split::valid)) == Items{4, 3, 2});

  CHECK(error_of<el::ArgumentError>([] {
          (void)el::leave_one_out(read("1 1 2\n2 1 2 3\n"), el::ShortHistories::drop);
        }) == "leave-one-out: none of 2 users has 4 items; expected at least one to be left");
  CHECK(error_of<el::ArgumentError>([] {
          (void)el::leave_one_out(el::SequenceDataset({}, {0}, {}, el::ItemMap::identity(4)));
        }) == "leave-one-out: found no users to split; expected at least one");
}

TEST_CASE("leave_one_out: copies share the data set") {
  std::optional<el::LeaveOneOut> first(el::leave_one_out(read("1 1 2 3 4\n")));
  const el::LeaveOneOut other = *first;
  CHECK(other.items(0).data() == first->items(0).data());
  first.reset();
  CHECK(other.target(0, el::Split::test) == 4);
}

TEST_CASE("leave_one_out: a fingerprint is of every item, held-out ones too, of names and of where users begin") {
  const auto of = [](const std::string& text) { return el::fingerprint(el::leave_one_out(read(text))).value(); };
  const auto digest = of("1 1 2 3 4 5\n2 5 4 3 2 1\n");
  CHECK(digest == of("1 1 2 3 4 5\n2 5 4 3 2 1\n"));
  CHECK(digest != of("1 2 1 3 4 5\n2 5 4 3 2 1\n"));
  CHECK(digest != of("1 1 2 3 5 4\n2 5 4 3 2 1\n"));
  CHECK(digest != of("1 1 2 3 4 5\n2 5 4 3 1 2\n"));
  CHECK(digest != of("1 1 2 3 4 6\n2 6 4 3 2 1\n"));  // other names, the same rows
  CHECK(digest != of("1 1 2 3 4 5 5\n2 4 3 2 1\n"));
}

namespace {

struct ReturnsView {
  Items operator()(std::span<const el::ItemId> history, el::RandomEngine& /*random*/, Items& /*view*/) const {
    return copy(history);
  }
};

struct NotConst {
  void operator()(std::span<const el::ItemId> /*history*/, el::RandomEngine& /*random*/, Items& /*view*/) {}
};

static_assert(el::Augmentation<el::Crop> && el::Augmentation<el::Mask> && el::Augmentation<el::Reorder>);
static_assert(std::same_as<decltype(el::RandomView{}), el::RandomView<el::Crop, el::Mask, el::Reorder>>);
static_assert(el::Augmentation<el::RandomView<el::Crop, el::RandomView<el::Mask>>>);
static_assert(!el::Augmentation<ReturnsView> && !el::Augmentation<NotConst> && !el::Augmentation<int>);
static_assert(el::NegativeSampler<el::UniformNegativeSampler> && !el::NegativeSampler<el::Crop>);

}  // namespace

TEST_CASE("crop: a contiguous floor(ratio n) items, at least one, from any start") {
  auto random = engine(el::RandomTensor::augmentation);
  const Items history = ascending(14);
  Items view;
  std::array<int, 13> starts{};
  for (int i = 0; i < 13000; ++i) {
    el::Crop{.ratio = 0.2}(history, random, view);
    REQUIRE(view.size() == 2);
    REQUIRE(view[1] == view[0] + 1);
    ++starts[static_cast<std::size_t>(view[0] - 1)];
  }
  CHECK(chi_square_excess(starts) < 5.0);

  const Items three = ascending(3);
  std::array<int, 3> single{};
  for (int i = 0; i < 3000; ++i) {
    el::Crop{.ratio = 0.2}(three, random, view);
    REQUIRE(view.size() == 1);
    ++single[static_cast<std::size_t>(view[0] - 1)];
  }
  CHECK(chi_square_excess(single) < 5.0);

  el::Crop{.ratio = 1.0}(history, random, view);
  CHECK(view == history);
  el::Crop{.ratio = 0.0}(history, random, view);
  CHECK(view.size() == 1);
}

TEST_CASE("mask: floor(ratio n) distinct positions, each as likely, become padding") {
  auto random = engine(el::RandomTensor::augmentation);
  const Items history = ascending(9);
  Items view;
  std::array<int, 9> masked{};
  std::map<unsigned, int> patterns;
  constexpr int draws = 8400;
  for (int i = 0; i < draws; ++i) {
    el::Mask{.ratio = 0.7}(history, random, view);
    REQUIRE(view.size() == 9);
    unsigned pattern = 0;
    for (std::size_t p = 0; p < 9; ++p) {
      if (view[p] == el::padding_item) {
        ++masked[p];
        pattern |= 1U << p;
      } else {
        REQUIRE(view[p] == history[p]);
      }
    }
    ++patterns[pattern];
  }
  CHECK(std::all_of(masked.begin(), masked.end(), [](int n) { return std::abs(n - draws * 6 / 9) < 220; }));
  std::vector<int> counts;
  counts.reserve(patterns.size());
  for (const auto& [pattern, count] : patterns) {
    counts.push_back(count);
  }
  CHECK(counts.size() == 84);  // 9 over 6
  CHECK(chi_square_excess(counts) < 5.0);

  el::Mask{.ratio = 1.0}(history, random, view);
  CHECK(view == Items(9, el::padding_item));
  el::Mask{.ratio = 0.1}(history, random, view);
  CHECK(view == history);
}

TEST_CASE("reorder: shuffles a contiguous floor(ratio n) items and leaves the rest") {
  auto random = engine(el::RandomTensor::augmentation);
  const Items history = ascending(5);
  Items view;
  std::map<Items, int> seen;
  constexpr int draws = 18000;
  for (int i = 0; i < draws; ++i) {
    el::Reorder{.ratio = 0.6}(history, random, view);
    ++seen[view];
  }
  // Three starts, 6 orders of 3 each: the start of 1 2 [3 4 5] is ambiguous only for orders that leave ends in place.
  CHECK(std::abs(seen[{1, 2, 5, 4, 3}] - draws / 18) < 160);
  CHECK(std::abs(seen[{3, 2, 1, 4, 5}] - draws / 18) < 160);
  CHECK(std::abs(seen[{1, 4, 2, 3, 5}] - draws / 18) < 160);
  CHECK(std::abs(seen[{2, 1, 3, 4, 5}] - draws / 18) < 160);
  CHECK(std::abs(seen[{1, 3, 2, 4, 5}] - 2 * draws / 18) < 220);
  CHECK(std::abs(seen[history] - 3 * draws / 18) < 270);
  CHECK(seen.size() == 3 * 5 - 2 + 1);  // 3 starts x 5 orders that change something, 2 of them shared; and none

  el::Reorder{.ratio = 0.2}(history, random, view);
  CHECK(view == history);
  el::Reorder{.ratio = 1.0}(ascending(30), random, view);
  CHECK(view != ascending(30));
  std::sort(view.begin(), view.end());
  CHECK(view == ascending(30));
}

TEST_CASE("random view: each part is as likely, and drawn for every view") {
  auto random = engine(el::RandomTensor::augmentation);
  const Items history = ascending(20);
  Items view;
  std::array<int, 3> drawn{};
  const el::RandomView augment{el::Crop{.ratio = 0.5}, el::Mask{.ratio = 0.5}, el::Reorder{.ratio = 0.0}};
  for (int i = 0; i < 3000; ++i) {
    augment(history, random, view);
    ++drawn[view.size() == 10 ? 0 : view == history ? 2 : 1];
  }
  CHECK(chi_square_excess(drawn) < 5.0);

  std::set<std::size_t> published;
  for (int i = 0; i < 100; ++i) {
    el::RandomView{}(history, random, view);
    published.insert(static_cast<std::size_t>(std::count(view.begin(), view.end(), el::padding_item)) * 100 +
                     view.size());
  }
  CHECK(published == std::set<std::size_t>{4, 20, 14 * 100 + 20});
}

TEST_CASE("augmentations: empty histories, ratios out of range, repeatability, reuse of the view's memory") {
  auto random = engine(el::RandomTensor::augmentation);
  Items view = {1, 2, 3};
  const auto empty = [&](const auto& augment) {
    view = {1, 2, 3};
    augment({}, random, view);
    return view.empty();
  };
  CHECK(empty(el::Crop{}));
  CHECK(empty(el::Mask{}));
  CHECK(empty(el::Reorder{}));
  CHECK(empty(el::RandomView{}));

  const Items history = ascending(4);
  const auto error = [&](const auto& augment) {
    return error_of<el::ArgumentError>([&] { augment(history, random, view); });
  };
  CHECK(error(el::Crop{.ratio = 1.5}) == "crop ratio 1.5; expected 0 to 1");
  CHECK(error(el::Mask{.ratio = -0.1}) == "mask ratio -0.1; expected 0 to 1");
  CHECK(error(el::Reorder{.ratio = std::nan("")}) == "reorder ratio nan; expected 0 to 1");

  const Items longer = ascending(50);
  view.reserve(50);
  const auto* data = view.data();
  auto again = random;
  std::vector<Items> views;
  for (int i = 0; i < 20; ++i) {
    el::RandomView{}(longer, random, view);
    views.push_back(view);
  }
  CHECK(view.data() == data);
  for (const Items& expected : views) {
    el::RandomView{}(longer, again, view);
    CHECK(view == expected);
  }
}

TEST_CASE("negative sampler: uniform over what the user does not own") {
  // Repeats, both ends owned, neither end owned, all but one owned, nothing owned.
  const std::vector<Items> histories = {{3, 7, 3}, {1, 2, 12, 6}, {5}, {12, 11, 10, 9, 8, 6, 5, 4, 3, 2, 1}, {}};
  std::vector<el::Index> offsets = {0};
  Items items;
  for (const Items& history : histories) {
    items.insert(items.end(), history.begin(), history.end());
    offsets.push_back(static_cast<el::Index>(items.size()));
  }
  const el::UniformNegativeSampler sampler(
      el::SequenceDataset({1, 2, 3, 4, 5}, offsets, items, el::ItemMap::identity(12)));

  auto random = engine(el::RandomTensor::negatives);
  for (std::size_t user = 0; user < histories.size(); ++user) {
    CAPTURE(user);
    std::map<el::ItemId, int> counts;
    for (int i = 0; i < 12000; ++i) {
      ++counts[sampler(static_cast<el::Index>(user), random)];
    }
    std::set<el::ItemId> expected;
    for (const el::ItemId item : ascending(12)) {
      if (std::find(histories[user].begin(), histories[user].end(), item) == histories[user].end()) {
        expected.insert(item);
      }
    }
    std::set<el::ItemId> drawn;
    std::vector<int> shares;
    for (const auto& [item, count] : counts) {
      drawn.insert(item);
      shares.push_back(count);
    }
    CHECK(drawn == expected);
    if (shares.size() > 1) {
      CHECK(chi_square_excess(shares) < 5.0);
    }
  }
}

TEST_CASE("negative sampler: errors") {
  CHECK(error_of<el::ArgumentError>([] { el::UniformNegativeSampler sampler(read("4 1 2\n8 1 3 2\n")); }) ==
        "negative sampler: user 8 owns all 3 items; expected at least one to draw (a full softmax draws none)");
  const el::UniformNegativeSampler sampler(read("4 1 2\n8 1 3\n"));
  auto random = engine(el::RandomTensor::negatives);
  CHECK(sampler(1, random) == 2);
  CHECK(error_of<el::ArgumentError>([&] { (void)sampler(2, random); }) ==
        "negative sampler: user number 2; expected 0 to 1");
  CHECK(error_of<el::ArgumentError>([&] { (void)sampler(-1, random); }) ==
        "negative sampler: user number -1; expected 0 to 1");
}

TEST_CASE("input view: the training input, and what follows each of its items") {
  const auto split = el::leave_one_out(read("1 4 2 7 5 3\n2 1 6 2 8\n"));
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<el::Index> users{1, 0};
  el::TokenBatch batch;
  batch.start(2, el::Padding::masked);
  el::InputView{}.build({&split, &negatives, 3, 5}, users, batch);
  const auto view = batch.view();
  REQUIRE(view.sequences() == 2);
  CHECK(copy(view.items) == Items{1, 4, 2});
  CHECK(copy(view.column<el::Targets>()) == Items{6, 2, 7});
  for (const std::size_t t : {0U, 1U, 2U}) {
    const auto own = split.items(t == 0 ? 1 : 0);
    CHECK(view.column<el::Negatives>()[t] >= 1);
    CHECK(std::find(own.begin(), own.end(), view.column<el::Negatives>()[t]) == own.end());
  }
}

TEST_CASE("prefix view: each prefix is a sequence, what follows it the target of its last token") {
  std::istringstream text("1 4 2 7 5 3\n2 1 6 2 8\n");
  const auto split = el::leave_one_out(el::read_sequences(text, "text"));
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<el::Index> users{1, 0};
  el::TokenBatch batch;
  batch.start(2, el::Padding::masked);
  el::PrefixView{}.build({&split, &negatives, 3, 5}, users, batch);
  // User 2 trains on 1 -> 6, user 1 on 4 -> 2 and (4, 2) -> 7.
  const auto view = batch.view();
  REQUIRE(view.sequences() == 3);
  CHECK(std::vector<el::ItemId>(view.items.begin(), view.items.end()) == std::vector<el::ItemId>{1, 4, 4, 2});
  CHECK(copy(view.column<el::Targets>()) == std::vector<el::ItemId>{6, 2, 0, 7});
  CHECK(copy(view.column<el::TargetTokens>()) == std::vector<std::int32_t>{0, 1, 3});
  CHECK(view.column<el::Negatives>()[2] == el::padding_item);
  for (const std::size_t t : {0U, 1U, 3U}) {
    CHECK(view.column<el::Negatives>()[t] >= 1);
    const auto own = split.items(t == 0 ? 1 : 0);
    CHECK(std::find(own.begin(), own.end(), view.column<el::Negatives>()[t]) == own.end());
  }
}

namespace {

/// Sixty users in pairs of equal histories, of twelve items each; user u of the pair 2u, 2u + 1 owns 20u + 1 .. 20u
/// + 12.
el::LeaveOneOut twins() {
  Names names;
  std::vector<el::Index> offsets{0};
  Items rows;
  for (el::ItemId u = 0; u < 60; ++u) {
    names.push_back(u);
    for (el::ItemId i = 0; i < 12; ++i) {
      rows.push_back(u / 2 * 20 + i + 1);
    }
    offsets.push_back(static_cast<el::Index>(rows.size()));
  }
  return el::leave_one_out({names, offsets, rows, el::ItemMap::identity(600)});
}

/// What a view makes of users, a list of tokens and of negatives for each sequence.
template <class V>
std::vector<std::pair<Items, Items>> sequences(const el::LeaveOneOut& split, const std::vector<el::Index>& users,
                                               std::uint64_t seed, std::uint32_t step) {
  const el::UniformNegativeSampler negatives(split.dataset());
  el::TokenBatch batch;
  batch.start(12, el::Padding::paper);
  V{}.build({&split, &negatives, seed, step}, users, batch);
  const auto view = batch.view();
  std::vector<std::pair<Items, Items>> list;
  for (el::Index s = 0; s < view.sequences(); ++s) {
    const auto part = [&](auto values) { return copy(el::slice(values, view.begin(s), view.end(s))); };
    list.emplace_back(part(view.items), view.has<el::Negatives>() ? part(view.column<el::Negatives>()) : Items{});
  }
  return list;
}

}  // namespace

TEST_CASE("views draw anew for every sequence, step and seed, and the same for the same") {
  const auto split = twins();
  std::vector<el::Index> users;
  for (el::Index u = 59; u >= 0; --u) {
    users.push_back(u);
  }
  const auto check = [&]<class V>(V) {
    const auto one = sequences<V>(split, users, 3, 5);
    CHECK(one == sequences<V>(split, users, 3, 5));
    CHECK(one != sequences<V>(split, users, 4, 5));
    CHECK(one != sequences<V>(split, users, 3, 6));
    std::size_t equal = 0;
    for (std::size_t s = 0; s + 1 < users.size(); s += 2) {
      equal += one[s] == one[s + 1] ? 1 : 0;
    }
    CHECK(equal < 10);  // of 30 pairs of users with equal histories
    return one;
  };
  for (const auto& list : {check(el::InputView{}), check(el::PrefixView{})}) {
    for (const auto& [items, negatives] : list) {
      for (const el::ItemId negative : negatives) {
        const el::ItemId first = items.back() - (items.back() - 1) % 20;
        CHECK((negative == el::padding_item || negative < first || negative > first + 11));
      }
    }
  }

  const auto pairs = check(el::AugmentedPair<>{});
  REQUIRE(pairs.size() == 120);
  std::size_t equal = 0;
  for (std::size_t s = 0; s < pairs.size(); ++s) {
    const auto input = split.input(users[s % 60], el::Split::train);
    for (const el::ItemId item : pairs[s].first) {
      CHECK((item == el::padding_item || std::find(input.begin(), input.end(), item) != input.end()));
    }
    equal += s < 60 && pairs[s].first == pairs[s + 60].first ? 1 : 0;
  }
  CHECK(equal < 20);

  el::TokenBatch batch;
  batch.start(12, el::Padding::masked);
  el::AugmentedPair<>{}.build({&split, nullptr, 3, 5}, users, batch);
  REQUIRE(batch.view().column<el::Labels>().size() == 60);
  for (std::size_t n = 0; n < 60; ++n) {
    CHECK(batch.view().column<el::Labels>()[n] == split.target(users[n], el::Split::train));
  }
}

TEST_CASE("views bring whose sequences they are, and as many negatives as the source draws") {
  const auto split = el::leave_one_out(read("1 4 2 7 5 3\n2 1 6 2 8\n"));
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<el::Index> users{1, 0};
  const auto build = [&]<class V>(const V& view) {
    el::TokenBatch batch;
    batch.start(3, el::Padding::masked);
    view.build({.split = &split, .negatives = &negatives, .seed = 3, .step = 5, .negatives_per_target = 3}, users,
               batch);
    return batch;
  };
  const auto check_negatives = [&](const el::TokenView& view) {
    REQUIRE(view.width<el::Negatives>() == 3);
    const auto drawn = view.column<el::Negatives>();
    REQUIRE(drawn.size() == 3 * view.items.size());
    std::set<el::ItemId> distinct;
    for (el::Index s = 0; s < view.sequences(); ++s) {
      const auto own = split.items(view.column<el::Users>()[static_cast<std::size_t>(s)] - 1);
      for (el::Index t = view.begin(s); t < view.end(s); ++t) {
        const bool target = view.column<el::Targets>()[static_cast<std::size_t>(t)] != el::padding_item;
        for (const el::ItemId item : el::slice(drawn, 3 * t, 3 * t + 3)) {
          CHECK((item != el::padding_item) == target);
          CHECK((!target || std::find(own.begin(), own.end(), item) == own.end()));
          distinct.insert(item);
        }
      }
    }
    CHECK(distinct.size() > 2);
  };
  const auto input = build(el::InputView{});
  CHECK(copy(input.view().column<el::Users>()) == Items{2, 1});
  check_negatives(input.view());
  const auto prefixes = build(el::PrefixView{});
  CHECK(copy(prefixes.view().column<el::Users>()) == Items{2, 1, 1});
  check_negatives(prefixes.view());
  const auto cloze = build(el::ClozeView{.mask_item = 9, .mask_ratio = 0.5});
  CHECK(copy(cloze.view().column<el::Users>()) == Items{2, 1});
  check_negatives(cloze.view());
  const auto pair = build(el::AugmentedPair<>{});
  CHECK(copy(pair.view().column<el::Users>()) == Items{2, 1, 2, 1});
  CHECK_FALSE(pair.view().has<el::Negatives>());
  CHECK_FALSE(pair.view().has<el::Targets>());
}

TEST_CASE("a source that draws no negatives for each target is refused") {
  const auto split = el::leave_one_out(read("1 4 2 7 5 3\n2 1 6 2 8\n"));
  const el::UniformNegativeSampler negatives(split.dataset());
  const std::vector<el::Index> users{1, 0};
  el::TokenBatch batch;
  batch.start(3, el::Padding::masked);
  CHECK(error_of<el::ArgumentError>([&] {
          el::InputView{}.build({.split = &split, .negatives = &negatives, .negatives_per_target = 0}, users, batch);
        }) == "negatives for each target: found 0, expected at least 1");
}

TEST_CASE("user rows count from 1") {
  CHECK(el::user_row(0) == 1);
  CHECK(el::user_row(2147483646) == 2147483647);
  CHECK(error_of<el::ArgumentError>([] { (void)el::user_row(2147483647); }) ==
        "user number: found 2147483647, expected 0 to 2147483646");
  CHECK(error_of<el::ArgumentError>([] { (void)el::user_row(-1); }) ==
        "user number: found -1, expected 0 to 2147483646");
}

namespace {

constexpr el::ItemId cloze_mask = 601;

/// The cloze view of the sixty twins at one step, 8 of their 10 training items each.
el::TokenBatch cloze(const el::LeaveOneOut& split, const el::ClozeView& view, std::uint64_t seed, std::uint32_t step) {
  std::vector<el::Index> users(60);
  std::iota(users.begin(), users.end(), el::Index{0});
  el::TokenBatch batch;
  batch.start(8, el::Padding::masked);
  view.build({.split = &split, .seed = seed, .step = step}, users, batch);
  return batch;
}

}  // namespace

TEST_CASE("cloze view: masked tokens carry what they hide") {
  const auto split = twins();
  el::Index last_only = 0;
  std::vector<int> masked_at(8);
  std::vector<int> masked_of(9);
  for (std::uint32_t step = 0; step < 200; ++step) {
    const auto batch = cloze(split, {.mask_item = cloze_mask, .mask_ratio = 0.25, .last_ratio = 0.4}, 3, step);
    const auto view = batch.view();
    REQUIRE(view.sequences() == 60);
    REQUIRE(view.tokens() == 480);
    const auto targets = view.column<el::Targets>();
    bool only_last = true;
    std::vector<int> at(8);
    std::vector<int> of(9);
    for (el::Index u = 0; u < 60; ++u) {
      std::size_t masked = 0;
      const auto window = split.input(u, el::Split::valid).last(8);
      for (std::size_t i = 0; i < 8; ++i) {
        const auto t = static_cast<std::size_t>(view.begin(u)) + i;
        const bool hidden = view.items[t] == cloze_mask;
        CHECK(targets[t] == (hidden ? window[i] : el::padding_item));
        CHECK((hidden || view.items[t] == window[i]));
        masked += hidden ? 1 : 0;
        at[i] += hidden ? 1 : 0;
      }
      only_last = only_last && masked == 1 && targets[static_cast<std::size_t>(view.end(u)) - 1] != 0;
      ++of[masked];
    }
    CHECK(view.column<el::TargetTokens>().size() ==
          static_cast<std::size_t>(480 - std::count(targets.begin(), targets.end(), el::padding_item)));
    if (only_last) {
      ++last_only;
      continue;
    }
    for (std::size_t i = 0; i < 8; ++i) {
      masked_at[i] += at[i];
    }
    for (std::size_t n = 0; n <= 8; ++n) {
      masked_of[n] += of[n];
    }
  }
  CHECK(std::abs(last_only - 80) < 28);  // four standard deviations
  CHECK(chi_square_excess(masked_at) < 5.0);
  const int sequences = std::accumulate(masked_of.begin(), masked_of.end(), 0);
  for (int n = 0; n <= 8; ++n) {  // binomial of 8 draws
    double share = std::pow(0.25, n) * std::pow(0.75, 8 - n);
    for (int i = 1; i <= n; ++i) {
      share *= static_cast<double>(9 - i) / i;
    }
    const double deviation = std::sqrt(share * (1 - share) * sequences);
    CHECK(std::abs(masked_of[static_cast<std::size_t>(n)] - share * sequences) < 4.5 * deviation + 1);
  }

  const auto items = [&](std::uint64_t seed, std::uint32_t step) {
    return copy(cloze(split, {.mask_item = cloze_mask, .last_ratio = 0}, seed, step).view().items);
  };
  CHECK(items(3, 5) == items(3, 5));
  CHECK(items(3, 5) != items(3, 6));
  CHECK(items(3, 5) != items(4, 5));
}

TEST_CASE("cloze view: what RecBole masks and does not learn") {
  const auto split = twins();
  bool first = false;
  bool more = false;
  for (std::uint32_t step = 0; step < 20; ++step) {
    const el::ClozeView view{.mask_item = cloze_mask, .mask_ratio = 0.3, .last_ratio = 0};
    auto as_recbole = view;
    as_recbole.recbole_targets = true;
    const auto all = cloze(split, view, 3, step);
    const auto some = cloze(split, as_recbole, 3, step);
    REQUIRE(copy(all.view().items) == copy(some.view().items));
    const auto targets = all.view().column<el::Targets>();
    for (el::Index u = 0; u < 60; ++u) {
      int slots = 2;  // 0.3 of 8
      for (el::Index t = all.view().end(u); t-- > all.view().begin(u);) {
        const auto at = static_cast<std::size_t>(t);
        const bool learnt = targets[at] != 0 && slots > 0 && t != all.view().begin(u);
        more = more || (targets[at] != 0 && slots == 0 && t != all.view().begin(u));
        first = first || (targets[at] != 0 && slots > 0 && t == all.view().begin(u));
        slots -= targets[at] != 0 && slots > 0 ? 1 : 0;
        CHECK(some.view().column<el::Targets>()[at] == (learnt ? targets[at] : el::padding_item));
      }
    }
  }
  CHECK(first);
  CHECK(more);
}

TEST_CASE("cloze view: options out of their range") {
  const auto split = twins();
  const auto failure = [&](const el::ClozeView& view) {
    return error_of<el::ArgumentError>([&] { (void)cloze(split, view, 1, 1); });
  };
  CHECK(failure({}) == "ClozeView: found the mask item 0, expected a row above the 600 items of the data");
  CHECK(failure({.mask_item = 600}) ==
        "ClozeView: found the mask item 600, expected a row above the 600 items of the data");
  CHECK(failure({.mask_item = 601, .mask_ratio = 0}) ==
        "ClozeView: found mask_ratio 0, expected above 0 and at most 1");
  CHECK(failure({.mask_item = 601, .mask_ratio = 1.5}) ==
        "ClozeView: found mask_ratio 1.5, expected above 0 and at most 1");
  CHECK(failure({.mask_item = 601, .last_ratio = -1}) == "ClozeView: found last_ratio -1, expected 0 to 1");
  CHECK(failure({.mask_item = 601, .mask_ratio = NAN}) ==
        "ClozeView: found mask_ratio nan, expected above 0 and at most 1");
}

TEST_CASE("views bring no negatives where none are drawn") {
  const auto split = el::leave_one_out(read("1 4 2 1 3\n"));  // owns every item
  const std::vector<el::Index> users{0};
  const el::BatchSource source{.split = &split, .negatives = nullptr, .seed = 3, .step = 5};
  el::TokenBatch batch;
  batch.start(2, el::Padding::masked);
  el::PrefixView{}.build(source, users, batch);
  CHECK(batch.view().column<el::Targets>().size() == 1);
  CHECK_FALSE(batch.view().has<el::Negatives>());
  batch.start(2, el::Padding::masked);
  el::InputView{}.build(source, users, batch);
  CHECK(batch.view().column<el::Targets>().size() == 1);
  CHECK_FALSE(batch.view().has<el::Negatives>());
}

TEST_CASE("synthetic: sizes, lengths, and every item in one intent") {
  const el::SyntheticOptions options;
  const el::SyntheticData s = el::make_synthetic(options);
  CHECK(s.data.user_count() == 2000);
  CHECK(s.data.item_count() == 1000);
  CHECK(s.user_intent.size() == 2000);
  REQUIRE(s.item_intent.size() == 1000);
  for (std::int32_t intent = 0; intent < 8; ++intent) {
    CHECK(std::count(s.item_intent.begin(), s.item_intent.end(), intent) == 125);
    CHECK(std::abs(std::count(s.user_intent.begin(), s.user_intent.end(), intent) - 250) < 75);
  }

  el::Index shortest = 1000;
  bool repeats = false;
  for (el::Index user = 0; user < s.data.user_count(); ++user) {
    Items history = copy(s.data.history(user));
    shortest = std::min(shortest, static_cast<el::Index>(history.size()));
    std::sort(history.begin(), history.end());
    repeats |= std::adjacent_find(history.begin(), history.end()) != history.end();
  }
  CHECK(shortest == 5);
  CHECK_FALSE(repeats);
  CHECK(static_cast<double>(s.data.interaction_count()) / 2000.0 == doctest::Approx(12.0).epsilon(0.05));
}

TEST_CASE("synthetic: the dominant intent shows, and transitions tell far more than popularity") {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    const el::SyntheticData s = el::make_synthetic({.seed = seed});
    const el::LeaveOneOut split = el::leave_one_out(s.data);
    const auto intent_of = [&](el::ItemId item) { return s.item_intent[static_cast<std::size_t>(item) - 1]; };

    std::vector<int> popularity(1001);
    std::map<el::ItemId, std::map<el::ItemId, int>> followers;
    int visible = 0;
    int of_dominant = 0;
    for (el::Index user = 0; user < split.user_count(); ++user) {
      const auto history = split.input(user, el::Split::test);
      std::array<int, 8> votes{};
      for (std::size_t i = 0; i < history.size(); ++i) {
        ++popularity[static_cast<std::size_t>(history[i])];
        ++votes[static_cast<std::size_t>(intent_of(history[i]))];
        if (i > 0) {
          ++followers[history[i - 1]][history[i]];
        }
      }
      const auto dominant = static_cast<std::size_t>(s.user_intent[static_cast<std::size_t>(user)]);
      visible += std::max_element(votes.begin(), votes.end()) - votes.begin() == static_cast<std::ptrdiff_t>(dominant);
      of_dominant += intent_of(split.target(user, el::Split::test)) == static_cast<std::int32_t>(dominant);
    }
    CHECK(visible > 1950);
    CHECK(of_dominant == doctest::Approx(1800).epsilon(0.03));

    // Hit rate at 10 of the most popular unseen items, and of those that most often followed the last item.
    const auto hit = [&](el::Index user, auto score) {
      const auto history = split.input(user, el::Split::test);
      const el::ItemId target = split.target(user, el::Split::test);
      int above = 0;
      for (const el::ItemId item : ascending(1000)) {
        above += score(item) > score(target) && std::find(history.begin(), history.end(), item) == history.end();
      }
      return above < 10;
    };
    int by_popularity = 0;
    int by_transition = 0;
    for (el::Index user = 0; user < split.user_count(); user += 4) {
      auto& next = followers[split.input(user, el::Split::test).back()];
      const auto popular = [&](el::ItemId item) { return popularity[static_cast<std::size_t>(item)]; };
      by_popularity += hit(user, popular);
      by_transition += hit(user, [&](el::ItemId item) {
        const auto found = next.find(item);
        return (found == next.end() ? 0 : found->second) * 1000 + popular(item);
      });
    }
    CAPTURE(by_popularity);
    CAPTURE(by_transition);
    CHECK(by_transition > 4 * by_popularity);
    CHECK(by_popularity > 500 / 100);  // skewed: popularity beats chance, which is 10 in 1000
  }
}

TEST_CASE("synthetic: the same options give the same data; written and read again, names stay") {
  const el::SyntheticOptions options{.users = 50, .items = 100, .intents = 4, .seed = 5};
  const el::SyntheticData s = el::make_synthetic(options);
  CHECK(written(s.data) == written(el::make_synthetic(options).data));
  auto other = options;
  other.seed = 6;
  CHECK(written(s.data) != written(el::make_synthetic(other).data));
  CHECK(written(read(written(s.data))) == written(s.data));
}

TEST_CASE("synthetic: corners of the options") {
  const auto one =
      el::make_synthetic({.users = 30, .items = 20, .intents = 1, .min_length = 2, .mean_length = 5, .stay = 0});
  CHECK(std::all_of(one.user_intent.begin(), one.user_intent.end(), [](std::int32_t i) { return i == 0; }));

  // Only one successor each, always followed, in an intent of two items: longer histories must leave it.
  const auto narrow = el::make_synthetic({.users = 30,
                                          .items = 40,
                                          .intents = 20,
                                          .min_length = 10,
                                          .mean_length = 10,
                                          .stay = 1,
                                          .follow = 1,
                                          .successors = 1});
  CHECK(narrow.data.interaction_count() == 300);

  const auto never = el::make_synthetic({.users = 200, .items = 400, .intents = 4, .stay = 0});
  for (el::Index user = 0; user < 200; ++user) {
    for (const el::ItemId item : never.data.history(user)) {
      CHECK(never.item_intent[static_cast<std::size_t>(item) - 1] != never.user_intent[static_cast<std::size_t>(user)]);
    }
  }

  // 10 items in 4 intents: 3, 3, 2, 2.
  const auto uneven = el::make_synthetic({.users = 5, .items = 10, .intents = 4, .min_length = 2, .mean_length = 2});
  for (std::int32_t intent = 0; intent < 4; ++intent) {
    CHECK(std::count(uneven.item_intent.begin(), uneven.item_intent.end(), intent) == (intent < 2 ? 3 : 2));
  }
}

TEST_CASE("synthetic: options out of range") {
  const auto error = [](const el::SyntheticOptions& options) {
    return error_of<el::ArgumentError>([&] { (void)el::make_synthetic(options); });
  };
  CHECK(error({.users = 0}) == "synthetic data: 0 users; expected 1 to 2147483646");
  CHECK(error({.intents = 0}) == "synthetic data: 0 intents; expected 1 to 1073741823");
  CHECK(error({.items = 15}) == "synthetic data: 15 items; expected 16 (2 an intent) to 2147483646");
  CHECK(error({.min_length = 1}) == "synthetic data: min_length 1; expected at least 2");
  CHECK(error({.mean_length = 4}) ==
        "synthetic data: mean_length 4; expected 5 (min_length) to 250 (a quarter of the items)");
  CHECK(error({.mean_length = 251}) ==
        "synthetic data: mean_length 251; expected 5 (min_length) to 250 (a quarter of the items)");
  CHECK(error({.successors = 0}) == "synthetic data: 0 successors; expected 1 to 2147483646");
  CHECK(error({.skew = -1}) == "synthetic data: skew -1; expected 0 to 10");
  CHECK(error({.stay = 1.5}) == "synthetic data: stay 1.5; expected 0 to 1");
  CHECK(error({.follow = std::nan("")}) == "synthetic data: follow nan; expected 0 to 1");
}
