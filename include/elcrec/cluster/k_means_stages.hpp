#pragma once

#include <cstdint>
#include <utility>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/cluster/k_means.hpp"
#include "elcrec/cluster/user_encodings.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/data/leave_one_out.hpp"

// Stages of training (train/stage.hpp) that find a model's centers by k-means over the pooled encodings of the users'
// training inputs, and put them on the unit sphere. Seed and stop are the run's.

namespace elcrec::inline ELCREC_TARGET {

namespace detail {

/// What the stages share.
class KMeansStage {
 public:
  /// Throws ArgumentError for numbers out of their range.
  explicit KMeansStage(KMeansOptions options) : options_(std::move(options)) { elcrec::check(options_); }

 protected:
  template <class Context>
  static void require_enough_users(const Context& context) {
    const Index k = context.model.clusters().count();
    require(k <= context.split.user_count(), "intents: found K = ", k, " for ", context.split.user_count(),
            " users, expected at most one for each user");
  }

  /// False when it was stopped: the centers are as they were.
  template <class Context>
  [[nodiscard]] bool find_centers(Context& context, std::uint64_t seed) const {
    using Backend = typename Context::Model::Backend;
    using Scalar = typename Backend::Scalar;
    static_assert(Context::Model::has_clusters, "found a model without intents, expected one with LearnableClusters");
    auto& clusters = context.model.clusters();
    Matrix<Backend> users(context.backend(), context.split.user_count(), clusters.hidden());
    if (!encode_users(std::as_const(context.model), context.split, Split::train, MatrixView<Scalar>(users.view()),
                      context.stop)) {
      return false;
    }
    KMeansOptions options = options_;
    options.seed = seed;
    options.stop = context.stop;
    const double found = k_means(context.backend(), MatrixView<const Scalar>(users.view()), options,
                                 MatrixView<Scalar>(clusters.centers()));
    if (!is_finite(found)) {
      return false;
    }
    context.backend().parallel_for(1, [&](typename Backend::Lane& lane, Index) { clusters.project(lane); });
    return true;
  }

 private:
  KMeansOptions options_;
};

}  // namespace detail

/// Centers start from k-means: the paper's start of the cluster loss and the contrasts.
class KMeansStart : public detail::KMeansStage {
 public:
  explicit KMeansStart(KMeansOptions options = {}) : KMeansStage(std::move(options)) {}

  /// Throws ArgumentError for more centers than users, where they are still to be found.
  template <class Context>
  void check(const Context& context) const {
    if (context.steps == 0) {
      require_enough_users(context);
    }
  }
  template <class Context>
  [[nodiscard]] bool before_first(Context& context) const {
    return find_centers(context, context.seed);
  }
};

/// Centers are set by k-means after training: for objectives that leave them alone.
class KMeansEnd : public detail::KMeansStage {
 public:
  explicit KMeansEnd(KMeansOptions options = {}) : KMeansStage(std::move(options)) {}

  /// Throws ArgumentError for more centers than users.
  template <class Context>
  void check(const Context& context) const {
    require_enough_users(context);
  }
  template <class Context>
  [[nodiscard]] bool after_last(Context& context) const {
    return find_centers(context, context.seed);
  }
};

/// Centers are found anew before each epoch, from other starts each time: the E-step of ICLRec (Chen et al., "Intent
/// Contrastive Learning for Sequential Recommendation", WWW 2022), whose M-step is the epoch.
class KMeansEveryEpoch : public detail::KMeansStage {
 public:
  explicit KMeansEveryEpoch(KMeansOptions options = {}) : KMeansStage(std::move(options)) {}

  /// Throws ArgumentError for more centers than users.
  template <class Context>
  void check(const Context& context) const {
    require_enough_users(context);
  }
  template <class Context>
  [[nodiscard]] bool before_epoch(Context& context) const {
    return find_centers(context, context.seed + static_cast<std::uint64_t>(context.epoch));
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
