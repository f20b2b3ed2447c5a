#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How far k-means is: a pass assigns every point to its nearest center.
struct KMeansReport {
  Index points = 0;
  Index centers = 0;
  Index pass = 0;  ///< finished; 0 before the first
  Index passes = 0;
};

struct KMeansOptions {
  int iterations = 20;
  int restarts = 5;
  std::uint64_t seed = 0;
  const std::atomic<bool>* stop = nullptr;                 ///< when it turns true, the search ends within a pass
  std::function<void(const KMeansReport&)> progress = {};  ///< called before the first pass and after each
};

/// Throws ArgumentError for numbers out of their range.
inline void check(const KMeansOptions& options) {
  require(options.restarts >= 1, "k-means: found ", options.restarts, " restarts, expected at least 1");
  require(options.iterations >= 0, "k-means: found ", options.iterations, " iterations, expected 0 or more");
}

/// Lloyd's algorithm: centers (K, D) of the rows of points (N, D), the best of several random starts by the sum of
/// squared distances, which is returned. A start takes K distinct points; a cluster that loses all points takes the
/// point farthest from its center. Throws when K > N. Same result for any number of threads. When it is stopped, the
/// centers stay as they were and infinity is returned.
template <Backend B>
double k_means(const B& backend, MatrixView<const typename B::Scalar> points, const KMeansOptions& options,
               MatrixView<typename B::Scalar> centers) {
  using T = typename B::Scalar;
  using Lane = typename B::Lane;
  static_assert(operation::NearestRows<Lane>, "k-means: the lane lacks operations of operation::NearestRows");
  static_assert(operation::RowNormalization<Lane>, "k-means: the lane lacks operations of operation::RowNormalization");
  const Index n = points.rows();
  const Index k = centers.rows();
  require(k >= 1 && k <= n, "k-means: found K = ", k, " clusters for ", n, " points, expected 1 <= K <= points");
  check(options);
  constexpr Index grain = 256;

  const auto stopped = [&] { return options.stop != nullptr && options.stop->load(std::memory_order_relaxed); };
  KMeansReport report{n, k, 0, Index{options.restarts} * (1 + Index{options.iterations})};
  const auto tell = [&] {
    if (options.progress) {
      options.progress(report);
    }
  };

  Matrix<B> current(backend, k, points.cols());
  Matrix<B> found(backend, k, points.cols());
  Matrix<B> distances(backend, 1, n);
  auto ids = backend.template allocate<std::int32_t>(n);
  const std::span<std::int32_t> id_span(ids.data(), static_cast<std::size_t>(n));
  typename B::RowScatter scatter(backend, k, -1);
  std::vector<std::int32_t> assigned(static_cast<std::size_t>(n));
  std::vector<T> gaps(static_cast<std::size_t>(n));
  double best = (std::numeric_limits<double>::max)();

  const auto assign = [&] {
    backend.parallel_blocks(n, grain, [&](Lane& lane, Index first, Index last) {
      if (stopped()) {
        return;
      }
      const auto frame = lane.workspace().frame();
      const auto part = points.slice_rows(first, last);
      const auto part_ids = slice(id_span, first, last);
      nearest_rows(lane, part, current.view(), part_ids);
      auto difference = lane.workspace().template matrix<T>(last - first, points.cols());
      lane.gather_rows(current.view(), part_ids, difference, Write::replace);
      lane.scale(T(-1), difference);
      lane.add_scaled(T(1), part, difference);
      normalize_rows(lane, difference, distances.view().slice_cols(first, last), difference);
    });
    backend.template copy<std::int32_t>(id_span, std::span<std::int32_t>(assigned));
    backend.template copy<T>(distances.view().flat(), std::span<T>(gaps));
    double inertia = 0;
    for (const T gap : gaps) {
      inertia += static_cast<double>(gap) * static_cast<double>(gap);
    }
    ++report.pass;
    tell();
    return inertia;
  };

  const auto move_centers = [&] {
    std::vector<Index> sizes(static_cast<std::size_t>(k), 0);
    for (const auto id : assigned) {
      ++sizes[static_cast<std::size_t>(id)];
    }
    backend.parallel_for(1, [&](Lane& lane, Index) { lane.fill(current.view(), T(0)); });
    const RowContribution<T> members{id_span, {}, points};
    scatter(backend, std::span(&members, 1), current.view());
    scatter.clear();
    backend.parallel_for(1, [&](Lane& lane, Index) {
      for (Index j = 0; j < k; ++j) {
        auto center = current.view().slice_rows(j, j + 1);
        if (const Index size = sizes[static_cast<std::size_t>(j)]; size > 0) {
          lane.scale(T(1) / static_cast<T>(size), center);
        } else {
          const Index farthest = std::max_element(gaps.begin(), gaps.end()) - gaps.begin();
          gaps[static_cast<std::size_t>(farthest)] = 0;
          lane.copy(points.slice_rows(farthest, farthest + 1), center);
        }
      }
    });
  };

  tell();
  for (int restart = 0; restart < options.restarts; ++restart) {
    RandomEngine random(
        {options.seed, static_cast<std::uint32_t>(restart), static_cast<std::uint32_t>(RandomTensor::k_means)});
    std::vector<Index> order(static_cast<std::size_t>(n));
    std::iota(order.begin(), order.end(), Index{0});
    random.shuffle(std::span(order));
    backend.parallel_for(1, [&](Lane& lane, Index) {
      for (Index j = 0; j < k; ++j) {
        const Index p = order[static_cast<std::size_t>(j)];
        lane.copy(points.slice_rows(p, p + 1), current.view().slice_rows(j, j + 1));
      }
    });
    double inertia = assign();
    for (int i = 0; i < options.iterations && !stopped(); ++i) {
      move_centers();
      inertia = assign();
    }
    if (stopped()) {
      return std::numeric_limits<double>::infinity();
    }
    if (inertia < best) {
      best = inertia;
      backend.parallel_for(1, [&](Lane& lane, Index) { lane.copy(current.view(), found.view()); });
    }
  }
  backend.parallel_for(1, [&](Lane& lane, Index) { lane.copy(found.view(), centers); });
  return best;
}

}  // namespace elcrec::inline ELCREC_TARGET
