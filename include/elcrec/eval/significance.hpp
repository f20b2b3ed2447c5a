#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// The regularised incomplete beta function I_x(a, b) for a, b > 0 and x in [0, 1], to about 14 digits: its continued
/// fraction (DLMF 8.17.22), evaluated from the front by the modified method of Lentz, on the side of x where it
/// converges fast.
[[nodiscard]] inline double incomplete_beta(double a, double b, double x) {
  require(a > 0 && b > 0, "incomplete beta: found a = ", a, ", b = ", b, ", expected positive numbers");
  require(x >= 0 && x <= 1, "incomplete beta: found x = ", x, ", expected a value in [0, 1]");
  if (x == 0 || x == 1) {
    return x;
  }
  if (x > (a + 1) / (a + b + 2)) {
    return 1 - incomplete_beta(b, a, 1 - x);
  }
  constexpr double tiny = (std::numeric_limits<double>::min)() / std::numeric_limits<double>::epsilon();
  constexpr int most_terms = 10000;
  const auto away_from_zero = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double numerator = 1;
  double denominator = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double fraction = denominator;
  for (int m = 1; m <= most_terms; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double factor = 1;
    for (const double term : {even, odd}) {
      denominator = 1 / away_from_zero(1 + term * denominator);
      numerator = away_from_zero(1 + term / numerator);
      factor = numerator * denominator;
      fraction *= factor;
    }
    if (std::abs(factor - 1) < std::numeric_limits<double>::epsilon()) {
      break;
    }
  }
  const double log_front =
      std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x) - std::log(a);
  return std::exp(log_front) * fraction;
}

/// Of differences d_i = a_i - b_i.
struct PairedTTest {
  double difference = 0;  ///< mean of d
  double t = 0;           ///< mean / (s / sqrt(n)), s the sample standard deviation of d; infinite where s is 0
  Index degrees = 0;      ///< n - 1
  double p = 1;           ///< two-sided
};

/// Student's paired t-test: are two methods, run with the same n seeds, equally good? a (n), b (n) hold one figure a
/// seed. Two-sided p = I_{ν / (ν + t²)}(ν / 2, 1 / 2) with ν = n - 1. Where all differences are the same number, p is
/// 0, and 1 if that number is 0. Throws ArgumentError for different sizes, fewer than two pairs and values that are not
/// finite.
[[nodiscard]] inline PairedTTest paired_t_test(std::span<const double> a, std::span<const double> b) {
  require(a.size() == b.size(), "paired t-test: found ", a.size(), " and ", b.size(), " values, expected pairs");
  require(a.size() >= 2, "paired t-test: found ", a.size(), " pairs, expected at least 2");
  const auto n = static_cast<double>(a.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    require(is_finite(a[i]) && is_finite(b[i]), "paired t-test: pair ", i, " is ", a[i], " and ", b[i],
            ", expected finite values");
    sum += a[i] - b[i];
  }
  PairedTTest test{.difference = sum / n, .degrees = static_cast<Index>(a.size()) - 1};
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double gap = a[i] - b[i] - test.difference;
    squares += gap * gap;
  }
  const auto degrees = static_cast<double>(test.degrees);
  const double error = std::sqrt(squares / degrees / n);
  if (test.difference != 0) {
    test.t = test.difference / error;
    test.p = error == 0 ? 0 : incomplete_beta(degrees / 2, 0.5, degrees / (degrees + test.t * test.t));
  }
  return test;
}

struct BootstrapOptions {
  Index resamples = 10000;
  double confidence = 0.95;  ///< of the interval
  std::uint64_t seed = 0;
};

struct PairedBootstrap {
  double difference = 0;  ///< mean of a - b
  double low = 0;         ///< of the percentile interval
  double high = 0;
  double p = 1;  ///< two-sided: twice the smaller share of resamples on either side of 0, at most 1
};

/// Paired bootstrap over users (Efron and Tibshirani, 1993): would other users have shown the same difference? a (U), b
/// (U) hold each user's figure under two methods, such as its NDCG. R resamples draw U users with replacement; with m_r
/// the mean difference of the r-th, p = min(1, 2 min(1 + #[m_r <= 0], 1 + #[m_r >= 0]) / (R + 1)), so that p is never
/// 0. The same numbers for the same seed on every machine. O(R U) time, O(U + R) memory. Throws ArgumentError for
/// different sizes, no users and options out of range.
[[nodiscard]] inline PairedBootstrap paired_bootstrap(std::span<const double> a, std::span<const double> b,
                                                      const BootstrapOptions& options = {}) {
  require(a.size() == b.size(), "paired bootstrap: found ", a.size(), " and ", b.size(), " users, expected pairs");
  require(!a.empty() && std::in_range<std::uint32_t>(a.size()), "paired bootstrap: found ", a.size(),
          " users, expected 1 to 2^32 - 1");
  require(options.resamples >= 1 && std::in_range<std::uint32_t>(options.resamples), "paired bootstrap: found ",
          options.resamples, " resamples, expected 1 to 2^32 - 1");
  require(options.confidence > 0 && options.confidence < 1, "paired bootstrap: found confidence ", options.confidence,
          ", expected a value between 0 and 1");
  std::vector<double> differences(a.size());
  std::transform(a.begin(), a.end(), b.begin(), differences.begin(), [](double x, double y) { return x - y; });
  const auto users = static_cast<std::uint32_t>(differences.size());
  const auto mean_of = [&](auto draw) {
    double sum = 0;
    for (std::uint32_t i = 0; i < users; ++i) {
      sum += differences[draw(i)];
    }
    return sum / users;
  };
  std::vector<double> means(static_cast<std::size_t>(options.resamples));
  for (std::size_t r = 0; r < means.size(); ++r) {
    RandomEngine random({options.seed, 0, static_cast<std::uint32_t>(RandomTensor::bootstrap)},
                        static_cast<std::uint32_t>(r));
    means[r] = mean_of([&](std::uint32_t) { return random.below(users); });
  }
  std::sort(means.begin(), means.end());
  const auto quantile = [&](double share) {
    return means[static_cast<std::size_t>(std::llround(share * static_cast<double>(means.size() - 1)))];
  };
  const auto not_above = std::upper_bound(means.begin(), means.end(), 0.0) - means.begin();
  const auto not_below = means.end() - std::lower_bound(means.begin(), means.end(), 0.0);
  const double tail = static_cast<double>(1 + (std::min)(not_above, not_below));
  return {.difference = mean_of([](std::uint32_t i) { return i; }),
          .low = quantile((1 - options.confidence) / 2),
          .high = quantile((1 + options.confidence) / 2),
          .p = (std::min)(1.0, 2 * tail / static_cast<double>(means.size() + 1))};
}

}  // namespace elcrec::inline ELCREC_TARGET
