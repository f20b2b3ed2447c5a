#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <iomanip>
#include <ios>
#include <iostream>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <elcrec/elcrec.hpp>
#include <nlohmann/json.hpp>

#include "program/files.hpp"

/// The program `elcrec`: a header for each subcommand. Numbers of users and items in its output are those of the files.
namespace program {

using elcrec::Index;
using nlohmann::ordered_json;

/// An option whose value is the name of one of the choices.
template <class T>
CLI::Option* add_choice(CLI::App& command, const std::string& flag, T& value,
                        std::vector<std::pair<std::string, T>> choices, const std::string& description) {
  std::vector<std::string> names;
  std::string type;
  std::string current;
  for (const auto& [name, choice] : choices) {
    names.push_back(name);
    type += (type.empty() ? "" : "|") + name;
    current = choice == value ? name : current;
  }
  const auto set = [&value, choices = std::move(choices)](const std::string& text) {
    value = std::find_if(choices.begin(), choices.end(), [&](const auto& c) { return c.first == text; })->second;
  };
  CLI::Validator known = CLI::IsMember(names);
  known.description("");
  return command.add_option_function<std::string>(flag, set, description)
      ->check(known)
      ->type_name(type)
      ->default_str(current);
}

/// The flags that every subcommand has. Results go to standard output; with --json as one object, and then progress
/// goes to standard error.
class Common {
 public:
  void add_to(CLI::App& command) {
    command.add_option("--threads", threads_, "threads; 0 for as many as this process may use processors")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    command.add_flag("--json", json_, "print one JSON object");
  }

  /// Where a subcommand that draws no random numbers takes --seed all the same, so that scripts may pass it everywhere.
  static void accept_seed(CLI::App& command) {
    command.add_option_function<std::uint64_t>(
        "--seed", [](const auto&) {}, "no effect: nothing random here");
  }

  /// What computes, for the subcommands that compute.
  enum class On { cpu, eigen, cuda };
  void add_backend_to(CLI::App& command, [[maybe_unused]] bool with_cuda = false) {
    std::vector<std::pair<std::string, On>> choices{{"cpu", On::cpu}, {"eigen", On::eigen}};
#ifdef ELCREC_PROGRAM_HAS_CUDA
    if (with_cuda) {
      choices.emplace_back("cuda", On::cuda);
    }
#endif
    add_choice<On>(command, "--backend", on_, std::move(choices), "what computes");
  }
  [[nodiscard]] On on() const { return on_; }

  /// Cpu or EigenCpu, with the threads that were asked for.
  template <class B>
  [[nodiscard]] B backend() const {
    return B({.threads = threads_});
  }
  [[nodiscard]] bool json() const { return json_; }
  [[nodiscard]] std::ostream& progress() const { return json_ ? std::cerr : std::cout; }

 private:
  Index threads_ = 0;
  bool json_ = false;
  On on_ = On::cpu;
};

inline void add_preset(CLI::App& command, std::string& name, const std::string& description) {
  std::vector<std::pair<std::string, std::string>> choices;
  for (const char* preset : {"best", "elcrec", "beauty", "sports", "toys", "yelp"}) {
    choices.emplace_back(preset, preset);
  }
  add_choice<std::string>(command, "--preset", name, std::move(choices), description);
}

/// elcrec::preset(name), or for "elcrec" the library's defaults.
[[nodiscard]] inline elcrec::ELCRecOptions model_preset(const std::string& name) {
  return name == "elcrec" ? elcrec::ELCRecOptions{} : elcrec::preset(name);
}

/// `value` with so many digits after the point.
[[nodiscard]] inline std::string fixed(double value, int digits = 4) {
  return elcrec::message(std::fixed, std::setprecision(digits), value);
}

/// HR@k, NDCG@k and MRR by their names.
[[nodiscard]] inline ordered_json metrics_to_json(const elcrec::RankingMetrics& metrics) {
  ordered_json json;
  for (const auto& [name, value] : metrics.values()) {
    json[name] = value;
  }
  return json;
}

/// `json` as one line of ASCII: a path in it may hold any bytes.
[[nodiscard]] inline std::string text_of(const ordered_json& json) {
  return json.dump(-1, ' ', true, ordered_json::error_handler_t::replace);
}

/// `text` with blanks before it up to `width`.
[[nodiscard]] inline std::string right(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

/// A line of metrics for each name, under one another.
inline void print_metrics(std::ostream& out, const std::vector<std::pair<std::string, elcrec::RankingMetrics>>& lines) {
  constexpr std::size_t name_width = 14;
  constexpr std::size_t width = 9;
  out << std::string(name_width, ' ');
  for (const auto& [name, value] : lines.front().second.values()) {
    out << right(name, width);
  }
  for (const auto& [title, metrics] : lines) {
    out << "\n  " << title << std::string(name_width - 2 - std::min(name_width - 2, title.size()), ' ');
    for (const auto& [name, value] : metrics.values()) {
      out << right(fixed(value), width);
    }
  }
  out << '\n';
}

/// What a program makes of its command line: run(app), which parses and carries it out, or one line on standard error
/// and exit code 1; 2 for wrong usage. Whatever the message holds from files or the command line, the terminal gets
/// text.
template <class Run>
[[nodiscard]] int run_program(const char* name, const char* description, Run run) {
  // nlohmann/json allocates in destructors: where there is no memory left, they end the process.
  std::set_terminate([] {
    constexpr std::string_view said = "the program ended without room to say why: memory ran out\n";
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, said.data(), said.size());
    ::_exit(1);
  });
  try {
    CLI::App app(description);
    app.failure_message([](const CLI::App* failed, const CLI::Error& error) {
      const CLI::Error shown(error.get_name(), elcrec::detail::printable(error.what()), error.get_exit_code());
      return CLI::FailureMessage::simple(failed, shown);
    });
    try {
      return run(app);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
  } catch (const std::bad_alloc&) {
    std::cerr << name << ": memory ran out; smaller data, --hidden, --batch-size or --intents take less\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << name << ": " << elcrec::detail::printable(error.what()) << '\n';
    return 1;
  }
}

/// What is about to be run.
template <class Model>
void print_setting(std::ostream& out, const elcrec::LeaveOneOut& split, const Model& model) {
  Index parameters = 0;
  for (const auto& p : elcrec::parameters(model)) {
    parameters += p.values.size();
  }
  out << split.user_count() << " users, " << split.item_count() << " items, " << split.dataset().interaction_count()
      << " interactions; " << parameters << " parameters; " << model.backend().threads() << " threads" << std::endl;
}

}  // namespace program
