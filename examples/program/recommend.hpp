#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "program/common.hpp"
#include "program/history.hpp"

namespace program {

class Recommend {
 public:
  explicit Recommend(CLI::App& app) {
    auto& command = *app.add_subcommand("recommend", "What comes next after a history, and which intent is behind it");
    command.add_option("--checkpoint", checkpoint_, "a model file")->required();
    auto* history = command.add_option("--history", history_, "items between blanks, oldest first");
    auto* data = command.add_option("--data", data_, "file of histories, of which --user names one");
    auto* user = command.add_option("--user", user_, "the user whose whole history counts");
    history->excludes(data)->excludes(user);
    data->needs(user);
    user->needs(data);
    command.add_option("-k", k_, "number of recommendations")->capture_default_str();
    command.add_flag("--repeat", repeat_, "items of the history may be recommended again");
    command.add_option("--heads", heads_, "attention heads of a file without metadata")->capture_default_str();
    common_.add_to(command);
    common_.add_backend_to(command);
    Common::accept_seed(command);
    command.footer(
        "Examples:\n"
        "  elcrec recommend --checkpoint clicks.safetensors --history \"12 7 301\"\n"
        "  elcrec recommend --checkpoint clicks.safetensors --data clicks.txt --user 42 -k 5 --json");
    command.callback([this, history, data] {
      if (history->count() == 0 && data->count() == 0) {
        throw CLI::RequiredError("--history, or --data with --user,");
      }
      const bool from_text = history->count() > 0;
      common_.on() == Common::On::eigen ? recommend_on_eigen(from_text) : recommend_on<elcrec::Cpu>(from_text);
    });
  }
  Recommend(const Recommend&) = delete;
  Recommend& operator=(const Recommend&) = delete;

 private:
  /// recommend_on<EigenCpu>, compiled by itself.
  void recommend_on_eigen(bool from_text) const;

  template <elcrec::Backend B>
  void recommend_on(bool from_text) const {
    using Model = elcrec::ELCRec<B>;
    const auto loaded = elcrec::load_elcrec<B>(checkpoint_, common_.backend<B>(), heads_);
    const std::vector<elcrec::ItemId> history =
        from_text ? parse_history(history_, loaded.items, checkpoint_.string()) : read_history(loaded.items);
    const elcrec::Recommender<Model> recommender(loaded.model);
    typename elcrec::Recommender<Model>::Scratch scratch;
    const elcrec::IntentMatch match = recommender.intent(history, scratch);
    const auto items = recommender.recommend(history, k_, scratch, repeat_);
    const bool alone = std::isinf(match.runner_up_distance);  // one intent only
    if (common_.json()) {
      ordered_json object{{"intent", match.intent}, {"distance", match.distance}};
      object["next_intent"] = alone ? ordered_json() : ordered_json(match.runner_up);
      object["next_distance"] = alone ? ordered_json() : ordered_json(match.runner_up_distance);
      object["items"] = ordered_json::array();
      for (const auto& [item, score] : items) {
        object["items"].push_back({{"item", loaded.items.name(item)}, {"score", score}});
      }
      std::cout << text_of(object) << '\n';
      return;
    }
    std::cout << "intent " << match.intent << " at distance " << fixed(match.distance);
    if (!alone) {
      std::cout << "; the next is " << match.runner_up << " at " << fixed(match.runner_up_distance);
    }
    std::cout << "\n      item     score\n";
    for (const auto& [item, score] : items) {
      std::cout << right(std::to_string(loaded.items.name(item)), 10) << right(fixed(score), 10) << '\n';
    }
  }

  [[nodiscard]] std::vector<elcrec::ItemId> read_history(const elcrec::ItemMap& map) const {
    const auto data = elcrec::read_sequences(data_, map);
    const std::optional<Index> user = data.find_user(user_);
    elcrec::require(user.has_value(), "--user: found no user ", user_, " in ", data_.string(), "; expected one of its ",
                    data.user_count(), " users");
    const auto history = data.history(*user);
    return {history.begin(), history.end()};
  }

  Common common_;
  std::filesystem::path checkpoint_;
  std::filesystem::path data_;
  std::string history_;
  std::int64_t user_ = 0;
  Index k_ = 20;
  Index heads_ = 2;
  bool repeat_ = false;
};

}  // namespace program
