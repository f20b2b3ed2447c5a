#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <numeric>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "elcrec/backend/cpu/dropout.hpp"
#include "elcrec/backend/host_buffer.hpp"
#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/excerpt.hpp"
#include "elcrec/core/fingerprint.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/token_view.hpp"
#include "elcrec/core/type_list.hpp"
#include "elcrec/core/workspace.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/position_index.hpp"
#include "elcrec/data/token_batch.hpp"
#include "support.hpp"

namespace el = elcrec;
using el::Index;
using el::ItemId;

// ---- random numbers -----------------------------------------------------------------------------------------------

TEST_CASE("philox gives the published known answers") {
  static_assert(el::philox({0, 0, 0, 0}, 0, 0) == el::PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr std::uint32_t ones = 0xffffffff;
  CHECK(el::philox({ones, ones, ones, ones}, ones, ones) ==
        el::PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(el::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0) ==
        el::PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a stream places index, tensor, step and seed in counter and key") {
  const el::RandomStream stream{.seed = 0x299f31d0a4093822, .step = 0x03707344, .tensor = 0x13198a2e};
  CHECK(stream.block(0x85a308d3243f6a88) == el::PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("RandomEngine::below is unbiased and in range") {
  el::RandomEngine random({.seed = 1});
  for (const std::uint32_t bound : {1U, 2U, 7U, 3U << 30}) {
    constexpr int draws = 60000;
    const std::uint32_t cells = std::min(bound, 12U);
    std::vector<int> counts(cells);
    for (int i = 0; i < draws; ++i) {
      const std::uint32_t v = random.below(bound);
      REQUIRE(v < bound);
      ++counts[static_cast<std::size_t>(std::uint64_t{v} * cells / bound)];
    }
    for (const int count : counts) {  // 5 standard deviations; without rejection, 3 · 2^30 would be off by half
      CHECK(std::abs(count - draws / static_cast<double>(cells)) < 5 * std::sqrt(draws / static_cast<double>(cells)));
    }
  }
}

TEST_CASE("RandomEngine draws uniform and normal numbers") {
  el::RandomEngine random({.seed = 2});
  constexpr int draws = 200000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0.0);
    REQUIRE(u < 1.0);
    sum += u;
    squares += u * u;
  }
  CHECK(sum / draws == doctest::Approx(0.5).epsilon(0.01));
  CHECK(squares / draws == doctest::Approx(1.0 / 3).epsilon(0.01));
  double moments[4] = {};
  for (int i = 0; i < draws; ++i) {
    const double x = random.normal();
    REQUIRE(std::isfinite(x));
    for (int k = 0; k < 4; ++k) {
      moments[k] += std::pow(x, k + 1) / draws;
    }
  }
  CHECK(std::abs(moments[0]) < 0.012);
  CHECK(std::abs(moments[1] - 1) < 0.02);
  CHECK(std::abs(moments[2]) < 0.05);
  CHECK(std::abs(moments[3] - 3) < 0.12);
}

TEST_CASE("RandomEngine shuffles to any permutation, and the same one again") {
  const auto shuffled = [](std::uint64_t seed) {
    std::vector<int> values(5);
    std::iota(values.begin(), values.end(), 0);
    el::RandomEngine random({.seed = seed});
    random.shuffle(std::span(values));
    return values;
  };
  std::set<std::vector<int>> seen;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    auto values = shuffled(seed);
    CHECK(values == shuffled(seed));
    seen.insert(values);
    std::sort(values.begin(), values.end());
    REQUIRE(values == std::vector<int>{0, 1, 2, 3, 4});
  }
  CHECK(seen.size() == 120);
  std::vector<int> none;
  el::RandomEngine({}).shuffle(std::span(none));
  CHECK(none.empty());
}

TEST_CASE("engines of other subsequences, steps, tensors and seeds differ") {
  const auto draws = [](el::RandomStream stream, std::uint32_t subsequence) {
    el::RandomEngine random(stream, subsequence);
    std::vector<std::uint32_t> values(50);
    std::generate(values.begin(), values.end(), std::ref(random));
    return values;
  };
  const std::vector<std::vector<std::uint32_t>> all{draws({}, 0),          draws({}, 1),
                                                    draws({.seed = 1}, 0), draws({.seed = std::uint64_t{1} << 32}, 0),
                                                    draws({.step = 1}, 0), draws({.tensor = 1}, 0)};
  std::set<std::uint32_t> distinct;
  for (const auto& values : all) {
    distinct.insert(values.begin(), values.end());
  }
  CHECK(distinct.size() == 300);
  CHECK(draws({.step = 1}, 0) == all[4]);
  const auto first = el::RandomStream{.step = 1}.block(0);
  CHECK(std::equal(first.begin(), first.end(), all[4].begin()));
}

// ---- views --------------------------------------------------------------------------------------------------------

TEST_CASE("MatrixView: extents, strides, slices") {
  std::vector<int> data(24);
  std::iota(data.begin(), data.end(), 0);
  const el::MatrixView<int> m(data.data(), 4, 5, 6);
  CHECK(m(2, 3) == 15);
  CHECK(m.size() == 20);
  CHECK_FALSE(m.contiguous());
  const auto rows = m.slice_rows(1, 3);
  CHECK(rows.rows() == 2);
  CHECK(rows.stride() == 6);
  CHECK(rows(1, 4) == 16);
  const auto cols = m.slice_cols(2, 4);
  CHECK(cols.cols() == 2);
  CHECK(cols(3, 1) == 21);
  CHECK(cols.slice_rows(1, 2).contiguous());  // one row is
  CHECK(cols.slice_rows(1, 2).flat().back() == 9);
  CHECK(m.slice_rows(4, 4).size() == 0);
  const el::MatrixView<int> whole(data.data(), 4, 6);
  CHECK(whole.contiguous());
  CHECK(whole.flat().size() == 24);
  whole(3, 5) = -1;
  CHECK(data.back() == -1);
}

TEST_CASE("MatrixView: fixed extents take no room and convert where they agree") {
  using Fixed = el::MatrixView<int, 4, 6>;
  using ConstDynamic = el::MatrixView<const int>;
  static_assert(sizeof(Fixed) < sizeof(el::MatrixView<int>));
  static_assert(std::is_convertible_v<Fixed, ConstDynamic>);
  static_assert(std::is_convertible_v<el::MatrixView<int>, Fixed>);
  static_assert(!std::is_convertible_v<ConstDynamic, el::MatrixView<int>>, "const is not cast away");
  static_assert(!std::is_convertible_v<el::MatrixView<int, 4, 5>, Fixed>, "5 columns are not 6");
  static_assert(!std::is_convertible_v<el::MatrixView<float>, el::MatrixView<double>>);
  static_assert(std::is_same_v<decltype(Fixed().slice_rows(0, 1)), el::MatrixView<int, el::Dynamic, 6>>);
  static_assert(std::is_same_v<decltype(Fixed().slice_cols(0, 1)), el::MatrixView<int, 4, el::Dynamic>>);
  std::vector<int> data(24, 7);
  const Fixed fixed(data.data(), 4, 6);
  const ConstDynamic view = fixed;
  CHECK(view.rows() == 4);
  CHECK(view.cols() == 6);
  CHECK(&view(3, 5) == &data[23]);
}

TEST_CASE("slices of spans") {
  const std::vector<int> v{1, 2, 3, 4};
  const auto part = el::slice(std::span(v), 1, 3);
  CHECK(el::ssize(part) == 2);
  CHECK(part[1] == 3);
  CHECK(el::slice(std::span(v), 4, 4).empty());
}

TEST_CASE("type lists") {
  using List = el::TypeList<int, char, double>;
  static_assert(List::size == 3);
  static_assert(List::contains<char> && !List::contains<float>);
  static_assert(List::index_of<int>() == 0 && List::index_of<double>() == 2 && List::index_of<float>() == 3);
  static_assert(std::is_same_v<el::UnionOf<List, el::TypeList<float, int>, el::TypeList<>, el::TypeList<char, long>>,
                               el::TypeList<int, char, double, float, long>>);
  static_assert(std::is_same_v<el::UnionOf<>, el::TypeList<>>);
  std::string sizes;
  el::TypeList<char, std::int32_t>::for_each(
      [&]<class T>(std::type_identity<T>) { sizes += std::to_string(sizeof(T)); });
  CHECK(sizes == "14");
}

// ---- workspace ----------------------------------------------------------------------------------------------------

TEST_CASE("a workspace gives memory back by frames and stops growing") {
  using Bytes = el::HostBuffer<std::byte>;
  int chunks = 0;
  el::Workspace<Bytes> workspace([&](std::size_t bytes) {
    ++chunks;
    return Bytes(static_cast<Index>(bytes), Bytes::Uninitialised{});
  });
  CHECK(workspace.capacity() == 0);
  const auto aligned = [](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % el::Workspace<Bytes>::alignment == 0;
  };
  const auto pass = [&] {
    const auto frame = workspace.frame();
    auto small = workspace.array<char>(3);
    auto doubles = workspace.matrix<double>(100, 33);
    std::fill(small.begin(), small.end(), 'a');
    std::fill(doubles.flat().begin(), doubles.flat().end(), 1.0);
    {
      const auto inner = workspace.frame();
      auto large = workspace.array<float>(700000);  // does not fit in the first chunk
      std::fill(large.begin(), large.end(), 2.0F);
      CHECK(aligned(large.data()));
    }
    auto after = workspace.array<int>(5);
    std::fill(after.begin(), after.end(), 3);
    CHECK(aligned(doubles.data()));
    CHECK(aligned(after.data()));
    CHECK(small[2] == 'a');
    CHECK(doubles(99, 32) == 1.0);
    CHECK(static_cast<const void*>(after.data()) ==
          static_cast<const void*>(doubles.data() + 3304));  // large is given back
    return small.data();
  };
  const void* first = pass();
  const auto capacity = workspace.capacity();
  CHECK(chunks == 2);
  CHECK(capacity >= 700000 * sizeof(float) + 3300 * sizeof(double));
  for (int i = 0; i < 3; ++i) {
    CHECK(pass() == first);
  }
  CHECK(workspace.capacity() == capacity);
  CHECK(chunks == 2);
  auto kept = workspace.array<char>(1);
  CHECK(static_cast<const void*>(kept.data()) == first);
  CHECK(workspace.used() == 64);
  workspace.clear();  // to one chunk that holds all of it
  CHECK(chunks == 3);
  CHECK(workspace.used() == 0);
  CHECK(workspace.capacity() == 64 + 3304 * sizeof(double) + 700000 * sizeof(float));
  pass();
  CHECK(chunks == 3);
  CHECK(workspace.array<double>(0).empty());
}

TEST_CASE("a workspace whose matrices change in size takes no more than the largest need") {
  using Bytes = el::HostBuffer<std::byte>;
  el::Workspace<Bytes> workspace(
      [](std::size_t bytes) { return Bytes(static_cast<Index>(bytes), Bytes::Uninitialised{}); });
  std::size_t most = 0;
  for (Index step = 0; step < 40; ++step) {
    workspace.clear();
    for (Index matrix = 0; matrix < 6; ++matrix) {
      (void)workspace.matrix<float>(1000 + 64 * step, 256);
    }
    most = workspace.used();
  }
  workspace.clear();
  CHECK(workspace.capacity() == most);
}

// ---- dropout ------------------------------------------------------------------------------------------------------

TEST_CASE("a dropout mask keeps the fraction that it scales for") {
  for (const double rate : {0.1, 0.5, 0.9}) {
    const el::DropoutMask mask({.seed = 4, .step = 2, .tensor = 9}, rate);
    Index kept = 0;
    constexpr Index rows = 400;
    constexpr Index columns = 150;
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < columns; ++c) {
        kept += mask.keeps(static_cast<std::uint64_t>(r), c, columns) ? 1 : 0;
      }
    }
    constexpr double n = rows * columns;
    CHECK(std::abs(static_cast<double>(kept) - n * (1 - rate)) < 5 * std::sqrt(n * rate * (1 - rate)));
    CHECK(mask.scale() == doctest::Approx(1 / (1 - rate)).epsilon(1e-4));
    CHECK(mask.active());
  }
  CHECK_FALSE(el::DropoutMask().active());
  CHECK_FALSE(el::DropoutMask({}, 0.0).active());
  CHECK(el::DropoutMask().keeps(1, 2, 3));
  CHECK(el::DropoutMask().scale() == 1.0);
  const double almost = std::nextafter(1.0, 0.0);  // rounds to all bits dropped, but the scale stays finite
  CHECK(std::isfinite(el::DropoutMask({}, almost).scale()));
  for (const double wrong : {1.0, -0.1, 2.0, std::nan("")}) {
    CHECK_THROWS_WITH_AS(static_cast<void>(el::DropoutMask({}, wrong)),
                         el::message("dropout rate: found ", wrong, ", expected a value in [0, 1)").c_str(),
                         el::ArgumentError);
  }
}

