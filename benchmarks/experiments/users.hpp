#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "program/intent_summary.hpp"
#include "run.hpp"

namespace experiments {

/// Users by the length of their history.
struct ActivityGroup {
  const char* name;
  Index longest;  ///< items; the shortest is one more than the group's before
};
inline constexpr std::array<ActivityGroup, 4> activity_groups{
    {{"new", 5}, {"low", 7}, {"medium", 12}, {"high", Index{1} << 31}}};

[[nodiscard]] inline std::size_t activity_group(Index items) {
  std::size_t group = 0;
  while (items > activity_groups[group].longest) {
    ++group;
  }
  return group;
}

/// The normalised embeddings of these users (whole history), a list of D numbers each, in hundredths.
template <class Model>
[[nodiscard]] ordered_json user_embeddings(const Model& model, const elcrec::SequenceDataset& data,
                                           const std::vector<Index>& users) {
  elcrec::TokenBatch batch;
  batch.start(model.max_length(), model.padding);
  for (const Index user : users) {
    batch.add(data.history(user));
  }
  elcrec::Matrix<elcrec::Cpu> embeddings(model.backend(), batch.sequences(), model.clusters().hidden());
  typename Model::Lane lane;
  model.encode_user(lane, batch.view(), embeddings.view());
  ordered_json list = ordered_json::array();
  for (Index r = 0; r < embeddings.rows(); ++r) {
    const auto row = embeddings.view().slice_rows(r, r + 1).flat();
    double square = 0;
    for (const float x : row) {
      square += static_cast<double>(x) * static_cast<double>(x);
    }
    ordered_json unit = ordered_json::array();
    for (const float x : row) {
      unit.push_back(std::lround(100 * static_cast<double>(x) / std::sqrt(square)));
    }
    list.push_back(std::move(unit));
  }
  return list;
}

/// What the figures of intents need of a trained model: how many users of each activity group have each intent, and, of
/// `sample` users evenly spread over the data, the group, the intent and the embedding.
template <class Model>
[[nodiscard]] ordered_json describe_users(const Model& model, const elcrec::SequenceDataset& data, Index sample) {
  const auto matches = program::match_users(model, data);
  std::vector<std::vector<Index>> counts(activity_groups.size(),
                                         std::vector<Index>(static_cast<std::size_t>(model.clusters().count()), 0));
  for (Index user = 0; user < data.user_count(); ++user) {
    const auto intent = static_cast<std::size_t>(matches[static_cast<std::size_t>(user)].intent);
    ++counts[activity_group(elcrec::ssize(data.history(user)))][intent];
  }
  ordered_json description;
  for (std::size_t g = 0; g < counts.size(); ++g) {
    description["groups"].push_back(
        {{"name", activity_groups[g].name}, {"longest", activity_groups[g].longest}, {"users_of_intent", counts[g]}});
  }
  std::vector<Index> users;
  for (Index i = 0; i < std::min(sample, data.user_count()); ++i) {
    users.push_back(i * data.user_count() / std::min(sample, data.user_count()));
    description["sample"]["group"].push_back(activity_group(elcrec::ssize(data.history(users.back()))));
    description["sample"]["intent"].push_back(matches[static_cast<std::size_t>(users.back())].intent);
  }
  description["sample"]["embedding"] = user_embeddings(model, data, users);
  return description;
}

}  // namespace experiments
