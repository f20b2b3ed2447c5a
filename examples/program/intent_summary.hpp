#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "program/common.hpp"

namespace program {

/// The users of one intent.
struct IntentSummary {
  Index intent = 0;
  std::vector<Index> users;                                   ///< nearest to the center first
  std::vector<std::pair<elcrec::ItemId, Index>> top_items{};  ///< rows, and how many of the users have them; most first
};

/// The intent of every user of a data set, by the whole history.
template <class Model>
[[nodiscard]] std::vector<elcrec::IntentMatch> match_users(const Model& model, const elcrec::SequenceDataset& data) {
  const elcrec::Recommender<Model> recommender(model);
  std::vector<elcrec::IntentMatch> matches(static_cast<std::size_t>(data.user_count()));
  constexpr Index block = 256;
  model.backend().parallel_blocks(data.user_count(), block, [&](auto&, Index first, Index last) {
    typename elcrec::Recommender<Model>::Scratch scratch;
    for (Index user = first; user < last; ++user) {
      matches[static_cast<std::size_t>(user)] = recommender.intent(data.history(user), scratch);
    }
  });
  return matches;
}

/// The `count` items that most of the users have; among equals the lower row.
[[nodiscard]] inline std::vector<std::pair<elcrec::ItemId, Index>> top_items(const elcrec::SequenceDataset& data,
                                                                             const std::vector<Index>& users,
                                                                             std::size_t count) {
  std::map<elcrec::ItemId, Index> owners;
  std::vector<elcrec::ItemId> own;
  for (const Index user : users) {
    const auto history = data.history(user);
    own.assign(history.begin(), history.end());
    std::sort(own.begin(), own.end());
    own.erase(std::unique(own.begin(), own.end()), own.end());
    for (const auto item : own) {
      ++owners[item];
    }
  }
  std::vector<std::pair<elcrec::ItemId, Index>> items(owners.begin(), owners.end());
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  items.resize(std::min(items.size(), count));
  return items;
}

/// The intents that have users, the largest first, with so many top items each.
[[nodiscard]] inline std::vector<IntentSummary> summarise_intents(const elcrec::SequenceDataset& data,
                                                                  const std::vector<elcrec::IntentMatch>& matches,
                                                                  std::size_t items) {
  std::map<Index, IntentSummary> by_intent;
  for (std::size_t user = 0; user < matches.size(); ++user) {
    auto& summary = by_intent[matches[user].intent];
    summary.intent = matches[user].intent;
    summary.users.push_back(static_cast<Index>(user));
  }
  std::vector<IntentSummary> summaries;
  for (auto& [intent, summary] : by_intent) {
    const auto distance = [&](Index user) { return matches[static_cast<std::size_t>(user)].distance; };
    std::stable_sort(summary.users.begin(), summary.users.end(),
                     [&](Index a, Index b) { return distance(a) < distance(b); });
    summary.top_items = top_items(data, summary.users, items);
    summaries.push_back(std::move(summary));
  }
  std::stable_sort(summaries.begin(), summaries.end(),
                   [](const auto& a, const auto& b) { return a.users.size() > b.users.size(); });
  return summaries;
}

/// The summaries under the names of the data set, with so many of each intent's users.
[[nodiscard]] inline ordered_json to_json(const elcrec::SequenceDataset& data,
                                          const std::vector<elcrec::IntentMatch>& matches,
                                          const std::vector<IntentSummary>& summaries, std::size_t users) {
  ordered_json list = ordered_json::array();
  for (const auto& summary : summaries) {
    ordered_json items = ordered_json::array();
    for (const auto& [item, owners] : summary.top_items) {
      items.push_back({{"item", data.item_map().name(item)}, {"users", owners}});
    }
    ordered_json nearest = ordered_json::array();
    for (std::size_t i = 0; i < std::min(users, summary.users.size()); ++i) {
      const Index user = summary.users[i];
      nearest.push_back(
          {{"user", data.user_name(user)}, {"distance", matches[static_cast<std::size_t>(user)].distance}});
    }
    list.push_back({{"intent", summary.intent},
                    {"users", summary.users.size()},
                    {"share", static_cast<double>(summary.users.size()) / static_cast<double>(matches.size())},
                    {"top_items", std::move(items)},
                    {"nearest_users", std::move(nearest)}});
  }
  return list;
}

/// A line for each element of `to_json`.
inline void print_intents(std::ostream& out, const ordered_json& intents) {
  for (const auto& intent : intents) {
    out << "intent " << right(intent["intent"].dump(), 3) << "  " << right(intent["users"].dump(), 6) << " users "
        << right(fixed(100 * intent["share"].get<double>(), 1), 5) << " %  items (users)";
    for (const auto& item : intent["top_items"]) {
      out << ' ' << item["item"] << " (" << item["users"] << ')';
    }
    if (!intent["nearest_users"].empty()) {
      out << "  nearest users";
    }
    for (const auto& user : intent["nearest_users"]) {
      out << ' ' << user["user"];
    }
    out << '\n';
  }
}

}  // namespace program