TEST_CASE_TEMPLATE("the cpu's dropout factors are the mask's bits", T, float, double) {
  for (const double rate : {0.0, 0.3, 0.5}) {
    const el::DropoutMask mask({.seed = 0x123456789abcULL, .step = 7, .tensor = 11}, rate);
    el::cpu::DropoutFactors<T> source(mask);
    for (const std::uint64_t row :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{15}, std::uint64_t{16},
          std::uint64_t{12799}, (std::uint64_t{1} << 32) - 1, std::uint64_t{1} << 33}) {
      for (const Index columns : {1, 7, 8, 50, 63, 64, 65, 100, 128, 200, 256}) {
        for (Index first = 0; first < columns; first += el::DropoutMask::group_columns) {
          for (const Index count : {columns - first, std::min<Index>(columns - first, 9)}) {
            std::vector<T> factors(static_cast<std::size_t>((count + 63) / 64 * 64), T(-1));
            source.row(row, columns, first, count, factors.data());
            bool same = true;
            for (Index c = 0; c < count; ++c) {
              const T expected = mask.keeps(row, first + c, columns) ? static_cast<T>(mask.scale()) : T(0);
              same = same && factors[static_cast<std::size_t>(c)] == expected;
            }
            CAPTURE(row);
            CAPTURE(columns);
            CAPTURE(first);
            CHECK(same);
          }
        }
      }
    }
  }
}

