#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// -sum p log p over the distinct labels, p their shares.
template <class Label>
[[nodiscard]] double label_entropy(std::vector<Label> labels) {
  std::sort(labels.begin(), labels.end());
  double entropy = 0.0;
  for (auto run = labels.begin(); run != labels.end();) {
    const auto next = std::upper_bound(run, labels.end(), *run);
    const double share = static_cast<double>(next - run) / static_cast<double>(labels.size());
    entropy -= share * std::log(share);
    run = next;
  }
  return entropy;
}

}  // namespace detail

/// How well two labellings of the same users agree, whatever the labels are called: NMI = 2 I(a; b) / (H(a) + H(b)), in
/// [0, 1], with I(a; b) = H(a) + H(b) - H(a, b). (The arithmetic mean is scikit-learn's default too.) Two constant
/// labellings give 1, a constant one against another 0. O(n log n) time, O(n) memory. Throws ArgumentError if the sizes
/// differ or are 0.
[[nodiscard]] inline double normalized_mutual_information(std::span<const std::int32_t> a,
                                                          std::span<const std::int32_t> b) {
  require(a.size() == b.size(), "mutual information of ", a.size(), " and ", b.size(),
          " labels; expected equally many");
  require(!a.empty(), "mutual information of no labels; expected at least one");
  std::vector<std::pair<std::int32_t, std::int32_t>> joint(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    joint[i] = {a[i], b[i]};
  }
  const double marginal =
      detail::label_entropy(std::vector(a.begin(), a.end())) + detail::label_entropy(std::vector(b.begin(), b.end()));
  if (marginal == 0.0) {
    return 1.0;
  }
  const double information = marginal - detail::label_entropy(std::move(joint));
  return std::clamp(2.0 * information / marginal, 0.0, 1.0);
}

}  // namespace elcrec::inline ELCREC_TARGET
