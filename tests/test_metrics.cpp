#include <array>
#include <cmath>
#include <cstdint>
#include <iomanip>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/data/read_sequences.hpp"
#include "elcrec/eval/mutual_information.hpp"
#include "elcrec/eval/popularity.hpp"
#include "elcrec/eval/ranking_metrics.hpp"
#include "elcrec/eval/significance.hpp"
#include "support.hpp"

namespace el = elcrec;
using doctest::Approx;
using el::test::error_of;

TEST_CASE("RankingMetrics: values computed by hand") {
  el::RankingMetrics metrics;
  const std::array<el::Index, 3> ranks = {0, 2, 30};
  metrics.add(ranks);
  metrics.add(5);
  CHECK(metrics.users() == 4);
  CHECK(metrics.ranks().size() == 4);
  CHECK(metrics.ranks()[3] == 5);

  CHECK(metrics.hr(5) == 0.5);
  CHECK(metrics.hr(6) == 0.75);
  CHECK(metrics.hr(1) == 0.25);
  CHECK(metrics.hr(31) == 1.0);
  // 1 / log2(2) = 1, 1 / log2(4) = 0.5, 1 / log2(7) = 0.35620718710802217.
  CHECK(metrics.ndcg(1) == 0.25);
  CHECK(metrics.ndcg(2) == 0.25);
  CHECK(metrics.ndcg(3) == 0.375);
  CHECK(metrics.ndcg(10) == Approx((1.5 + 0.35620718710802217) / 4).epsilon(1e-14));
  // (1 + 1/3 + 1/31 + 1/6) / 4 = 285 / 744.
  CHECK(metrics.mrr() == Approx(285.0 / 744.0).epsilon(1e-14));
}

TEST_CASE("RankingMetrics: values and the printed line") {
  el::RankingMetrics metrics({5, 20});
  CHECK(metrics.cutoffs() == std::vector<int>{5, 20});
  for (const el::Index rank : {0, 10, 3}) {
    metrics.add(rank);
  }
  const auto values = metrics.values();
  std::vector<std::string> names;
  for (const auto& [name, value] : values) {
    names.push_back(name);
  }
  CHECK(names == std::vector<std::string>{"HR@5", "NDCG@5", "HR@20", "NDCG@20", "MRR"});
  CHECK(values[1].second == metrics.ndcg(5));
  CHECK(values[2].second == metrics.hr(20));
  CHECK(values[4].second == metrics.mrr());

  // NDCG@5 = (1 + 1/log2(5)) / 3, NDCG@20 adds 1/log2(12), MRR = (1 + 1/11 + 1/4) / 3.
  std::ostringstream out;
  out << std::scientific << std::setprecision(1) << metrics;
  CHECK(out.str() == "HR@5 0.6667  NDCG@5 0.4769  HR@20 1.0000  NDCG@20 0.5699  MRR 0.4470  (3 users)");
}

TEST_CASE("RankingMetrics: impossible input is refused") {
  CHECK_THROWS_WITH_AS((void)el::RankingMetrics({5, 0}), "metric cutoff k is 0; expected 1 or more", el::ArgumentError);
  el::RankingMetrics metrics;
  CHECK_THROWS_WITH_AS((void)metrics.hr(5), "ranking metrics have no users; expected at least one rank",
                       el::ArgumentError);
  CHECK_THROWS_AS((void)metrics.mrr(), el::ArgumentError);
  CHECK_THROWS_AS((void)metrics.values(), el::ArgumentError);
  metrics.add(1);
  CHECK_THROWS_WITH_AS(metrics.add(-2), "rank of user 1 is -2; expected 0 (the best) or more", el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)metrics.hr(0), "metric cutoff k is 0; expected 1 or more", el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)metrics.ndcg(-1), "metric cutoff k is -1; expected 1 or more", el::ArgumentError);
  CHECK(metrics.users() == 1);
}

TEST_CASE("evaluate_popularity: ranks computed by hand") {
  // The training inputs are 3 3 1, 3 2, 2 3, 7 6 7 7 7 7 and 2 4: the order is 7 3 2 1 4 6 5, equal counts by id.
  std::istringstream text("1 3 3 1 2 5 4\n2 3 2 4 1 5\n3 2 3 5 5 1\n4 7 6 7 7 7 7 1 2 3\n5 2 4 6 1 2\n");
  const auto split = el::leave_one_out(el::read_sequences(text, "text"));
  const auto ranks = [&](el::Split which) {
    const auto metrics = el::evaluate_popularity(split, which);
    return std::vector<el::Index>(metrics.ranks().begin(), metrics.ranks().end());
  };
  CHECK(ranks(el::Split::test) == std::vector<el::Index>{1, 2, 1, 0, 2});  // the last target was seen before
  CHECK(ranks(el::Split::valid) == std::vector<el::Index>{3, 1, 4, 1, 2});
}