// ---- batches ------------------------------------------------------------------------------------------------------

namespace {

template <class T>
std::vector<T> list(std::span<const T> values) {
  return {values.begin(), values.end()};
}

using Ids = std::vector<ItemId>;
using Floats = std::vector<float>;
using el::Negatives;
using el::Targets;
using el::with;

/// Columns of an author's own, one of each kind.
struct Gaps {
  using Value = float;
  static constexpr std::string_view name = "gaps";
  static constexpr el::Per per = el::Per::token;
  static constexpr std::string_view source = "a test";
};
struct Attributes {
  using Value = std::int32_t;
  static constexpr std::string_view name = "attributes";
  static constexpr el::Per per = el::Per::token;
  static constexpr std::string_view source = "a test";
};
struct Profile {
  using Value = float;
  static constexpr std::string_view name = "profile";
  static constexpr el::Per per = el::Per::sequence;
  static constexpr std::string_view source = "a test";
};
struct Weights {
  using Value = float;
  static constexpr std::string_view name = "weights";
  static constexpr el::Per per = el::Per::batch;
  static constexpr std::string_view source = "a test";
};
/// Another author's column of that name.
struct OtherWeights {
  using Value = std::int32_t;
  static constexpr std::string_view name = "weights";
  static constexpr el::Per per = el::Per::sequence;
  static constexpr std::string_view source = "a test";
};
template <int N>
struct Numbered {
  using Value = std::int32_t;
  static constexpr std::array<char, 1> digit{'0' + N};
  static constexpr std::string_view name{digit.data(), 1};
  static constexpr el::Per per = el::Per::token;
  static constexpr std::string_view source = "a test";
};

}  // namespace

