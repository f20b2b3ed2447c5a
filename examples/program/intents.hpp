#pragma once

#include <filesystem>

#include "program/intent_summary.hpp"

namespace program {

class Intents {
 public:
  explicit Intents(CLI::App& app) {
    auto& command = *app.add_subcommand("intents", "The intents of a checkpoint and the users of a file behind them");
    command.add_option("--checkpoint", checkpoint_, "a model file")->required();
    command.add_option("--data", data_, "lines \"user item item ...\", oldest item first")->required();
    command.add_option("--top", top_, "items and users to name for each intent")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    command.add_option("--heads", heads_, "attention heads of a file without metadata")->capture_default_str();
    common_.add_to(command);
    common_.add_backend_to(command);
    Common::accept_seed(command);
    command.footer(
        "Names the intents that have users, the largest first: how many users are nearest to it, which items most of\n"
        "them have, and the users nearest to its center.\n"
        "Examples:\n"
        "  elcrec intents --checkpoint clicks.safetensors --data clicks.txt\n"
        "  elcrec intents --checkpoint clicks.safetensors --data clicks.txt --top 10 --json");
    command.callback([this] { common_.on() == Common::On::eigen ? name_on_eigen() : name_on<elcrec::Cpu>(); });
  }
  Intents(const Intents&) = delete;
  Intents& operator=(const Intents&) = delete;

 private:
  /// name_on<EigenCpu>, compiled by itself.
  void name_on_eigen() const;

  /// Names the intents.
  template <elcrec::Backend B>
  void name_on() const {
    const auto loaded = elcrec::load_elcrec<B>(checkpoint_, common_.backend<B>(), heads_);
    const auto data = elcrec::read_sequences(data_, loaded.items);
    const auto matches = match_users(loaded.model, data);
    const auto intents = to_json(data, matches, summarise_intents(data, matches, top_), top_);
    if (common_.json()) {
      std::cout << text_of({{"users", data.user_count()}, {"intents", intents}}) << '\n';
    } else {
      std::cout << intents.size() << " of " << loaded.model.clusters().count() << " intents have users\n";
      print_intents(std::cout, intents);
    }
  }

  Common common_;
  std::filesystem::path checkpoint_;
  std::filesystem::path data_;
  std::size_t top_ = 5;
  Index heads_ = 2;
};

}  // namespace program
