// The experiment runner: grids, rows, runs that are never run again, interruption and resumption.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "elcrec/data/synthetic.hpp"
#include "elcrec/data/write_sequences.hpp"
#include "elcrec/eval/significance.hpp"
#include "paths.hpp"
#include "program.hpp"

namespace el = elcrec;
using el::test::Args;
using el::test::contains;
using el::test::Finished;
using el::test::read_file;
using el::test::write_file;
using nlohmann::json;

namespace {

constexpr el::Index users = 60;

/// A folder with two data sets and a grid of small runs.
class Experiment : public el::test::Program {
 public:
  Experiment() : el::test::Program(el::test::experiment_program) {
    for (const std::uint64_t seed : {1U, 2U}) {
      std::ostringstream lines;
      el::write_sequences(
          el::make_synthetic({.users = users, .items = 40, .intents = 4, .mean_length = 8, .seed = seed}).data, lines);
      write_file(*this / ("data" + std::to_string(seed) + ".txt"), lines.str());
    }
    write_file(*this / "common.json", R"({
      "options": {"hidden": 8, "intents": 4, "max_length": 8, "epochs": 3, "learning_rate": 0.01, "protocol": "paper"},
      "datasets": {"one": {"file": "data1.txt"}, "two": {"file": "data2.txt", "options": {"epochs": 2}}},
      "variants": {"full": {}, "plain": {"sequence_weight": 0, "intent_weight": 0, "trade_off": 0}}})");
  }

  void write_grid(const std::string& experiments, const std::string& more = "") const {
    write_file(*this / "grid.json",
               R"({"include": "common.json", )" + more + R"("experiments": [)" + experiments + "]}");
  }

  [[nodiscard]] static Args args(const Args& more = {}, const std::string& results = "rows.jsonl") {
    Args all = {"grid.json", "--data", ".", "--results", results, "--work", "work." + results};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  [[nodiscard]] std::vector<json> rows(const std::string& name = "rows.jsonl") const {
    std::istringstream in(read_file(*this / name));
    std::vector<json> found;
    for (std::string line; std::getline(in, line);) {
      found.push_back(json::parse(line));
    }
    return found;
  }

  void must_run(const Args& arguments) const {
    const Finished finished = run(arguments);
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
  }
};

/// What does not depend on the machine's speed and memory, nor on how it was spread.
json outcome(json row) {
  for (const char* key : {"train_seconds", "cpu_seconds", "threads", "jobs"}) {
    REQUIRE(row.erase(key) == 1);
  }
  row.erase("peak_rss_mb");
  return row;
}

}  // namespace

TEST_CASE_FIXTURE(Experiment, "a row says what was run and how it went") {
  write_grid(R"({"name": "small", "datasets": ["one"], "variants": ["full", "plain"], "seeds": [4],
                 "options": {"batch_size": 16}})");
  must_run(args());
  const auto found = rows();
  REQUIRE(found.size() == 2);
  const auto& row = found[0];
  CHECK(row["experiment"] == "small");
  CHECK(row["dataset"] == "one");
  CHECK(row["variant"] == "full");
  CHECK(row["seed"] == 4);
  CHECK(row["options"]["seed"] == 4);
  CHECK(row["options"]["hidden"] == 8);
  CHECK(row["options"]["batch_size"] == 16);
  CHECK(row["options"]["padding"] == "masked");
  CHECK_FALSE(row["options"].contains("items"));
  CHECK(found[1]["options"]["trade_off"] == 0);
  CHECK(row["epochs"] == 3);
  CHECK(row["stopped_early"] == false);
  CHECK(row["best_epoch"] >= 1);
  CHECK(row["train_seconds"] > 0);
  CHECK(row["cpu_seconds"] > 0);
  CHECK(row["peak_rss_mb"] > 1);
  CHECK(row["commit"].get<std::string>().size() >= 7);
  for (const char* protocol : {"paper", "strict"}) {
    for (const char* split : {"valid", "test"}) {
      CHECK(row[split][protocol]["HR@20"] >= row[split][protocol]["NDCG@20"]);
    }
  }
  const auto& curve = row["curve"];
  CHECK(curve["epoch"] == json{1, 2, 3});
  CHECK(curve["next_item"].size() == 3);
  const double best = *std::max_element(curve["NDCG@20"].begin(), curve["NDCG@20"].end());
  CHECK(best == doctest::Approx(row["valid"]["paper"]["NDCG@20"].get<double>()).epsilon(1e-4));
}