TEST_CASE("a batch with masked padding holds real tokens only, right-aligned") {
  el::TokenBatch batch;
  batch.start(4, el::Padding::masked);
  batch.add(Ids{7, 8}, {with<Targets>(Ids{8, 9}), with<Negatives>(Ids{1, 2})});
  batch.add(Ids{1, 2, 3, 4, 5, 6},
            {with<Targets>(Ids{2, 3, 4, 5, 6, 0}), with<Negatives>(Ids{9, 9, 9, 9, 9, 9})});  // cut to the last 4
  batch.add(Ids{});
  // A masked item leaves its position empty.
  batch.add(Ids{5, 0, 6}, {with<Targets>(Ids{3, 4, 0}), with<Negatives>(Ids{1, 1, 1})});
  batch.append(with<el::Labels>(9));
  const auto v = batch.view();
  CHECK(v.sequences() == 4);
  CHECK(v.tokens() == 8);
  CHECK(v.max_length == 4);
  CHECK(v.longest == 4);
  CHECK(list(v.offsets) == Ids{0, 2, 6, 6, 8});
  CHECK(list(v.items) == Ids{7, 8, 3, 4, 5, 6, 5, 6});
  CHECK(list(v.positions) == Ids{2, 3, 0, 1, 2, 3, 1, 3});
  CHECK(list(v.column<Targets>()) == Ids{8, 9, 4, 5, 6, 0, 3, 0});
  CHECK(list(v.column<Negatives>()) == Ids{1, 2, 9, 9, 9, 9, 1, 1});
  CHECK(list(v.column<el::TargetTokens>()) == Ids{0, 1, 2, 3, 4, 6});
  CHECK(list(v.column<el::Labels>()) == Ids{9});
  CHECK(v.random_row(1, 4) == 1 * 4 + 2);

  batch.start(3, el::Padding::masked);
  CHECK(batch.view().tokens() == 0);
  CHECK(batch.view().sequences() == 0);
  CHECK(batch.view().longest == 0);
  batch.add(Ids{3});
  CHECK_FALSE(batch.view().has<Targets>());
  CHECK_FALSE(batch.view().has<Negatives>());
  CHECK_FALSE(batch.view().has<el::TargetTokens>());
  CHECK_FALSE(batch.view().has<el::Labels>());
}

TEST_CASE("a batch with paper padding fills every sequence up on the left") {
  el::TokenBatch batch;
  batch.start(3, el::Padding::paper);
  batch.add(Ids{});  // before it is known that there are targets
  batch.add(Ids{7}, {with<Targets>(Ids{8}), with<Negatives>(Ids{1})});
  batch.add(Ids{1, 2, 3, 4}, {with<Targets>(Ids{2, 3, 4, 5}), with<Negatives>(Ids{9, 8, 7, 6})});
  batch.add(Ids{5, 0}, {with<Targets>(Ids{3, 4}), with<Negatives>(Ids{1, 2})});
  const auto v = batch.view();
  CHECK(v.longest == 3);
  CHECK(list(v.offsets) == Ids{0, 3, 6, 9, 12});
  CHECK(list(v.items) == Ids{0, 0, 0, 0, 0, 7, 2, 3, 4, 0, 5, 0});
  CHECK(list(v.positions) == Ids{0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2});
  CHECK(list(v.column<Targets>()) == Ids{0, 0, 0, 0, 0, 8, 3, 4, 5, 0, 3, 4});
  CHECK(list(v.column<Negatives>()) == Ids{0, 0, 0, 0, 0, 1, 8, 7, 6, 0, 1, 2});
  CHECK(list(v.column<el::TargetTokens>()) == Ids{5, 6, 7, 8, 10, 11});
  CHECK(v.random_row(2, 7) == 2 * 3 + 1);
}

