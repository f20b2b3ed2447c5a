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
#include "elcrec/eval/mutual_information.hpp"
#include "elcrec/eval/ranking_metrics.hpp"

namespace el = elcrec;
using doctest::Approx;

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