TEST_CASE_FIXTURE(Experiment, "finished runs are never run again, and equal ones under other names are copied") {
  write_grid(R"({"name": "first", "datasets": ["one", "two"], "variants": ["plain"], "seeds": [0, 1]})");
  Finished listed = run(args({"--list"}));
  CHECK(listed.code == 0);
  CHECK(contains(listed.out, "open       first/two/plain/1\n"));
  CHECK(contains(listed.out, "0 finished, 0 under way, 4 open\n"));
  must_run(args({"--only", "one/.*/1$"}));
  REQUIRE(rows().size() == 1);
  CHECK(contains(run(args({"--list"})).out, "finished   first/one/plain/1\n"));
  must_run(args());
  REQUIRE(rows().size() == 4);
  CHECK(rows()[1]["seed"] == 0);
  CHECK(rows()[3]["epochs"] == 2);

  const std::string before = read_file(*this / "rows.jsonl");
  const Finished again = run(args());
  CHECK(again.code == 0);
  CHECK(again.out.empty());
  CHECK(read_file(*this / "rows.jsonl") == before);

  // The sweep's value 0.1 is the default: that run is there.
  write_grid(R"({"name": "second", "datasets": ["one"], "variants": ["plain"], "seeds": [1],
                 "sweep": {"dropout": [0.5, 0.1]}})");
  must_run(args());
  REQUIRE(rows().size() == 6);
  const auto copy = rows()[4];
  CHECK(copy["experiment"] == "second");
  CHECK(copy["variant"] == "plain dropout=0.5");
  CHECK(copy["test"] == rows()[0]["test"]);
  CHECK(copy["train_seconds"] == rows()[0]["train_seconds"]);
  CHECK(rows()[5]["variant"] == "plain dropout=0.1");
  CHECK(rows()[5]["options"]["dropout"] == 0.1);
}

TEST_CASE_FIXTURE(Experiment, "runs at the same time have the rows of runs one by one") {
  write_grid(R"({"name": "a", "datasets": ["one", "two"], "variants": ["full", "plain"], "seeds": [0, 1]},
                {"name": "b", "datasets": ["one"], "variants": ["full"], "seeds": [0]})");
  must_run(args());
  must_run(args({"--jobs", "3"}, "beside.jsonl"));
  const auto sorted = [&](const std::string& name) {
    std::vector<json> list;
    for (const auto& row : rows(name)) {
      list.push_back(outcome(row));
    }
    std::sort(list.begin(), list.end());
    return list;
  };
  CHECK(sorted("rows.jsonl").size() == 9);
  CHECK(sorted("beside.jsonl") == sorted("rows.jsonl"));
  const auto beside = rows("beside.jsonl");
  CHECK(beside[0]["jobs"] == 3);
  CHECK(beside[0]["cpu_seconds"] > 0);
  CHECK_FALSE(beside[0].contains("peak_rss_mb"));  // of the process, not of the run
}

TEST_CASE_FIXTURE(Experiment, "a run that diverges has a row that says so, and the others are run") {
  write_grid(R"({"name": "wild", "datasets": ["one"], "variants": ["plain"], "seeds": [0],
                 "sweep": {"learning_rate": [1e30, 0.01]}})");
  must_run(args());
  const auto found = rows();
  REQUIRE(found.size() == 2);
  CHECK(contains(found[0]["diverged"], "not finite"));
  CHECK_FALSE(found[0].contains("test"));
  CHECK(found[1].contains("test"));
  must_run(args());
  CHECK(rows().size() == 2);
  must_run(args({"--compare", "compared.jsonl"}));
  CHECK(rows("compared.jsonl").empty());
}