TEST_CASE("columns of any kind follow the items, their sequences or the batch") {
  for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
    el::TokenBatch batch;
    batch.start(3, padding);
    for (int again = 0; again < 2; ++again) {
      batch.start(3, padding);
      batch.add(Ids{4, 5});  // with nothing known
      batch.add(Ids{6, 7, 8, 9},
                {with<Gaps>(Floats{.5F, 1.5F, 2.5F, 3.5F}), with<Attributes>(Ids{1, 0, 2, 3, 4, 0, 5, 6}, 2),
                 with<el::Users>(5), with<Profile>(Floats{1, 2, 3}, 3)});
      batch.append(with<Weights>(Floats{8, 9}));
      batch.add(Ids{1, 0, 2}, {with<Attributes>(Ids{7, 7, 8, 8, 9, 9}, 2), with<Profile>(Floats{}, 3)});
      batch.append(with<Weights>(7.F));
      const auto v = batch.view();
      const bool padded = padding == el::Padding::paper;
      CHECK(list(v.items) == (padded ? Ids{0, 4, 5, 7, 8, 9, 1, 0, 2} : Ids{4, 5, 7, 8, 9, 1, 2}));
      CHECK(list(v.column<Gaps>()) ==
            (padded ? Floats{0, 0, 0, 1.5F, 2.5F, 3.5F, 0, 0, 0} : Floats{0, 0, 1.5F, 2.5F, 3.5F, 0, 0}));
      CHECK(list(v.column<Attributes>()) == (padded ? Ids{0, 0, 0, 0, 0, 0, 2, 3, 4, 0, 5, 6, 7, 7, 8, 8, 9, 9}
                                                    : Ids{0, 0, 0, 0, 2, 3, 4, 0, 5, 6, 7, 7, 9, 9}));
      CHECK(v.width<Attributes>() == 2);
      CHECK(list(v.column<el::Users>()) == Ids{0, 5, 0});
      CHECK(list(v.column<Profile>()) == Floats{0, 0, 0, 1, 2, 3, 0, 0, 0});
      CHECK(list(v.column<Weights>()) == Floats{8, 9, 7});
      CHECK_NOTHROW(v.require_rows<el::Users>(6));
      CHECK_THROWS_WITH_AS(v.require_rows<el::Users>(5), "column 'users': found the value 5, expected 0 to 4",
                           el::ArgumentError);

      const auto part = v.subrange(1, 3);
      CHECK(list(part.column<Gaps>()) == (padded ? Floats{1.5F, 2.5F, 3.5F, 0, 0, 0} : Floats{1.5F, 2.5F, 3.5F, 0, 0}));
      CHECK(list(part.subrange(1, 2).column<Attributes>()) == (padded ? Ids{7, 7, 8, 8, 9, 9} : Ids{7, 7, 9, 9}));
      CHECK(list(part.column<el::Users>()) == Ids{5, 0});
      CHECK(list(part.subrange(0, 1).column<Profile>()) == Floats{1, 2, 3});
      CHECK(part.subrange(1, 1).column<Gaps>().empty());
      CHECK_FALSE(part.has<Weights>());
    }
    batch.start(3, padding);
    batch.add(Ids{4}, {with<el::Users>(-1)});
    CHECK_THROWS_WITH_AS(batch.view().require_rows<el::Users>(9), "column 'users': found the value -1, expected 0 to 8",
                         el::ArgumentError);
    batch.add(Ids{4}, {with<Attributes>(Ids{1, 2, 3}, 3)});  // another width than in the batch before
    CHECK(batch.view().width<Attributes>() == 3);
  }
}

TEST_CASE("a column that a batch lacks is named, with what brings it") {
  el::TokenBatch batch;
  batch.start(3, el::Padding::masked);
  batch.add(Ids{4, 5});
  batch.append(with<Weights>(7.F));
  const auto v = batch.view();
  CHECK_THROWS_WITH_AS(
      (void)v.column<el::Users>(),
      "batch: found no column 'users', expected one (int32 per sequence): each of the library's views, "
      "evaluation or serving brings it",
      el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)v.width<Negatives>(),
                       "batch: found no column 'negatives', expected one (int32 per token): a view with targets, where "
                       "BatchSource::negatives is set, brings it",
                       el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)v.subrange(0, 1).column<Weights>(),
                       "batch: found no column 'weights', expected one (float per batch): a test brings it, of a whole "
                       "batch and not of a part of one",
                       el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)v.column<OtherWeights>(),
                       "batch: found column 'weights' with float per batch, expected int32 per sequence",
                       el::ArgumentError);
}

