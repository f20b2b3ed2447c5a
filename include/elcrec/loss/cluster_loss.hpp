#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"
#include "elcrec/loss/user_embeddings.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What the repulsion of the centers is divided by.
enum class CenterPairs {
  all,      ///< K², the released code
  distinct  ///< K (K - 1), the paper
};
template <>
inline constexpr std::array<std::string_view, 2> names_of<CenterPairs>{"all", "distinct"};

/// Which centers attract a user.
enum class Assignment {
  every,   ///< all of them: the paper's loss, which sees only the mean user and the mean center
  nearest  ///< the nearest one only: separates users into clusters
};
template <>
inline constexpr std::array<std::string_view, 2> names_of<Assignment>{"every", "nearest"};

namespace detail {

/// f(rows [first, last)) for blocks of rows that stay in a cache between the operations on them.
template <class F>
void for_each_row_block(Index rows, F f) {
  constexpr Index block = 1024;
  for (Index first = 0; first < rows; first += block) {
    f(first, (std::min)(rows, first + block));
  }
}

/// c̄ (1, D) and what the centers alone add to the loss: *loss += a Σ_j |c_j|² + b |c̄|². Reads c once.
template <BackendLane Lane>
void center_terms(Lane& lane, MatrixView<const typename Lane::Scalar> c, double a, double b,
                  MatrixView<typename Lane::Scalar> c_mean, double* loss) {
  using T = typename Lane::Scalar;
  lane.fill(c_mean, T(0));
  for_each_row_block(c.rows(), [&](Index first, Index last) {
    const auto part = c.slice_rows(first, last);
    lane.add_column_sum(part, c_mean);
    lane.add_dot(a, part, part, loss);
  });
  lane.scale(T(1) / static_cast<T>(c.rows()), c_mean);
  lane.add_dot(b, c_mean, c_mean, loss);
}

/// dc_j += a c_j + row. Reads c and changes dc once.
template <BackendLane Lane>
void add_center_gradient(Lane& lane, typename Lane::Scalar a, MatrixView<const typename Lane::Scalar> c,
                         MatrixView<const typename Lane::Scalar> row, MatrixView<typename Lane::Scalar> dc) {
  for_each_row_block(c.rows(), [&](Index first, Index last) {
    lane.add_scaled(a, c.slice_rows(first, last), dc.slice_rows(first, last));
    lane.add_row(1, row, dc.slice_rows(first, last));
  });
}

}  // namespace detail

/// ELCM's loss between user embeddings h (B, D) and centers c (K, D), and `weight` times its gradients added to dh and
/// dc:
///
///   L = mean_ij |h_i - c_j|² - mean_ij |c_i - c_j|²
///     = mean|h|² + mean|c|² - 2 h̄·c̄ - r (2 mean|c|² - 2 |c̄|²),   r = 1 or K / (K - 1)
///
/// O((B + K) D) operations, 3 D scalars of lane workspace.
template <BackendLane Lane>
void cluster_loss(Lane& lane, MatrixView<const typename Lane::Scalar> h, MatrixView<const typename Lane::Scalar> c,
                  CenterPairs pairs, double weight, double* loss, MatrixView<typename Lane::Scalar> dh,
                  MatrixView<typename Lane::Scalar> dc) {
  using T = typename Lane::Scalar;
  const double b = static_cast<double>(h.rows());
  const double k = static_cast<double>(c.rows());
  const double r = pairs == CenterPairs::all ? 1.0 : k / (k - 1);
  const auto frame = lane.workspace().frame();
  const auto h_mean = lane.workspace().template matrix<T>(1, h.cols());
  const auto c_mean = lane.workspace().template matrix<T>(1, h.cols());
  const auto pull = lane.workspace().template matrix<T>(1, h.cols());
  lane.column_mean(h, h_mean);
  detail::center_terms(lane, c, (1 - 2 * r) / k, 2 * r, c_mean, loss);
  lane.add_dot(1 / b, h, h, loss);
  lane.add_dot(-2, h_mean, c_mean, loss);

  // dL/dh_i = 2/B (h_i - c̄);  dL/dc_j = 2/K ((1 - 2r) c_j - h̄ + 2r c̄)
  const auto scaled = [weight](double a) { return static_cast<T>(weight * a); };
  lane.add_scaled(scaled(2 / b), h, dh);
  lane.add_row(scaled(-2 / b), c_mean, dh);
  lane.fill(pull, T(0));
  lane.add_scaled(scaled(-2 / k), h_mean, pull);
  lane.add_scaled(scaled(4 * r / k), c_mean, pull);
  detail::add_center_gradient(lane, scaled(2 * (1 - 2 * r) / k), c, pull, dc);
}