TEST_CASE_FIXTURE(Experiment, "variants are compared over seeds and users") {
  write_grid(R"({"name": "small", "datasets": ["one"], "variants": ["plain", "full"], "seeds": [0, 1, 2]})");
  must_run(args());
  must_run(args({"--compare", "compared.jsonl"}));
  const auto compared = rows("compared.jsonl");
  REQUIRE(compared.size() == 1);
  CHECK(compared[0]["baseline"] == "plain");
  CHECK(compared[0]["variant"] == "full");
  CHECK(compared[0]["seeds"] == json{0, 1, 2});
  std::vector<double> plain;
  std::vector<double> full;
  for (const auto& row : rows()) {
    (row["variant"] == "plain" ? plain : full).push_back(row["test"]["paper"]["NDCG@20"]);
  }
  const auto expected = el::paired_t_test(full, plain);
  const auto& ndcg = compared[0]["metrics"]["NDCG@20"];
  CHECK(ndcg["t_test"]["p"].get<double>() == doctest::Approx(expected.p));
  CHECK(ndcg["variant"].get<double>() - ndcg["baseline"].get<double>() == doctest::Approx(expected.difference));
  // The users' gains are those of the metric.
  CHECK(ndcg["bootstrap"]["seeds"] == 3);
  CHECK(ndcg["bootstrap"]["difference"].get<double>() == doctest::Approx(expected.difference));
  CHECK(ndcg["bootstrap"]["low"] < ndcg["bootstrap"]["difference"]);
  CHECK_FALSE(compared[0]["metrics"]["HR@5"].contains("bootstrap"));
}

TEST_CASE_FIXTURE(Experiment, "the users of a run: intents by activity, and some embeddings") {
  write_grid(R"({"name": "small", "datasets": ["one"], "variants": ["full"], "seeds": [0, 1]})");
  must_run(args({"--only", "/0$"}));
  must_run(args({"--users", "users.jsonl", "--sample", "7"}));
  const auto described = rows("users.jsonl");
  REQUIRE(described.size() == 1);  // the other seed has not been trained
  CHECK(described[0]["seed"] == 0);
  el::Index total = 0;
  for (const auto& group : described[0]["groups"]) {
    REQUIRE(group["users_of_intent"].size() == 4);
    for (const el::Index count : group["users_of_intent"]) {
      total += count;
    }
  }
  CHECK(total == users);
  const auto& sample = described[0]["sample"];
  CHECK(sample["intent"].size() == 7);
  CHECK(sample["group"].size() == 7);
  REQUIRE(sample["embedding"].size() == 7);
  for (const auto& unit : sample["embedding"]) {
    REQUIRE(unit.size() == 8);
    double square = 0;
    for (const double hundredths : unit) {
      square += hundredths * hundredths * 1e-4;
    }
    CHECK(square == doctest::Approx(1).epsilon(0.05));
  }
}

TEST_CASE_FIXTURE(Experiment, "an interrupted run goes on to the same row") {
  write_grid(R"({"name": "long", "datasets": ["one"], "variants": ["full"], "seeds": [3],
                 "options": {"epochs": 40, "batch_size": 2, "patience": 100}})");
  must_run(args({"--threads", "2"}, "whole.jsonl"));

  std::filesystem::remove(*this / "stdout");  // of the run before
  const pid_t child = start(args());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!contains(read_file(*this / "stdout"), "epoch   2/40") && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(child, SIGTERM);
  const Finished interrupted = wait(child);
  CAPTURE(interrupted.err);
  CHECK(interrupted.code == 3);
  REQUIRE(contains(interrupted.out, "interrupted; the same command continues long/one/full/3"));
  CHECK(rows().empty());
  CHECK(contains(run(args({"--list"})).out, "under way  long/one/full/3\n"));

  must_run(args());
  REQUIRE(rows().size() == 1);
  CHECK(outcome(rows()[0]) == outcome(rows("whole.jsonl")[0]));
  const auto ranks_of = [&](const std::string& folder) {
    for (const auto& file : std::filesystem::directory_iterator(*this / folder)) {
      if (file.path().extension() == ".ranks") {
        return read_file(file.path());
      }
    }
    return std::string();
  };
  const std::string ranks = ranks_of("work.rows.jsonl");
  CHECK(std::count(ranks.begin(), ranks.end(), '\n') == users);
  CHECK(ranks == ranks_of("work.whole.jsonl"));
}