TEST_CASE("a batch refuses what does not fit together") {
  el::TokenBatch batch;
  CHECK_THROWS_WITH_AS(batch.start(0, el::Padding::masked), "maximum length: found 0, expected 1 to 2147483647",
                       el::ArgumentError);
  batch.start(3, el::Padding::masked);
  const auto refused = [&](const std::string& what, std::initializer_list<el::ColumnValues> columns) {
    CHECK_THROWS_WITH_AS(batch.add(Ids{1, 2}, columns), what.c_str(), el::ArgumentError);
    CHECK(batch.tokens() == 0);
    CHECK(batch.sequences() == 0);
    const auto v = batch.view();
    CHECK(v.columns.begin() == v.columns.end());
  };
  refused("column 'targets': found 1 values for 2 items, expected 2 or none", {with<Targets>(Ids{2})});
  refused("column 'negatives': found 3 values for 2 items, expected 4 or none",
          {with<Targets>(Ids{2, 3}), with<Negatives>(Ids{1, 2, 3}, 2)});
  refused("column 'users': found 2 values for 2 items, expected 1 or none", {with<el::Users>(Ids{1, 2})});
  refused("column 'gaps': found width 0, expected at least 1", {with<Gaps>(Floats{}, 0)});
  refused("column 'weights': found it with a sequence, expected append(): it is the whole batch's",
          {with<Weights>(Floats{1})});
  CHECK_THROWS_WITH_AS(batch.append(with<el::Users>(1)),
                       "column 'users': found int32 per sequence and no sequence, expected add()", el::ArgumentError);
  batch.append(with<Weights>(Floats{1}));
  CHECK_THROWS_WITH_AS(
      batch.add(Ids{1}, {with<OtherWeights>(1)}),
      "column 'weights': found int32 per sequence, expected float per batch as in the sequences before",
      el::ArgumentError);
  batch.add(Ids{1, 2}, {with<Negatives>(Ids{1, 2, 3, 4}, 2)});
  CHECK_THROWS_WITH_AS(batch.add(Ids{1}, {with<Negatives>(Ids{5})}),
                       "column 'negatives': found width 1, expected 2 as in the sequences before", el::ArgumentError);
}

TEST_CASE("sequences of a batch become a batch of their own") {
  for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
    auto all = el::test::random_batch(3, {.lengths = {4, 0, 9, 1, 6}, .max_length = 6, .masked = 0.3}, padding);
    all.add(Ids{1, 2}, {with<Gaps>(Floats{.5F, 1.5F}), with<el::Users>(7), with<Attributes>(Ids{1, 2, 3, 4}, 2)});
    all.append(with<Weights>(7.F));
    el::TokenBatch part;
    part.start(3, el::Padding::masked);
    part.add(Ids{9}, {with<Profile>(Floats{1, 2}, 2)});  // nothing of what it was stays
    for (Index first = 0; first <= 6; ++first) {
      for (Index last = first; last <= 6; ++last) {
        part.assign(all, first, last);
        const auto whole = all.view();
        const auto expected = whole.subrange(first, last);
        const auto v = part.view();
        CHECK(v.first_sample == first);
        CHECK(v.max_length == 6);
        CHECK(v.longest == expected.longest);
        REQUIRE(v.sequences() == last - first);
        for (Index s = 0; s <= last - first; ++s) {
          CHECK(v.begin(s) == expected.begin(s));
        }
        CHECK(list(v.items) == list(expected.items));
        CHECK(list(v.positions) == list(expected.positions));
        CHECK(list(v.column<Targets>()) == list(expected.column<Targets>()));
        CHECK(list(v.column<Negatives>()) == list(expected.column<Negatives>()));
        CHECK(list(v.column<Gaps>()) == list(expected.column<Gaps>()));
        CHECK(list(v.column<el::Users>()) == list(expected.column<el::Users>()));
        CHECK(list(v.column<Attributes>()) == list(expected.column<Attributes>()));
        CHECK(v.width<Attributes>() == 2);
        CHECK_FALSE(v.has<Weights>());
        CHECK_FALSE(v.has<Profile>());
        Ids targets;
        for (Index t = 0; t < v.tokens(); ++t) {
          if (v.column<Targets>()[static_cast<std::size_t>(t)] != 0) {
            targets.push_back(static_cast<std::int32_t>(t));
          }
        }
        CHECK(list(v.column<el::TargetTokens>()) == targets);
        CHECK(part.count<el::TargetTokens>() == static_cast<Index>(targets.size()));
        CHECK(part.count<Attributes>() == v.tokens());
        CHECK(part.count<Weights>() == 0);
        if (last == 6 && first < 6) {
          CHECK_THROWS_AS(v.require_rows<el::Users>(7), el::ArgumentError);
        } else {
          CHECK_NOTHROW(v.require_rows<el::Users>(1));
        }
      }
    }
  }
}

TEST_CASE("a sequence may end in an item that the history lacks") {
  el::TokenBatch batch;
  batch.start(3, el::Padding::masked);
  batch.add_ending_in(Ids{4, 5, 6, 7}, 9, {with<el::Users>(2)});
  batch.add_ending_in(Ids{4}, 9);
  batch.add_ending_in(Ids{}, 9);
  const auto v = batch.view();
  CHECK(list(v.items) == Ids{6, 7, 9, 4, 9, 9});
  CHECK(list(v.positions) == Ids{0, 1, 2, 1, 2, 2});
  CHECK(list(v.offsets) == Ids{0, 3, 5, 6});
  CHECK(list(v.column<el::Users>()) == Ids{2, 0, 0});
}

