#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "comparison.hpp"
#include "grid.hpp"
#include "runner.hpp"

namespace {

using elcrec::Index;
using experiments::Comparison;
using experiments::ordered_json;
using experiments::Run;
using experiments::Runner;

std::vector<Run> read_runs(const std::vector<experiments::Grid>& grids, const std::string& only) {
  std::vector<Run> runs;
  const std::regex pattern(only);
  for (const auto& grid : grids) {
    for (auto& run : grid.runs()) {
      if (std::regex_search(run.name(), pattern)) {
        runs.push_back(std::move(run));
      }
    }
  }
  return runs;
}

/// Before anything is written: no output may be what is read, or another output.
void check_files(const experiments::RunnerOptions& options, const std::vector<experiments::Grid>& grids,
                 const std::vector<Run>& runs, const program::NamedFile& more) {
  std::vector<program::NamedFile> inputs;
  for (const auto& grid : grids) {
    for (const auto& file : grid.files()) {
      inputs.push_back({"a grid", file});
    }
  }
  std::set<std::filesystem::path> data;
  for (const auto& run : runs) {
    if (data.insert(run.file).second) {
      inputs.push_back({"--data", options.data / run.file});
    }
  }
  const program::NamedFile results{"--results", options.results};
  program::require_other_file(results, inputs);
  inputs.push_back(results);
  program::require_other_file(more, inputs);
  if (more.path.empty()) {
    program::require_appendable(results);
  } else {
    program::require_writable(more);
  }
}

void list(const Runner& runner, const std::vector<Run>& runs) {
  std::map<Runner::State, Index> count;
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

/// False when it was interrupted. Runs that share files go to one job, one after the other.
bool train(Runner& runner, const std::vector<Run>& runs, Index jobs) {
  std::vector<std::vector<const Run*>> groups;
  std::map<std::string, std::size_t> group_of;
  for (const auto& run : runs) {
    const auto [found, added] = group_of.try_emplace(file_stem(run), groups.size());
    if (added) {
      groups.emplace_back();
    }
    groups[found->second].push_back(&run);
  }
  std::atomic<bool> complete{true};
  elcrec::Cpu({.threads = jobs}).parallel_for(std::ssize(groups), [&](elcrec::Cpu::Lane&, Index i) {
    for (const Run* run : groups[static_cast<std::size_t>(i)]) {
      if (complete && !runner.run(*run)) {
        complete = false;
        std::cout << "interrupted; the same command continues " << run->name() << std::endl;
      }
    }
  });
  return complete;
}

class LineWriter {
 public:
  explicit LineWriter(const std::filesystem::path& path) : path_(path), out_(path, std::ios::trunc) {
    elcrec::require<elcrec::FileError>(out_.is_open(), path.string(), ": cannot be opened, expected a writable file");
  }
  void operator()(const ordered_json& line) {
    out_ << line.dump() << std::endl;
    elcrec::require<elcrec::FileError>(out_.good(), path_.string(), ": could not be written, expected room for a line");
  }

 private:
  std::filesystem::path path_;
  std::ofstream out_;
};

/// Every variant of an experiment and data set against the first one that the grid names.
void compare(const Runner& runner, const std::vector<Run>& runs, LineWriter write) {
  std::map<std::pair<std::string, std::string>, std::vector<const Run*>> groups;
  for (const auto& run : runs) {
    groups[{run.experiment, run.dataset}].push_back(&run);
  }
  for (const auto& [names, group] : groups) {
    const std::string& baseline = group.front()->variant;
    std::map<std::uint64_t, Comparison::Result> baselines;
    std::vector<std::pair<std::string, Comparison>> variants;
    for (const Run* run : group) {
      auto result = runner.result(*run);
      if (result.row.is_null()) {
        continue;
      }
      if (run->variant == baseline) {
        baselines[run->model.seed] = std::move(result);
      } else if (const auto other = baselines.find(run->model.seed); other != baselines.end()) {
        auto found = std::find_if(variants.begin(), variants.end(), [&](auto& v) { return v.first == run->variant; });
        if (found == variants.end()) {
          found = variants.insert(found, {run->variant, Comparison()});
        }
        found->second.add(other->second, result);
      }
    }
    for (const auto& [variant, comparison] : variants) {
      ordered_json line{
          {"experiment", names.first}, {"dataset", names.second}, {"baseline", baseline}, {"variant", variant}};
      line.update(comparison.json());
      write(line);
    }
  }
}

void describe_users(Runner& runner, const std::vector<Run>& runs, Index sample, LineWriter write) {
  for (const auto& run : runs) {
    if (const auto line = runner.users(run, sample); !line.is_null()) {
      write(line);
    }
  }
}

int run(CLI::App& app, int argc, char** argv) {
  std::vector<std::filesystem::path> grid_files;
  std::string only;
  bool listing = false;
  std::filesystem::path comparisons;
  std::filesystem::path users;
  Index sample = 1000;
  experiments::RunnerOptions options;
  app.add_option("grids", grid_files, "grid files")->required()->check(CLI::ExistingFile);
  app.add_option("--data", options.data, "folder of the data sets")->required()->check(CLI::ExistingDirectory);
  app.add_option("--results", options.results, "file that rows are appended to")->required();
  app.add_option("--work", options.work, "folder of checkpoints and logs")->required();
  app.add_option("--only", only, "only runs of whose name, experiment/dataset/variant/seed, a part matches this");
  app.add_option("--threads", options.threads, "threads; 0 for as many as this process may use processors")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--jobs", options.jobs, "runs at a time; rows of more than one have no peak memory")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
#ifdef ELCREC_EXPERIMENT_HAS_CUDA
  std::string backend = "cpu";
  app.add_option("--backend", backend, "what computes")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
#endif
  const auto mode = app.add_option_group("Instead of training")->require_option(0, 1);
  mode->add_flag("--list", listing, "show what is finished and what is left");
  mode->add_option("--compare", comparisons,
                   "write a JSON line for each variant against the first of its experiment: means, significance");
  mode->add_option("--users", users, "write a JSON line for each finished run: intents of its users, some embeddings");
  app.add_option("--sample", sample, "embeddings that --users writes")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.footer(
      "Example:\n"
      "  elcrec_experiment benchmarks/experiments/ablation.json --data ../shared/data \\\n"
      "      --results benchmarks/results/experiments.jsonl --work build/experiments --only 'Beauty/.*/0$'\n"
      "SIGINT or SIGTERM saves and ends with exit code 3; the same command goes on from there to the same bits.\n"
      "Exit code: 0; 1 for bad input; 2 for wrong usage; 3 when interrupted.");
  app.parse(argc, argv);
#ifdef ELCREC_EXPERIMENT_HAS_CUDA
  options.on_cuda = backend == "cuda";
#endif
  const std::vector<experiments::Grid> grids(grid_files.begin(), grid_files.end());
  const auto runs = read_runs(grids, only);
  const bool training = !listing && comparisons.empty() && users.empty();
  if (!listing) {
    check_files(options, grids, runs,
                training               ? program::NamedFile{}
                : !comparisons.empty() ? program::NamedFile{"--compare", comparisons}
                                       : program::NamedFile{"--users", users});
  }
  const elcrec::StopSignal stop;
  Runner runner(options, stop.requested());
  if (training) {
    return train(runner, runs, options.jobs) ? 0 : 3;
  }
  if (listing) {
    list(runner, runs);
  } else if (!comparisons.empty()) {
    compare(runner, runs, LineWriter(comparisons));
  } else {
    describe_users(runner, runs, sample, LineWriter(users));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* description =
      "Trains the runs of grid files and appends a JSON line for each to the results. Finished "
      "runs are never run again.";
  return program::run_program("elcrec_experiment", description, [&](CLI::App& app) { return run(app, argc, argv); });
}