TEST_CASE("normalized_mutual_information: values computed by hand") {
  using Labels = std::vector<std::int32_t>;
  const auto nmi = [](const Labels& a, const Labels& b) { return el::normalized_mutual_information(a, b); };

  CHECK(nmi({0, 0, 1, 1, 2}, {0, 0, 1, 1, 2}) == Approx(1.0).epsilon(1e-14));
  CHECK(nmi({0, 0, 1, 1, 2}, {-7, -7, 2147483647, 2147483647, -2147483648}) == Approx(1.0).epsilon(1e-14));
  CHECK(nmi({0, 0, 1, 1}, {0, 1, 0, 1}) == Approx(0.0));
  // H(a) = ln 2, H(b) = ln 4 = H(a, b), so I = ln 2 and NMI = 2 ln 2 / (3 ln 2).
  CHECK(nmi({0, 0, 1, 1}, {0, 1, 2, 3}) == Approx(2.0 / 3.0).epsilon(1e-14));
  // H(a) = ln 2; b has shares 3/4, 1/4: H(b) = 2 ln 2 - 3/4 ln 3; H(a, b) = 3/2 ln 2.
  const double ln2 = std::log(2.0);
  const double ln3 = std::log(3.0);
  const double expected = 2 * (1.5 * ln2 - 0.75 * ln3) / (3 * ln2 - 0.75 * ln3);
  CHECK(nmi({0, 0, 1, 1}, {5, 5, 5, 9}) == Approx(expected).epsilon(1e-14));
  CHECK(nmi({5, 5, 5, 9}, {0, 0, 1, 1}) == Approx(expected).epsilon(1e-14));
}

TEST_CASE("normalized_mutual_information: constant labels and bad sizes") {
  using Labels = std::vector<std::int32_t>;
  CHECK(el::normalized_mutual_information(Labels{3, 3, 3}, Labels{8, 8, 8}) == 1.0);
  CHECK(el::normalized_mutual_information(Labels{3, 3, 3}, Labels{1, 2, 3}) == Approx(0.0));
  CHECK_THROWS_WITH_AS((void)el::normalized_mutual_information(Labels{1, 2}, Labels{1}),
                       "mutual information of 2 and 1 labels; expected equally many", el::ArgumentError);
  CHECK_THROWS_WITH_AS((void)el::normalized_mutual_information(Labels{}, Labels{}),
                       "mutual information of no labels; expected at least one", el::ArgumentError);
}

TEST_CASE("incomplete_beta: closed forms") {
  for (const double x : {0.0, 1e-9, 0.1, 0.37, 0.5, 0.9, 1 - 1e-9, 1.0}) {
    CAPTURE(x);
    CHECK(el::incomplete_beta(1, 1, x) == Approx(x).epsilon(1e-13));
    CHECK(el::incomplete_beta(3.5, 1, x) == Approx(std::pow(x, 3.5)).epsilon(1e-13));
    CHECK(el::incomplete_beta(1, 40, x) == Approx(-std::expm1(40 * std::log1p(-x))).epsilon(1e-13));
    // The arcsine law.
    const double pi = std::acos(-1.0);
    CHECK(el::incomplete_beta(0.5, 0.5, x) == Approx(2 / pi * std::asin(std::sqrt(x))).epsilon(1e-12));
  }
  // A sum of binomials: P(at least 30 of 100 at x = 0.25).
  double tail = 0;
  for (int i = 30; i <= 100; ++i) {
    const double log_choose = std::lgamma(101.0) - std::lgamma(i + 1.0) - std::lgamma(101.0 - i);
    tail += std::exp(log_choose + i * std::log(0.25) + (100 - i) * std::log(0.75));
  }
  CHECK(el::incomplete_beta(30, 71, 0.25) == Approx(tail).epsilon(1e-12));
  CHECK(error_of([] { (void)el::incomplete_beta(0, 1, 0.5); }) ==
        "incomplete beta: found a = 0, b = 1, expected positive numbers");
  CHECK(error_of([] { (void)el::incomplete_beta(1, 1, 1.5); }) ==
        "incomplete beta: found x = 1.5, expected a value in [0, 1]");
}

TEST_CASE("paired_t_test: two-sided p by the closed forms for 1, 2 and 4 degrees of freedom") {
  using Values = std::vector<double>;
  // Differences 1 and 3: mean 2, s = sqrt(2), t = 2.
  const auto one = el::paired_t_test(Values{5, 4}, Values{4, 1});
  CHECK(one.difference == Approx(2.0).epsilon(1e-14));
  CHECK(one.t == Approx(2.0).epsilon(1e-14));
  CHECK(one.degrees == 1);
  CHECK(one.p == Approx(1 - 2 / std::acos(-1.0) * std::atan(2.0)).epsilon(1e-12));

  const auto two = el::paired_t_test(Values{.0355, .0361, .0349}, Values{.0340, .0343, .0338});
  CHECK(two.degrees == 2);
  CHECK(two.p == Approx(1 - two.t / std::sqrt(2 + two.t * two.t)).epsilon(1e-10));
  CHECK(two.p == Approx(0.0189).epsilon(0.01));

  const auto four = el::paired_t_test(Values{1, 2, 3, 4, 5}, Values{2, 2, 5, 3, 7});
  const double u = four.t * four.t / 4;
  CHECK(four.difference == Approx(-0.8).epsilon(1e-14));
  CHECK(four.p == Approx(1 - 0.75 * std::abs(four.t) / std::sqrt(1 + u) * (1 - u / 3 / (1 + u))).epsilon(1e-12));

  // The other way round only the signs change.
  const auto turned = el::paired_t_test(Values{2, 2, 5, 3, 7}, Values{1, 2, 3, 4, 5});
  CHECK(turned.t == Approx(-four.t).epsilon(1e-14));
  CHECK(turned.p == Approx(four.p).epsilon(1e-14));
}