TEST_CASE("a view has room for so many columns") {
  el::TokenBatch batch;
  batch.start(3, el::Padding::masked);
  batch.add(Ids{1}, {with<Numbered<0>>(1), with<Numbered<1>>(1), with<Numbered<2>>(1), with<Numbered<3>>(1),
                     with<Numbered<4>>(1), with<Numbered<5>>(1), with<Numbered<6>>(1), with<Numbered<7>>(1),
                     with<Numbered<8>>(1), with<Numbered<9>>(1), with<Targets>(1)});
  CHECK(list(batch.view().column<Numbered<9>>()) == Ids{1});
  batch.add(Ids{1}, {with<Gaps>(1.F)});
  CHECK_THROWS_WITH_AS((void)batch.view(), "batch: found column 'gaps' beside 12 others, expected at most 12 in all",
                       el::ArgumentError);
}

TEST_CASE("a copied batch looks at its own tokens") {
  const auto arrays = [](const el::TokenView& v) {
    std::vector<std::pair<const void*, std::size_t>> all{{v.offsets.data(), v.offsets.size_bytes()},
                                                         {v.host_offsets.data(), v.host_offsets.size_bytes()},
                                                         {v.items.data(), v.items.size_bytes()},
                                                         {v.positions.data(), v.positions.size_bytes()}};
    for (const auto& c : v.columns) {
      all.emplace_back(c.data, static_cast<std::size_t>(c.size * el::column_value_bytes));
    }
    return all;
  };
  const auto looks_at_itself = [&](const el::TokenView& copy, const el::TokenView& original) {
    const auto a = arrays(copy);
    const auto b = arrays(original);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      CHECK(a[i].first != b[i].first);
      REQUIRE(a[i].second == b[i].second);
      CHECK(std::memcmp(a[i].first, b[i].first, a[i].second) == 0);
    }
  };
  el::TokenBatch original = el::test::random_batch(1, {.lengths = {3, 1, 5}, .max_length = 6}, el::Padding::masked);
  original.append(with<Weights>(Floats{1, 2}));
  REQUIRE(arrays(original.view()).size() == 4 + 3 + 3 + 1);  // targets, their tokens, negatives; positions; weights
  const el::TokenBatch copy(original);
  el::TokenBatch assigned;
  assigned = original;
  looks_at_itself(copy.view(), original.view());
  looks_at_itself(assigned.view(), original.view());
  const el::TokenBatch moved(std::move(assigned));
  looks_at_itself(moved.view(), original.view());
}

TEST_CASE("tokens by position") {
  const std::vector<Index> lengths{4, 0, 9, 1, 6, 6, 2};
  for (const auto padding : {el::Padding::paper, el::Padding::masked}) {
    for (const double masked : {0.0, 0.4}) {
      const auto batch = el::test::random_batch(3, {.lengths = lengths, .max_length = 6, .masked = masked}, padding);
      const auto v = batch.view();
      const auto index = el::position_index(v);
      CHECK(index.samples == 7);
      CHECK(index.positions == 6);
      CHECK(index.dense == (padding == el::Padding::paper));
      if (index.dense) {
        CHECK(index.begins.empty());
        continue;
      }
      Ids begins{0};
      Ids samples;
      Ids tokens;
      for (Index p = 0; p < 6; ++p) {
        for (Index s = 0; s < v.sequences(); ++s) {
          for (Index t = v.begin(s); t < v.end(s); ++t) {
            if (v.position(t) == p) {
              samples.push_back(static_cast<std::int32_t>(s));
              tokens.push_back(static_cast<std::int32_t>(t));
            }
          }
        }
        begins.push_back(static_cast<std::int32_t>(tokens.size()));
      }
      CHECK(list(index.begins) == begins);
      CHECK(list(index.sample) == samples);
      CHECK(list(index.token) == tokens);
    }
  }
  // Without gaps a ragged batch is dense, too.
  const auto full = el::test::random_batch(1, {.lengths = {6, 7}, .max_length = 6}, el::Padding::masked);
  CHECK(el::position_index(full.view()).dense);
  el::TokenBatch unlisted;
  unlisted.start(6, el::Padding::masked);
  unlisted.add(Ids{1, 2});
  CHECK_THROWS_WITH_AS(
      (void)el::position_index(unlisted.view()),
      "batch: found no column 'position_begins', expected one (int32 per batch): index_positions(), as "
      "in AugmentedPair, brings it, of a whole batch and not of a part of one",
      el::ArgumentError);
  const auto rows = el::GramIndex::rows(5);
  CHECK(rows.dense);
  CHECK(rows.samples == 5);
  CHECK(rows.positions == 1);
}

