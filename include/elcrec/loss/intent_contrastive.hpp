#pragma once

#include <span>

#include "elcrec/core/concepts.hpp"
#include "elcrec/data/views.hpp"
#include "elcrec/loss/info_nce.hpp"
#include "elcrec/loss/objective.hpp"
#include "elcrec/loss/pooling.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// How a view joins its nearest center at the sequence level.
enum class Prototype {
  shift,  ///< x + c (the paper on Beauty)
  concat  ///< [x, c] (the paper on Sports, Toys and Yelp)
};

/// ICL at the sequence level: InfoNCE between two augmented views of each user, flattened over positions, every token
/// joined with its nearest center. A token has a nearest center of its own, as in the released code; with concat
/// pooling the sequence has one of width L·D, of which a token takes the part of its position.
struct SequenceContrast {
  using Views = TypeList<AugmentedPair<>>;
  static constexpr std::string_view name = "sequence_contrast";

  double weight = 0.1;
  double temperature = 1.0;
  Prototype prototype = Prototype::shift;
  Pooling pooling = Pooling::mean;
  bool mask_false_negatives = false;  ///< users with the same target item are not negatives

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(auto& step) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    using Lane = typename std::remove_cvref_t<decltype(step)>::Backend::Lane;
    using In = MatrixView<const T>;
    auto& pair = step.template encoding<AugmentedPair<>>();
    auto& clusters = step.model().clusters;
    const Index t = pair.tokens.tokens();
    const Index d = pair.y.cols();
    const auto frame = step.memory().frame();
    // Centers as a table with one row for each center (and position): what `ids` select for each token.
    const Index rows = clusters.centers().size() / d;
    const In table(clusters.centers().data(), rows, d);
    const auto ids = step.memory().template array<std::int32_t>(t);
    const auto z = step.memory().template matrix<T>(t, prototype == Prototype::shift ? d : 2 * d);
    const auto dz = step.memory().template matrix<T>(t, z.cols());
    const auto center_part = [&](auto m) { return prototype == Prototype::shift ? m : m.slice_cols(d, 2 * d); };

    step.for_each_slice(pair, [&](Lane& lane, const auto& slice) {
      const auto part_ids = elcrec::slice(ids, slice.first_token, slice.last_token);
      const auto y = slice.rows(pair.y);
      nearest_rows(lane, clusters, slice.tokens, y, part_ids);
      lane.copy(y, slice.rows(z).slice_cols(0, d));
      lane.gather_rows(table, part_ids, center_part(slice.rows(z)),
                       prototype == Prototype::shift ? Write::add : Write::replace);
    });
    info_nce(step.backend(), step.memory(), pair.tokens.by_position, z,
             mask_false_negatives ? pair.tokens.labels : std::span<const std::int32_t>{},
             {.temperature = temperature, .weight = weight}, step.loss(*this), dz);
    step.for_each_slice(pair, [&](Lane& lane, const auto& slice) {
      lane.add_scaled(T(1), slice.rows(dz).slice_cols(0, d), slice.rows(pair.dy));
    });
    step.add_center_rows({ids, {}, center_part(dz)}, rows);
  }

 private:
  template <class Lane, class Clusters, class In>
  void nearest_rows(Lane& lane, const Clusters& clusters, const TokenView& tokens, In y,
                    std::span<std::int32_t> ids) const {
    if (pooling != Pooling::concat) {
      clusters.nearest(lane, y, ids);
      return;
    }
    const auto frame = lane.workspace().frame();
    const auto flat = lane.workspace().template matrix<typename Lane::Scalar>(tokens.sequences(), clusters.hidden());
    const auto sample_ids = lane.workspace().template array<std::int32_t>(tokens.sequences());
    lane.concat_pool(tokens, y, flat);
    clusters.nearest(lane, flat, sample_ids);
    lane.expand_ids(tokens, sample_ids, ids);
  }
};

/// ICL at the intent level: InfoNCE between each pooled view and the center nearest to its user, averaged over both
/// views. Gradients flow into the centers. Projects the centers to the sphere first.
struct IntentContrast {
  using Views = TypeList<InputView, AugmentedPair<>, Again<AugmentedPair<>>>;
  static constexpr std::string_view name = "intent_contrast";
  static constexpr bool predicts = false;

