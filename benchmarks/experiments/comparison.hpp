#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "run.hpp"

namespace experiments {

/// Two variants on one data set: figures of the test split (Protocol::paper) for each seed that both have.
class Comparison {
 public:
  static constexpr int cutoff = 20;

  /// The row of a run and the rank of each user's test item; `ranks` is empty where they are not here.
  struct Result {
    ordered_json row;
    std::vector<Index> ranks;
  };

  void add(const Result& baseline, const Result& variant) {
    seeds_.push_back(variant.row.at("seed"));
    for (const auto& [name, value] : variant.row.at("test").at("paper").items()) {
      figures_[name].first.push_back(baseline.row.at("test").at("paper").at(name));
      figures_[name].second.push_back(value);
    }
    if (!baseline.ranks.empty() && baseline.ranks.size() == variant.ranks.size()) {
      add_gains(baseline.ranks, baseline_gain_);
      add_gains(variant.ranks, variant_gain_);
      ++ranked_seeds_;
    }
  }

  /// Whether there is nothing to compare yet.
  [[nodiscard]] bool empty() const { return seeds_.empty(); }

  /// For each metric the means and, of two seeds or more, the paired t-test over seeds; of NDCG@20 also the paired
  /// bootstrap over users, each user's gain being the sum over the seeds.
  [[nodiscard]] ordered_json json() const {
    ordered_json json{{"seeds", seeds_}};
    for (const auto& [name, pair] : figures_) {
      const auto& [baseline, variant] = pair;
      auto& metric = json["metrics"][name];
      metric = {{"baseline", mean(baseline)}, {"variant", mean(variant)}};
      if (seeds_.size() >= 2) {
        const auto test = elcrec::paired_t_test(variant, baseline);
        metric["t_test"] = {{"t", test.t}, {"degrees", test.degrees}, {"p", test.p}};
      }
    }
    if (ranked_seeds_ > 0) {
      const auto found = elcrec::paired_bootstrap(variant_gain_, baseline_gain_);
      const auto runs = static_cast<double>(ranked_seeds_);
      json["metrics"]["NDCG@20"]["bootstrap"] = {{"seeds", ranked_seeds_},
                                                 {"difference", found.difference / runs},
                                                 {"low", found.low / runs},
                                                 {"high", found.high / runs},
                                                 {"p", found.p}};
    }
    return json;
  }

 private:
  static double mean(const std::vector<double>& values) {
    double sum = 0;
    for (const double value : values) {
      sum += value;
    }
    return sum / static_cast<double>(values.size());
  }

  static void add_gains(const std::vector<Index>& ranks, std::vector<double>& gains) {
    gains.resize(ranks.size(), 0.0);
    for (std::size_t user = 0; user < ranks.size(); ++user) {
      gains[user] += elcrec::ndcg_gain(ranks[user], cutoff);
    }
  }

  std::vector<std::uint64_t> seeds_;
  std::map<std::string, std::pair<std::vector<double>, std::vector<double>>> figures_;  // baseline, variant
  Index ranked_seeds_ = 0;
  std::vector<double> baseline_gain_;  // of each user
  std::vector<double> variant_gain_;
};

}  // namespace experiments