TEST_CASE("a part of a batch is a batch") {
  const auto batch = el::test::random_batch(3, {.lengths = {4, 0, 9, 1, 6}, .max_length = 6}, el::Padding::masked);
  const auto v = batch.view();
  const auto check = [&](const el::TokenView& part, Index first, Index last) {
    REQUIRE(part.sequences() == last - first);
    Index tokens = 0;
    Index longest = 0;
    for (Index s = first; s < last; ++s) {
      CHECK(part.length(s - first) == v.length(s));
      longest = std::max(longest, v.length(s));
      for (Index i = 0; i < v.length(s); ++i) {
        const Index t = part.begin(s - first) + i;
        const auto u = static_cast<std::size_t>(v.begin(s) + i);
        CHECK(t == tokens++);
        CHECK(part.item(t) == v.items[u]);
        CHECK(part.position(t) == v.positions[u]);
        CHECK(part.column<Targets>()[static_cast<std::size_t>(t)] == v.column<Targets>()[u]);
        CHECK(part.column<Negatives>()[static_cast<std::size_t>(t)] == v.column<Negatives>()[u]);
        CHECK(part.random_row(s - first, t) == v.random_row(s, static_cast<Index>(u)));
      }
    }
    CHECK(part.tokens() == tokens);
    CHECK(part.longest == longest);
    CHECK(part.max_length == v.max_length);
    CHECK_FALSE(part.has<el::TargetTokens>());
  };
  for (Index first = 0; first <= 5; ++first) {
    for (Index last = first; last <= 5; ++last) {
      const auto part = v.subrange(first, last);
      check(part, first, last);
      for (Index inner = first; inner <= last; ++inner) {
        check(part.subrange(inner - first, last - first), inner, last);
      }
    }
  }
}

// ---- errors -------------------------------------------------------------------------------------------------------

TEST_CASE("require throws the joined message, and builds it only then") {
  CHECK_NOTHROW(el::require(true, "never"));
  CHECK_THROWS_WITH_AS(el::require(false, "option ", 3, ": found '", "x", "', expected ", 2.5),
                       "option 3: found 'x', expected 2.5", el::ArgumentError);
  CHECK_THROWS_WITH_AS(el::require<el::FileError>(false, "file f, line ", 4), "file f, line 4", el::FileError);
  CHECK_THROWS_AS(el::require<el::DivergenceError>(false, "NaN"), el::Error);
  static_assert(std::is_base_of_v<el::Error, el::DivergenceError> && std::is_base_of_v<std::runtime_error, el::Error>);
}

TEST_CASE("A fingerprint changes with every bit, with the order and with where calls begin") {
  const auto of = [](auto... parts) {
    elcrec::Fingerprint fingerprint;
    (fingerprint.add(parts), ...);
    return fingerprint.value();
  };
  using elcrec::Fingerprint;
  std::vector<std::uint64_t> words{1, 2, 3, 0xFFFFFFFFFFFFFFFFU, 4, 4, 0, 0, 5, 6, 7};
  const auto whole = Fingerprint().add(std::span<const std::uint64_t>(words)).value();
  for (auto& word : words) {
    for (int bit = 0; bit < 64; ++bit) {
      word ^= std::uint64_t{1} << bit;
      CHECK(Fingerprint().add(std::span<const std::uint64_t>(words)).value() != whole);
      word ^= std::uint64_t{1} << bit;
    }
  }
  CHECK(Fingerprint().add(std::span<const std::uint64_t>(words)).value() == whole);
  using namespace std::string_view_literals;
  CHECK(of("ab"sv, "c"sv) != of("a"sv, "bc"sv));
  CHECK(of("abc"sv) != of("abc\0"sv));
  CHECK(of(1, 2) != of(2, 1));
  CHECK(of("text") == of("text"sv));  // not where it stands
  CHECK(Fingerprint().text() == "243f6a8885a308d3");
}

// ---- text from outside --------------------------------------------------------------------------------------------

TEST_CASE("a line for the terminal keeps text and shows what would control the terminal") {
  using el::detail::printable;
  CHECK(printable("data/Übung 日本 🎈.txt: found 1") == "data/Übung 日本 🎈.txt: found 1");
  CHECK(printable("a\n\x1B[2Kb\x7F\t") == "a\\x0A\\x1B[2Kb\\x7F\\x09");
  CHECK(printable(std::string_view("a\0b", 3)) == "a\\x00b");
  CHECK(printable("\xC2\x9B"
                  "31m") == "\\xC2\\x9B31m");  // CSI as one character
  CHECK(printable("\x9B"
                  "31m \xE9t\xE9") == "\\x9B31m \\xE9t\\xE9");  // and in Latin-1
  CHECK(printable("\xC0\x8A \xE6\x97") == "\\xC0\\x8A \\xE6\\x97");
  const std::string thousand(1000, 'x');
  CHECK(printable(thousand) == thousand);
  CHECK(printable(thousand + thousand) == el::message(thousand, "..."));
}

TEST_CASE("a token in a message is cut and in ASCII") {
  using el::detail::excerpt;
  using el::detail::in_quotes;
  CHECK(el::message(in_quotes("a\x1B\n\xC3\xA9")) == "\"a\\x1B\\x0A\\xC3\\xA9\"");
  CHECK(el::message(in_quotes(std::string(41, 'y'))) == '"' + std::string(40, 'y') + "...\"");
  CHECK(el::message(excerpt("tensor", 3), '!') == "ten...!");
}