  double weight = 0.1;
  double temperature = 1.0;
  Pooling pooling = Pooling::mean;
  bool mask_false_negatives = false;  ///< users of the same intent are not negatives
  bool share_views = true;            ///< use the sequence level's encodings instead of encoding the pair again

  template <class V>
  [[nodiscard]] bool reads() const {
    return std::is_same_v<V, InputView> || std::is_same_v<V, AugmentedPair<>> == share_views;
  }

  [[nodiscard]] static bool reads_negatives() { return false; }

  void evaluate(auto& step) const {
    if (share_views) {
      evaluate(step, step.template encoding<AugmentedPair<>>());
    } else {
      evaluate(step, step.template encoding<Again<AugmentedPair<>>>());
    }
  }

 private:
  void evaluate(auto& step, auto& pair) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    using Lane = typename std::remove_cvref_t<decltype(step)>::Backend::Lane;
    auto& input = step.template encoding<InputView>();
    auto& clusters = step.model().clusters;
    const Index users = input.tokens.sequences();
    const auto frame = step.memory().frame();
    const Index columns = pooled_columns(pooling, pair.tokens.max_length, pair.y.cols());
    const auto ids = step.memory().template array<std::int32_t>(users);
    const auto z = step.memory().template matrix<T>(4 * users, columns);  // [view 1; centers; view 2; centers]
    const auto dz = step.memory().template matrix<T>(4 * users, columns);
    const auto center_rows = [&](auto m, Index v) { return m.slice_rows((2 * v + 1) * users, (2 * v + 2) * users); };
    // Sequence s of the pair: view s / users of user s % users. Rows of z that the sequences [first, last) pool into.
    const auto for_each_run = [&](Index first, Index last, auto f) {
      for (Index v = 0; v < 2; ++v) {
        const Index a = (std::max)(first, v * users);
        const Index b = (std::min)(last, (v + 1) * users);
        if (a < b) {
          f(a, b, a + v * users);
        }
      }
    };

    const auto user = step.user_embeddings(input, pooling);
    step.backend().parallel_for(1, [&](Lane& lane, Index) {
      clusters.project(lane);
      clusters.nearest(lane, user.unit, ids);
      lane.gather_rows(clusters.centers(), ids, center_rows(z, 0), Write::replace);
      lane.copy(center_rows(z, 0), center_rows(z, 1));
    });
    step.for_each_slice(pair, [&](Lane& lane, const auto& slice) {
      for_each_run(slice.first_sequence, slice.last_sequence, [&](Index a, Index b, Index row) {
        const TokenView part = slice.tokens.subrange(a - slice.first_sequence, b - slice.first_sequence);
        const Index t0 = slice.first_token + part.first_token - slice.tokens.first_token;
        pool(lane, pooling, part, pair.y.slice_rows(t0, t0 + part.tokens()), z.slice_rows(row, row + b - a));
      });
    });
    const std::span<const std::int32_t> labels =
        mask_false_negatives ? std::span<const std::int32_t>(ids) : std::span<const std::int32_t>{};
    for (Index v = 0; v < 2; ++v) {
      info_nce(step.backend(), step.memory(), GramIndex::rows(2 * users),
               z.slice_rows(2 * v * users, (2 * v + 2) * users), labels,
               {.temperature = temperature, .share = 0.5, .weight = weight}, step.loss(*this),
               dz.slice_rows(2 * v * users, (2 * v + 2) * users));
    }
    step.for_each_slice(pair, [&](Lane& lane, const auto& slice) {
      for_each_run(slice.first_sequence, slice.last_sequence, [&](Index a, Index b, Index row) {
        const TokenView part = slice.tokens.subrange(a - slice.first_sequence, b - slice.first_sequence);
        const Index t0 = slice.first_token + part.first_token - slice.tokens.first_token;
        pool_backward(lane, pooling, part, dz.slice_rows(row, row + b - a), pair.dy.slice_rows(t0, t0 + part.tokens()));
      });
    });
    step.add_center_rows({ids, {}, center_rows(dz, 0)}, clusters.count());
    step.add_center_rows({ids, {}, center_rows(dz, 1)}, clusters.count());
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
