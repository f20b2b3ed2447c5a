#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/checked.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/nn/parameter.hpp"
#include "elcrec/nn/whole_gradient.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// A set of intents among the parts of a model.
template <class C>
concept Clusters = requires(const C& clusters, typename C::Lane& lane, MatrixView<const typename C::T> x,
                            std::span<std::int32_t> ids) {
  { clusters.centers() } -> std::convertible_to<MatrixView<const typename C::T>>;  // (K, D)
  clusters.nearest(lane, x, ids);
};

struct ClustersOptions {
  Index count = 256;  ///< K
  Index hidden = 64;  ///< D, width of a user embedding

  static void visit_options(auto& self, auto&& visitor) {
    visitor("count", self.count);
    visitor("hidden", self.hidden);
  }
};

/// The K latent intents: cluster centers c_j that are parameters of the model and live on the unit sphere. The
/// optimizer may leave the sphere; `project` brings the centers back (see project_centers.hpp).
template <Index K, Index D, Backend B>
class LearnableClusters {
  static_assert(operation::NearestRows<typename B::Lane>,
                "LearnableClusters: the lane lacks operations of operation::NearestRows");
  static_assert(operation::RowNormalization<typename B::Lane>,
                "LearnableClusters: the lane lacks operations of operation::RowNormalization");

 public:
  static constexpr std::string_view name = "clusters";
  using Options = ClustersOptions;
  using Backend = B;
  using T = typename B::Scalar;
  using Lane = typename B::Lane;
  using Gradient = WholeGradient<LearnableClusters>;

  /// Centers start as random directions; see k_means for a better start. `hidden` is the width of a user embedding.
  LearnableClusters(const B& backend, Index count, Index hidden, std::uint64_t seed = 0)
      : centers_(in_memory_for(message("cluster centers, ", count, " x ", hidden), "a smaller `intents`",
                               [&] { return Matrix<B, K, D>(backend, checked(count, hidden), hidden); })) {
    constexpr std::uint32_t which = 0xFFFF;
    initialise_normal(backend, seed, which, 1.0, centers_.view());
    backend.parallel_for(1, [this](Lane& lane, Index) { project(lane); });
  }

  LearnableClusters(const B& backend, const Options& o, std::uint64_t seed = 0)
      : LearnableClusters(backend, o.count, o.hidden, seed) {}

  [[nodiscard]] Options options() const { return {count(), hidden()}; }
  [[nodiscard]] Index count() const { return centers_.rows(); }
  [[nodiscard]] Index hidden() const { return centers_.cols(); }

  [[nodiscard]] MatrixView<T, K, D> centers() { return centers_.view(); }              // (K, D)
  [[nodiscard]] MatrixView<const T, K, D> centers() const { return centers_.view(); }  // (K, D)

  template <class To>
  [[nodiscard]] LearnableClusters<K, D, To> remake(const To& backend) const {
    return {backend, count(), hidden()};
  }

  /// c_j = c_j / |c_j|
  void project(Lane& lane) {
    const auto frame = lane.workspace().frame();
    normalize_rows(lane, centers_.view(), lane.workspace().template matrix<T>(1, count()), centers_.view());
  }

  /// ids_r = argmin_j |x_r - c_j|² for the rows of x (R, D)
  void nearest(Lane& lane, MatrixView<const T> x, std::span<std::int32_t> ids) const {
    nearest_rows(lane, x, centers_.view(), ids);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("cluster_centers", MatrixView(self.centers_.view()), 2);
  }

  static void visit_shapes(const Options& o, auto&& visitor) {
    visitor("cluster_centers", std::vector<Index>{o.count, o.hidden});
  }

 private:
  static Index checked(Index count, Index hidden) {
    require(count >= 1, "intents: found K = ", count, ", expected at least 1");
    (void)checked_bytes<T>("intents: centers (K, D)", checked_product("intents: centers (K, D)", count, hidden));
    return count;
  }

  Matrix<B, K, D> centers_;  // (K, D)
};

}  // namespace elcrec::inline ELCREC_TARGET