/// The same with attraction to the nearest center only: L = mean_i |h_i - c_a(i)|² - mean_ij |c_i - c_j|². `ids` (B)
/// are the nearest centers.
template <BackendLane Lane>
void nearest_cluster_loss(Lane& lane, MatrixView<const typename Lane::Scalar> h,
                          MatrixView<const typename Lane::Scalar> c, std::span<const std::int32_t> ids,
                          CenterPairs pairs, double weight, double* loss, MatrixView<typename Lane::Scalar> dh,
                          MatrixView<typename Lane::Scalar> dc) {
  using T = typename Lane::Scalar;
  const double b = static_cast<double>(h.rows());
  const double k = static_cast<double>(c.rows());
  const double r = pairs == CenterPairs::all ? 1.0 : k / (k - 1);
  const auto frame = lane.workspace().frame();
  const auto c_mean = lane.workspace().template matrix<T>(1, h.cols());
  const auto gap = lane.workspace().template matrix<T>(h.rows(), h.cols());  // h_i - c_a(i)
  detail::center_terms(lane, c, -2 * r / k, 2 * r, c_mean, loss);
  lane.gather_rows(c, ids, gap, Write::replace);
  lane.scale(T(-1), gap);
  lane.add_scaled(T(1), h, gap);

  lane.add_dot(1 / b, gap, gap, loss);

  const auto scaled = [weight](double a) { return static_cast<T>(weight * a); };
  lane.add_scaled(scaled(2 / b), gap, dh);
  lane.scale(scaled(-2 / b), gap);
  lane.scatter_add_rows(gap, ids, dc);
  lane.scale(scaled(4 * r / k), c_mean);
  detail::add_center_gradient(lane, scaled(-4 * r / k), c, c_mean, dc);
}

/// The cluster loss as a training objective: h_i is the normalised pooled encoding of user i. It asks for centers on
/// the unit sphere: ProjectCenters stands before it in the released code.
struct ClusterLoss {
  using Views = TypeList<InputView>;
  static constexpr std::string_view name = "cluster";
  static constexpr bool predicts = false;

  double weight = 1.0;  ///< α of the paper
  CenterPairs pairs = CenterPairs::all;
  Assignment assignment = Assignment::every;
  Pooling pooling = Pooling::mean;

  static void visit_options(auto& self, auto&& visitor) {
    visitor("weight", self.weight);
    visitor("pairs", self.pairs);
    visitor("assignment", self.assignment);
    visitor("pooling", self.pooling);
  }
  void check() const { check_weight("weight", weight); }

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(TrainingStep auto& step) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    using Lane = typename std::remove_cvref_t<decltype(step)>::Lane;
    auto& input = step.template encoding<InputView>();
    const auto& clusters = step.model().clusters();
    require(pairs == CenterPairs::all || clusters.count() > 1,
            "cluster loss over distinct pairs of centers: found K = 1, expected at least 2");
    const Index users = input.tokens.sequences();
    const auto frame = step.memory().frame();
    const auto user = user_embeddings(step, input, pooling);
    const auto dh = step.memory().template matrix<T>(users, user.unit.cols());
    const auto dc = step.gradient(clusters).get().centers();
    const auto ids = step.memory().template array<std::int32_t>(users);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      lane.fill(dh, T(0));
      if (assignment == Assignment::every) {
        cluster_loss(lane, user.unit, clusters.centers(), pairs, weight, step.loss(*this), dh, dc);
      } else {
        clusters.nearest(lane, user.unit, ids);
        nearest_cluster_loss(lane, user.unit, clusters.centers(), ids, pairs, weight, step.loss(*this), dh, dc);
      }
    });
    user_embeddings_backward(step, input, pooling, user, dh);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
