#include <exception>
#include <filesystem>
#include <iostream>
#include <regex>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "grid.hpp"
#include "runner.hpp"

namespace {

using experiments::Run;
using experiments::Runner;

void list(const Runner& runner, const std::vector<Run>& runs) {
  std::map<Runner::State, elcrec::Index> count;
  for (const auto& run : runs) {
    const auto state = runner.state(run);
    ++count[state];
    std::cout << (state == Runner::State::finished    ? "finished   "
                  : state == Runner::State::under_way ? "under way  "
                                                      : "open       ")
              << run.name() << '\n';
  }
  std::cout << count[Runner::State::finished] << " finished, " << count[Runner::State::under_way] << " under way, "
            << count[Runner::State::open] << " open\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Trains the runs of grid files, one after the other, and appends a JSON line for each to the results. Finished "
      "runs are never run again.");
  std::vector<std::filesystem::path> grids;
  std::string only;
  bool listing = false;
  experiments::RunnerOptions options;
  app.add_option("grids", grids, "grid files")->required()->check(CLI::ExistingFile);
  app.add_option("--data", options.data, "folder of the data sets")->required()->check(CLI::ExistingDirectory);
  app.add_option("--results", options.results, "file that rows are appended to")->required();
  app.add_option("--work", options.work, "folder of checkpoints and logs")->required();
  app.add_option("--only", only, "only runs of whose name, experiment/dataset/variant/seed, a part matches this");
  app.add_option("--threads", options.threads, "threads; 0 for all of the machine")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--list", listing, "show what is finished and what is left, and train nothing");
  app.footer(
      "Example:\n"
      "  elcrec_experiment benchmarks/experiments/ablation.json --data ../shared/data \\\n"
      "      --results benchmarks/results/ablation.jsonl --work build/experiments --only 'Beauty/.*/0$'\n"
      "SIGINT or SIGTERM saves and ends with exit code 3; the same command goes on from there to the same bits.\n"
      "Exit code: 0; 1 for bad input; 2 for wrong usage; 3 when interrupted.");
  try {
    app.parse(argc, argv);
    const elcrec::StopSignal stop;
    Runner runner(options, stop.requested());
    std::vector<Run> runs;
    const std::regex pattern(only);
    for (const auto& grid : grids) {
      for (auto& run : experiments::Grid(grid).runs()) {
        if (std::regex_search(run.name(), pattern)) {
          runs.push_back(std::move(run));
        }
      }
    }
    if (listing) {
      list(runner, runs);
      return 0;
    }
    for (const auto& run : runs) {
      if (!runner.run(run)) {
        std::cout << "interrupted; the same command continues " << run.name() << std::endl;
        return 3;
      }
    }
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "elcrec_experiment: " << error.what() << '\n';
    return 1;
  }
}
