#pragma once

#include <cmath>
#include <locale>
#include <ostream>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What a user whose item has this rank (0 is the best) adds to HR@k and NDCG@k.
[[nodiscard]] inline double hit_gain(Index rank, int k) { return rank < k ? 1.0 : 0.0; }
[[nodiscard]] inline double ndcg_gain(Index rank, int k) {
  return rank < k ? 1.0 / std::log2(static_cast<double>(rank) + 2.0) : 0.0;
}

/// Hit rate, NDCG and mean reciprocal rank of next-item recommendation, where each user has one relevant item. With r_u
/// the number of items ranked before it (0 is the best): those that score higher, and of those that score the same the
/// ones with lower ids. Recommender lists them in that order too, so HR@k is the share of users whose item is served.
/// HR@k = mean [r_u < k], NDCG@k = mean [r_u < k] / log2(r_u + 2), MRR = mean 1 / (r_u + 1).
/// Sums run in double, in the order added. Every metric throws ArgumentError before the first user and for k < 1.
class RankingMetrics {
 public:
  /// `cutoffs` are the k that printing and `values` report.
  explicit RankingMetrics(std::vector<int> cutoffs = {5, 10, 20}) : cutoffs_(std::move(cutoffs)) {
    for (const int k : cutoffs_) {
      check_cutoff(k);
    }
  }

  /// Adds one user. Throws ArgumentError for a negative rank.
  void add(Index rank) {
    require(rank >= 0, "rank of user ", users(), " is ", rank, "; expected 0 (the best) or more");
    ranks_.push_back(rank);
  }

  void add(std::span<const Index> ranks) {
    for (const Index rank : ranks) {
      add(rank);
    }
  }

  /// Any k, not only the cutoffs.
  [[nodiscard]] double hr(int k) const {
    check_cutoff(k);
    return mean([k](Index rank) { return hit_gain(rank, k); });
  }

  [[nodiscard]] double ndcg(int k) const {
    check_cutoff(k);
    return mean([k](Index rank) { return ndcg_gain(rank, k); });
  }

  [[nodiscard]] double mrr() const {
    return mean([](Index rank) { return 1.0 / (static_cast<double>(rank) + 1.0); });
  }

  [[nodiscard]] Index users() const { return static_cast<Index>(ranks_.size()); }
  [[nodiscard]] const std::vector<int>& cutoffs() const { return cutoffs_; }

  /// One rank a user, in the order added: what a paired significance test compares.
  [[nodiscard]] std::span<const Index> ranks() const { return ranks_; }

  /// ("HR@5", x), ("NDCG@5", x), ..., ("MRR", x), in the order of the cutoffs.
  [[nodiscard]] std::vector<std::pair<std::string, double>> values() const {
    std::vector<std::pair<std::string, double>> values;
    for (const int k : cutoffs_) {
      values.emplace_back(message("HR@", k), hr(k));
      values.emplace_back(message("NDCG@", k), ndcg(k));
    }
    values.emplace_back("MRR", mrr());
    return values;
  }

  /// One line without its end: `HR@5 0.0529  NDCG@5 0.0355  MRR 0.0312  (22363 users)`, whatever the stream's format.
  friend std::ostream& operator<<(std::ostream& out, const RankingMetrics& metrics) {
    std::ostringstream line;
    line.imbue(std::locale::classic());
    line.precision(4);
    line << std::fixed;
    for (const auto& [name, value] : metrics.values()) {
      line << name << ' ' << value << "  ";
    }
    line << '(' << metrics.users() << " users)";
    return out << line.str();
  }

 private:
  static void check_cutoff(int k) { require(k >= 1, "metric cutoff k is ", k, "; expected 1 or more"); }

  template <class Gain>
  [[nodiscard]] double mean(Gain gain) const {
    require(!ranks_.empty(), "ranking metrics have no users; expected at least one rank");
    double sum = 0.0;
    for (const Index rank : ranks_) {
      sum += gain(rank);
    }
    return sum / static_cast<double>(ranks_.size());
  }

  std::vector<int> cutoffs_;
  std::vector<Index> ranks_;
};

}  // namespace elcrec::inline ELCREC_TARGET