TEST_CASE_FIXTURE(Experiment, "bad grids and results are refused with their place") {
  const auto check_fails = [&](const std::string& what, const Args& parts) {
    const Finished finished = run(args());
    CAPTURE(what);
    CAPTURE(finished.err);
    CHECK(finished.code == 1);
    CHECK(std::count(finished.err.begin(), finished.err.end(), '\n') == 1);
    for (const auto& part : parts) {
      CAPTURE(part);
      CHECK(contains(finished.err, part));
    }
  };
  const std::string names = R"("name": "x", "datasets": ["one"], "seeds": [0], )";
  write_grid("{" + names + R"("variants": ["none"]})");
  check_fails("variant", {"grid.json: variants", "found no \"none\""});
  write_grid("{" + names + R"("variants": ["full"], "options": {"hiden": 8}})");
  check_fails("option", {"grid.json: experiment 'x'", "found option 'hiden'"});
  write_grid("{" + names + R"("variants": ["full"], "options": {"padding": "left"}})");
  check_fails("value", {"experiment 'x': padding: found 'left', expected paper or masked"});
  write_grid("{" + names + R"("variants": ["full"], "sweep": {"hidden": [8], "heads": [1]}})");
  check_fails("sweep", {"experiment 'x'", "expected one option"});
  write_grid(R"({"name": "x", "datasets": ["one"], "variants": ["full"]})");
  check_fails("seeds", {"experiment 'x'", "found no \"seeds\""});
  write_file(*this / "grid.json", "{");
  check_fails("syntax", {"grid.json: ", "expected JSON"});

  write_grid("{" + names + R"("variants": ["full"]})");
  const std::string row = R"({"experiment": "x", "dataset": "one", "variant": "full", "seed": 0, "options": {}})"
                          "\n";
  for (const auto& [line, part] :
       {std::pair<std::string, std::string>{"nonsense\n", "expected one JSON object"},
        {"nonsense\n" + row, "expected one JSON object"},
        {"{\"cut\n" + row, "found \"{\"cut\"; expected one JSON object"},
        {"12", "expected one JSON object"},
        {"\n" + row, "expected one JSON object"},
        {"\x1B[2K\n", R"(found "\x1B[2K")"},
        {"{}\n", "expected the row of a run"},
        {"{}", "expected the row of a run"},
        {std::string(100'000, '[') + std::string(100'000, ']') + '\n', "expected one JSON object"}}) {
    write_file(*this / "rows.jsonl", row + line);
    check_fails("results", {"rows.jsonl:2: ", part});
  }
  CHECK(run({"grid.json"}).code == 2);
}

TEST_CASE_FIXTURE(Experiment, "grids of other shapes are refused with their place") {
  const auto check_fails = [&](const std::string& grid, const std::string& part) {
    write_file(*this / "grid.json", grid);
    const Finished finished = run(args());
    CAPTURE(grid.substr(0, 300));
    CAPTURE(finished.err);
    CHECK(finished.code == 1);
    CHECK(contains(finished.err, "grid.json: "));
    CHECK(contains(finished.err, part));
    CHECK(!contains(finished.err, "json.exception"));
    CHECK(std::count(finished.err.begin(), finished.err.end(), '\n') == 1);
  };
  check_fails("[]", "found array, expected an object");
  check_fails(R"({"include": 1})", "include: found number, expected a text");
  check_fails(R"({"experiments": {}})", "\"experiments\" is of type object, expected a list");
  check_fails(R"({"experiments": [1]})", "found no \"name\"");
  check_fails(R"({"experiments": [{"name": 1}]})", "name: found number, expected a text");
  const auto experiment = [](const std::string& more, const std::string& data = R"("x": {"file": "data1.txt"})") {
    return R"({"datasets": {)" + data + R"(}, "variants": {"v": {}, "n": 1}, "experiments": [{"name": "e\u001b", )" +
           more + "}]}";
  };
  check_fails(experiment(R"("datasets": "x", "seeds": [0], "variants": ["v"])"), "\"datasets\" is of type string");
  check_fails(experiment(R"("datasets": [1], "seeds": [0], "variants": ["v"])"), "datasets: found number");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": [null])"), "variants: found null");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["n"])"), "found options of type number");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [-1], "variants": ["v"])"), "seed: found '-1'");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [1.5], "variants": ["v"])"), "seed: found '1.5'");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "options": [1])"), "is of type array");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "sweep": {"heads": 1})"), "\"sweep\"");
  check_fails(
      experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "options": {"intents": 4611686018427387904})"),
      "intents: found 4611686018427387904, expected at most");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "options": {"\u001b": 1})"),
              R"(found option '\x1B')");
  check_fails(
      experiment(R"("datasets": ["../x"], "seeds": [0], "variants": ["v"])", R"("../x": {"file": "data1.txt"})"),
      "found data set \"../x\"");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"])", R"("x": {"file": 3})"),
              "found number");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"])", R"("x": 3)"), "found no \"file\"");
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "options": {"heads": [2]})"),
              "heads: found 'array'");
  const std::string deep(100'000, '[');
  check_fails(experiment(R"("datasets": ["x"], "seeds": [0], "variants": ["v"], "options": {"heads": )" + deep +
                         std::string(100'000, ']') + "}"),
              "nests deeper than");
  std::string many = "0";
  for (int i = 0; i < 400; ++i) {
    many += ",0";
  }
  check_fails(experiment(R"("datasets": ["x"], "seeds": [)" + many + R"(], "variants": ["v"], "sweep": {"dropout": [)" +
                         many + "]}"),
              "found more than 100000 runs");
}

TEST_CASE_FIXTURE(Experiment, "a row that was cut is dropped, and the run done again") {
  write_grid(R"({"name": "small", "datasets": ["one"], "variants": ["plain"], "seeds": [0, 1]})");
  must_run(args());
  const std::string whole = read_file(*this / "rows.jsonl");
  const auto first = whole.find('\n') + 1;
  std::filesystem::remove_all(*this / "work.rows.jsonl");
  for (const std::size_t length : {whole.size() - 2, first + 1, (first + whole.size()) / 2}) {
    const std::string cut = whole.substr(0, length);
    write_file(*this / "rows.jsonl", cut);
    const Finished listed = run(args({"--list"}));
    CAPTURE(listed.err);
    CHECK(listed.code == 0);
    CHECK(contains(listed.out, "1 finished, 0 under way, 1 open\n"));
    CHECK(listed.err == "rows.jsonl:2: the last line was cut while it was written; dropped\n");
    CHECK(read_file(*this / "rows.jsonl") == cut);
    CHECK(run(args({"--compare", "compared.jsonl"})).code == 0);
  }
  must_run(args());
  const auto found = rows();
  REQUIRE(found.size() == 2);
  CHECK(read_file(*this / "rows.jsonl").starts_with(whole.substr(0, first)));
  CHECK(found[1]["test"] == json::parse(whole.substr(first))["test"]);

  // Only the end of the last line is missing: nothing is lost.
  write_file(*this / "rows.jsonl", whole.substr(0, first - 1));
  CHECK(run(args({"--list"})).err.empty());
  must_run(args());
  CHECK(rows().size() == 2);
}

TEST_CASE_FIXTURE(Experiment, "an epoch's line that was cut stops no resumption") {
  write_grid(R"({"name": "long", "datasets": ["one"], "variants": ["full"], "seeds": [3]})");
  must_run(args());
  std::filesystem::path log;
  for (const auto& file : std::filesystem::directory_iterator(*this / "work.rows.jsonl")) {
    log = file.path().extension() == ".jsonl" ? file.path() : log;
  }
  const std::string lines = read_file(log);
  write_file(log, lines.substr(0, lines.size() - 5));
  std::filesystem::remove(*this / "rows.jsonl");
  const Finished resumed = run(args());
  CAPTURE(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(contains(resumed.err, ".jsonl:3: the last line was cut"));
  CHECK(rows().size() == 1);
}

TEST_CASE_FIXTURE(Experiment, "no output may be what is read") {
  write_grid(R"({"name": "small", "datasets": ["one"], "variants": ["plain"], "seeds": [0]})");
  std::filesystem::create_symlink("data1.txt", *this / "link");
  const auto check_fails = [&](const Args& arguments, const std::string& output, const std::string& input) {
    const Finished finished = run(arguments);
    CAPTURE(output);
    CAPTURE(finished.err);
    CHECK(finished.code == 1);
    CHECK(contains(finished.err, output + ": is the file of " + input));
  };
  write_file(*this / "rows.jsonl", "");
  for (const std::string name : {"grid.json", "common.json", "data1.txt", "link", "rows.jsonl"}) {
    const std::string before = read_file(*this / name);
    const std::string input = name == "rows.jsonl" ? "--results " : name.ends_with(".json") ? "a grid " : "--data ";
    check_fails(args({"--compare", name}), "--compare " + name, input);
    check_fails(args({"--users", name}), "--users " + name, input);
    if (name != "rows.jsonl") {
      check_fails(args({}, name), "--results " + name, input);
    }
    CHECK(read_file(*this / name) == before);
  }
  const Finished unwritable = run(args({}, "/proc/rows"));
  CHECK(unwritable.code == 1);
  CHECK(contains(unwritable.err, "--results /proc/rows: cannot be written"));
}
