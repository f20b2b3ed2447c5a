#pragma once

#include <chrono>
#include <filesystem>
#include <string>

#include "program/common.hpp"

namespace program {

class Evaluate {
 public:
  explicit Evaluate(CLI::App& app) {
    auto& command = *app.add_subcommand("evaluate", "Rank the held-out items of a file with a checkpoint");
    command.add_option("--data", data_, "lines \"user item item ...\", oldest item first")->required();
    command.add_option("--checkpoint", checkpoint_, "a model file, also a foreign one with PyTorch's names")
        ->required();
    add_choice<elcrec::Split>(command, "--split", split_,
                              {{"test", elcrec::Split::test}, {"valid", elcrec::Split::valid}},
                              "each user's last item, or the one before it");
    add_choice<elcrec::Protocol>(command, "--protocol", protocol_,
                                 {{"strict", elcrec::Protocol::strict}, {"paper", elcrec::Protocol::paper}},
                                 "items that compete: all unseen ones, or as the paper's code ranks");
    padding_given_ = add_choice<elcrec::Padding>(
        command, "--padding", padding_, {{"paper", elcrec::Padding::paper}, {"masked", elcrec::Padding::masked}},
        "how histories are encoded; both give the same ranks, masked sooner");
    add_preset(command, preset_, "the paper's heads and padding for a data set, for a file without metadata");
    heads_given_ =
        command.add_option("--heads", heads_, "attention heads of a file without metadata")->capture_default_str();
    add_choice<elcrec::ShortHistories>(
        command, "--short-histories", short_histories_,
        {{"reject", elcrec::ShortHistories::reject}, {"drop", elcrec::ShortHistories::drop}},
        "users of fewer than 4 items, which cannot be split");
    common_.add_to(command);
    common_.add_backend_to(command);
    Common::accept_seed(command);
    command.footer(
        "Examples:\n"
        "  elcrec evaluate --data clicks.txt --checkpoint clicks.safetensors --json\n"
        "  elcrec evaluate --data Beauty.txt --checkpoint ELCRec-Beauty.safetensors --protocol paper --padding paper");
    command.callback([this] { run(); });
  }
  Evaluate(const Evaluate&) = delete;
  Evaluate& operator=(const Evaluate&) = delete;

 private:
  void run() {
    if (!preset_.empty()) {
      const auto preset = model_preset(preset_);
      padding_ = padding_given_->count() > 0 ? padding_ : preset.padding;
      heads_ = heads_given_->count() > 0 ? heads_ : preset.heads;
    }
    common_.on() == Common::On::eigen ? evaluate_on_eigen() : evaluate_on<elcrec::Cpu>();
  }

  /// evaluate_on<EigenCpu>, compiled by itself.
  void evaluate_on_eigen() const;

  template <elcrec::Backend B>
  void evaluate_on() const {
    const auto loaded = elcrec::load_elcrec<B>(checkpoint_, common_.backend<B>(), heads_);
    const auto split = elcrec::leave_one_out(elcrec::read_sequences(data_, loaded.items), short_histories_);
    const auto began = std::chrono::steady_clock::now();
    const auto metrics = elcrec::evaluate(loaded.model, split, split_, {.protocol = protocol_, .padding = padding_});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    if (common_.json()) {
      ordered_json object{{"users", metrics.users()}};
      object.update(metrics_to_json(metrics));
      object["seconds"] = seconds;
      std::cout << text_of(object) << '\n';
    } else {
      std::cout << metrics << " in " << fixed(seconds, 2) << " s\n";
    }
  }

  Common common_;
  std::filesystem::path data_;
  std::filesystem::path checkpoint_;
  elcrec::Split split_ = elcrec::Split::test;
  elcrec::Protocol protocol_ = elcrec::Protocol::strict;
  elcrec::Padding padding_ = elcrec::Padding::masked;
  elcrec::ShortHistories short_histories_ = elcrec::ShortHistories::reject;
  std::string preset_;
  Index heads_ = 2;
  CLI::Option* padding_given_ = nullptr;
  CLI::Option* heads_given_ = nullptr;
};

}  // namespace program