TEST_CASE("paired_t_test: no spread, and bad input") {
  using Values = std::vector<double>;
  CHECK(el::paired_t_test(Values{1, 2}, Values{1, 2}).p == 1);
  CHECK(el::paired_t_test(Values{1, 2}, Values{1, 2}).t == 0);
  CHECK(el::paired_t_test(Values{2, 3}, Values{1, 2}).p == 0);
  CHECK(std::isinf(el::paired_t_test(Values{2, 3}, Values{1, 2}).t));
  CHECK(el::paired_t_test(Values{1, -1}, Values{0, 0}).p == 1);
  CHECK(error_of([] {
          (void)el::paired_t_test(Values{1, 2}, Values{1});
        }) == "paired t-test: found 2 and 1 values, expected pairs");
  CHECK(error_of([] { (void)el::paired_t_test(Values{1}, Values{1}); }) ==
        "paired t-test: found 1 pairs, expected at least 2");
  CHECK(error_of([] {
          (void)el::paired_t_test(Values{1, std::nan("")}, Values{1, 2});
        }) == "paired t-test: pair 1 is nan and 2, expected finite values");
}

TEST_CASE("paired_bootstrap: interval and p of normal differences, repeatable") {
  constexpr el::Index users = 400;
  const auto noise = el::test::random_values(3, users);
  std::vector<double> a(users);
  std::vector<double> b(users, 0.0);
  double mean = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] = 0.1 + noise[i];
    mean += a[i] / users;
  }
  double variance = 0;
  for (const double x : a) {
    variance += (x - mean) * (x - mean) / users;
  }
  const double error = std::sqrt(variance / users);
  const auto result = el::paired_bootstrap(a, b, {.resamples = 4000, .seed = 9});
  CHECK(result.difference == Approx(mean).epsilon(1e-12));
  CHECK(std::abs(result.low - (mean - 1.96 * error)) < 0.15 * error);
  CHECK(std::abs(result.high - (mean + 1.96 * error)) < 0.15 * error);
  const double normal_p = std::erfc(mean / error / std::sqrt(2.0));
  CHECK(result.p == Approx(normal_p).epsilon(0.35));

  const auto again = el::paired_bootstrap(a, b, {.resamples = 4000, .seed = 9});
  CHECK(again.p == result.p);
  CHECK(again.low == result.low);
  CHECK(el::paired_bootstrap(a, b, {.resamples = 4000, .seed = 10}).low != result.low);
  const auto turned = el::paired_bootstrap(b, a, {.resamples = 4000, .seed = 9});
  CHECK(turned.p == result.p);
  CHECK(turned.high == -result.low);
  const auto narrow = el::paired_bootstrap(a, b, {.resamples = 4000, .confidence = 0.5, .seed = 9});
  CHECK(narrow.low > result.low);
  CHECK(narrow.high < result.high);
}

TEST_CASE("paired_bootstrap: constant differences, and bad input") {
  const std::vector<double> ones(10, 1.0);
  const std::vector<double> zeros(10, 0.0);
  const auto sure = el::paired_bootstrap(ones, zeros, {.resamples = 99});
  CHECK(sure.low == 1);
  CHECK(sure.high == 1);
  CHECK(sure.p == Approx(0.02).epsilon(1e-14));
  CHECK(el::paired_bootstrap(ones, ones, {.resamples = 99}).p == 1);
  CHECK(error_of([&] { (void)el::paired_bootstrap(ones, std::vector<double>{1.0}); }) ==
        "paired bootstrap: found 10 and 1 users, expected pairs");
  CHECK(error_of([] { (void)el::paired_bootstrap({}, {}); }) ==
        "paired bootstrap: found 0 users, expected 1 to 2^32 - 1");
  CHECK(error_of([&] { (void)el::paired_bootstrap(ones, zeros, {.resamples = 0}); }) ==
        "paired bootstrap: found 0 resamples, expected 1 to 2^32 - 1");
  CHECK(error_of([&] { (void)el::paired_bootstrap(ones, zeros, {.confidence = 1}); }) ==
        "paired bootstrap: found confidence 1, expected a value between 0 and 1");
}
