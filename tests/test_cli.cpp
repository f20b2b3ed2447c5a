#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "elcrec/data/synthetic.hpp"
#include "elcrec/data/write_sequences.hpp"
#include "elcrec/io/safetensors.hpp"
#include "paths.hpp"
#include "program.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::test::Args;
using el::test::contains;
using el::test::Finished;
using el::test::read_file;
using el::test::write_file;
using nlohmann::json;

namespace {

class Program : public el::test::Program {
 public:
  Program() : el::test::Program(el::test::program) {}
};

constexpr el::Index user_count = 60;
constexpr el::Index item_count = 40;

/// Histories of users 101, 102, ... with items 13, 23, 33, ...
std::string histories() {
  const auto data =
      el::make_synthetic({.users = user_count, .items = item_count, .intents = 4, .mean_length = 8.0}).data;
  std::ostringstream lines;
  for (el::Index user = 0; user < data.user_count(); ++user) {
    lines << 100 + data.user_name(user);
    for (const auto item : data.history(user)) {
      lines << ' ' << 10 * item + 3;
    }
    lines << '\n';
  }
  return lines.str();
}

/// Trains a small model on data.txt into model.safetensors; `more` replaces flags and adds to them.
Args train_args(Args more = {}) {
  Args args = {"train",
               "--data",
               "data.txt",
               "--out",
               "model.safetensors",
               "--preset",
               "elcrec",
               "--hidden",
               "8",
               "--heads",
               "2",
               "--intents",
               "4",
               "--max-length",
               "8",
               "--epochs",
               "3",
               "--seed",
               "5",
               "--threads",
               "1",
               "--learning-rate",
               "0.01"};
  // The last of two equal flags would be a usage error: what `more` gives replaces it.
  for (const auto& flag : more) {
    if (const auto old = std::find(args.begin(), args.end(), flag); flag.starts_with("--") && old != args.end()) {
      args.erase(old, old + 2);
    }
  }
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// A folder with data.txt, and model.safetensors trained on it.
class Trained : public Program {
 public:
  Trained() {
    write_file(*this / "data.txt", histories());
    const Finished finished = run(train_args());
    CAPTURE(finished.err);
    REQUIRE(finished.code == 0);
  }
};

using ChangeTensor = std::function<void(std::vector<el::Index>& shape, std::vector<float>& values)>;

/// The model of a file without training state and checksums, under these metadata and with one tensor changed.
void rewrite_model(const el::SafetensorsFile& file, const std::map<std::string, std::string>& metadata,
                   const fs::path& path, const std::string& changed = "", const ChangeTensor& change = {}) {
  el::SafetensorsWriter writer;
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with("checksum.")) {
      writer.metadata(key, value);
    }
  }
  const auto ids = file.read<std::int64_t>("item_ids");
  writer.add<std::int64_t>("item_ids", {static_cast<el::Index>(ids.size())}, ids);
  std::vector<std::vector<float>> values;
  values.reserve(file.names().size());
  for (const auto& name : file.names()) {
    if (name == "item_ids" || name.starts_with("training.")) {
      continue;
    }
    auto shape = file.info(name).shape;
    values.push_back(file.read<float>(name));
    if (name == changed) {
      change(shape, values.back());
    }
    if (!shape.empty()) {
      writer.add<float>(name, shape, values.back());
    }
  }
  writer.write(path);
}

void check_fails(const Program& program, const Args& args, const Args& parts) {
  const Finished finished = program.run(args);
  CAPTURE(args.front());
  CAPTURE(finished.err);
  CHECK(finished.code == 1);
  CHECK(finished.err.starts_with("elcrec: "));
  CHECK(std::count(finished.err.begin(), finished.err.end(), '\n') == 1);
  for (const auto& part : parts) {
    CAPTURE(part);
    CHECK(contains(finished.err, part));
  }
}

}  // namespace

TEST_CASE("--help explains every subcommand with examples") {
  const Program program;
  const Finished all = program.run({"--help"});
  CHECK(all.code == 0);
  for (const std::string name : {"train", "evaluate", "recommend", "intents", "demo"}) {
    CAPTURE(name);
    CHECK(contains(all.out, "\n  " + name + ' '));
    const Finished help = program.run({name, "--help"});
    CHECK(help.code == 0);
    CHECK(contains(help.out, "Examples:\n  elcrec " + name));
    for (const std::string flag : {"--threads", "--seed", "--json"}) {
      CHECK(contains(help.out, "  " + flag + ' '));
    }
  }
  const Finished train = program.run({"train", "--help"});
  for (const std::string flag : {"--max-length INT=50", "--trade-off NUMBER=0 ", "--padding paper|masked=masked",
                                 "--share-views", "--objective bce|bpr|softmax=softmax"}) {
    CAPTURE(flag);
    CHECK(contains(train.out, flag));
  }
  CHECK(!contains(train.out, "--items"));
}

TEST_CASE("wrong usage gives exit code 2") {
  const Program program;
  const std::vector<std::pair<Args, std::string>> cases = {
      {{}, "subcommand is required"},
      {{"predict"}, "subcommand is required"},
      {{"train"}, "--data is required"},
      {{"train", "--data", "data.txt"}, "--out is required"},
      {{"train", "--data", "d", "--out", "o", "--no-such-flag"}, "--no-such-flag"},
      {{"train", "--data", "d", "--out", "o", "--heads", "two"}, "--heads: found 'two', expected a whole number"},
      {{"train", "--data", "d", "--out", "o", "--dropout", "0.5x"}, "--dropout: found '0.5x', expected a number"},
      {{"train", "--data", "d", "--out", "o", "--padding", "left"}, "expected paper or masked"},
      {{"train", "--data", "d", "--out", "o", "--objective", "hinge"}, "expected bce or bpr or softmax"},
      {{"train", "--data", "d", "--out", "o", "--preset", "books"}, "books"},
      {{"train", "--data", "d", "--out", "o", "--threads", "-1"}, "--threads"},
      {{"evaluate", "--data", "d"}, "--checkpoint is required"},
      {{"evaluate", "--data", "d", "--checkpoint", "c", "--split", "train"}, "train"},
      {{"evaluate", "--data", "d", "--checkpoint", "c", "--protocol", "loose"}, "loose"},
      {{"recommend", "--checkpoint", "c"}, "--history, or --data with --user"},
      {{"recommend", "--checkpoint", "c", "--data", "d"}, "--user"},
      {{"recommend", "--checkpoint", "c", "--history", "1", "--data", "d", "--user", "1"}, "--history"},
      {{"intents", "--data", "d"}, "--checkpoint is required"}};
  for (const auto& wrong : cases) {
    const Finished finished = program.run(wrong.first);
    CAPTURE(wrong.second);
    CAPTURE(finished.err);
    CHECK(finished.code == 2);
    CHECK(contains(finished.err, wrong.second));
  }
}

TEST_CASE("train, evaluate, recommend and intents work together") {
  const Program program;
  write_file(program / "data.txt", histories());
  write_file(program / "log.jsonl", "of an earlier run\n");
  const json trained = program.run_json(train_args({"--log", "log.jsonl"}));
  CHECK(trained["end"] == "epochs_done");
  CHECK(trained["epochs"] == 3);
  CHECK(trained["test"]["HR@20"].is_number());
  CHECK(trained["popularity"]["HR@20"].is_number());

  std::istringstream log(read_file(program / "log.jsonl"));
  int epochs = 0;
  for (std::string line; std::getline(log, line);) {
    const json epoch = json::parse(line);
    CHECK(epoch["epoch"] == ++epochs);
    for (const std::string key : {"loss", "next_item", "sequence_contrast", "cluster", "intent_contrast",
                                  "train_seconds", "users_per_second", "rss_mb"}) {
      CAPTURE(key);
      CHECK(epoch[key].is_number());
    }
    CHECK(epoch["valid"]["NDCG@20"].is_number());
  }
  CHECK(epochs == 3);

  const Args on_test = {"evaluate", "--data", "data.txt", "--checkpoint", "model.safetensors", "--threads", "2"};
  const json test = program.run_json(on_test);
  std::set<std::string> keys;
  for (const auto& [key, value] : test.items()) {
    keys.insert(key);
  }
  CHECK(keys ==
        std::set<std::string>{"users", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "HR@20", "NDCG@20", "MRR", "seconds"});
  CHECK(test["users"] == user_count);
  for (const auto& [key, value] : trained["test"].items()) {
    CHECK(test[key] == value);  // the best weights were saved
  }
  SUBCASE("evaluate: split, protocol and padding") {
    const auto with = [&](Args more) {
      more.insert(more.begin(), on_test.begin(), on_test.end());
      return program.run_json(more);
    };
    CHECK(with({"--split", "valid"})["MRR"] != test["MRR"]);
    CHECK(with({"--protocol", "paper"})["MRR"] != test["MRR"]);
    CHECK(with({"--padding", "paper"})["MRR"].get<double>() == doctest::Approx(test["MRR"].get<double>()));
    const Finished text = program.run(on_test);
    CHECK(text.code == 0);
    CHECK(contains(text.out, "(60 users)"));
  }
  SUBCASE("recommend: by a history or a user") {
    std::istringstream line(read_file(program / "data.txt"));
    std::string history;
    line >> history;  // the user
    std::getline(line, history);
    const Args recommend = {"recommend", "--checkpoint", "model.safetensors", "-k", "7"};
    const auto with = [&](Args more) {
      more.insert(more.begin(), recommend.begin(), recommend.end());
      return program.run_json(more);
    };
    const json by_history = with({"--history", history});
    CHECK(by_history == with({"--data", "data.txt", "--user", "101"}));
    CHECK(by_history["items"].size() == 7);
    double last = std::numeric_limits<double>::infinity();
    for (const auto& item : by_history["items"]) {
      CHECK(item["item"].get<int>() % 10 == 3);
      CHECK(!contains(history + ' ', ' ' + item["item"].dump() + ' '));
      CHECK(item["score"].get<double>() <= last);
      last = item["score"].get<double>();
    }
    CHECK(by_history["distance"].get<double>() <= by_history["next_distance"].get<double>());
    CHECK(by_history["intent"] != by_history["next_intent"]);
    const Finished text = program.run({"recommend", "--checkpoint", "model.safetensors", "--history", history});
    CHECK(text.code == 0);
    CHECK(contains(text.out, by_history["items"][0]["item"].dump()));
    CHECK(contains(text.out, "intent " + by_history["intent"].dump()));
  }
  SUBCASE("intents: every user has one") {
    const json found = program.run_json({"intents", "--checkpoint", "model.safetensors", "--data", "data.txt"});
    CHECK(found["users"] == user_count);
    int users = 0;
    double share = 0;
    for (const auto& intent : found["intents"]) {
      users += intent["users"].get<int>();
      share += intent["share"].get<double>();
      CHECK(!intent["top_items"].empty());
      CHECK(intent["top_items"][0]["item"].get<int>() % 10 == 3);
      const auto nearest = intent["nearest_users"][0]["user"].get<int>();
      const json match = program.run_json(
          {"recommend", "--checkpoint", "model.safetensors", "--data", "data.txt", "--user", std::to_string(nearest)});
      CHECK(match["intent"] == intent["intent"]);
      CHECK(match["distance"].get<double>() == doctest::Approx(intent["nearest_users"][0]["distance"].get<double>()));
    }
    CHECK(users == user_count);
    CHECK(share == doctest::Approx(1.0));
  }
  SUBCASE("a foreign file without metadata and ids") {
    const auto file = el::SafetensorsFile::read(program / "model.safetensors");
    el::SafetensorsWriter writer;
    std::vector<std::vector<float>> values;
    values.reserve(file.names().size());
    for (const auto& name : file.names()) {
      if (name != "item_ids" && !name.starts_with("training.")) {
        values.push_back(file.read<float>(name));
        writer.add<float>(name, file.info(name).shape, values.back());
      }
    }
    writer.write(program / "foreign.safetensors");
    std::istringstream lines(read_file(program / "data.txt"));
    std::ostringstream rows;  // the histories in rows of the item table, which is all that is left
    const auto names = file.read<std::int64_t>("item_ids");
    for (std::string line; std::getline(lines, line);) {
      std::istringstream tokens(line);
      std::int64_t id = 0;
      tokens >> id;
      rows << id;
      while (tokens >> id) {
        rows << ' ' << std::lower_bound(names.begin(), names.end(), id) - names.begin() + 1;
      }
      rows << '\n';
    }
    write_file(program / "rows.txt", rows.str());
    const Args foreign = {"evaluate", "--data", "rows.txt", "--checkpoint", "foreign.safetensors"};
    CHECK(program.run_json(foreign)["MRR"] == test["MRR"]);  // 2 heads by default
    Args four = foreign;
    four.insert(four.end(), {"--heads", "4"});
    CHECK(program.run(four).code == 0);
    const auto items = [&](const std::string& heads) {
      return program.run_json(
          {"recommend", "--checkpoint", "foreign.safetensors", "--history", "1 2 3", "--heads", heads})["items"];
    };
    CHECK(items("2") != items("4"));
    four.back() = "3";
    check_fails(program, four, {"foreign.safetensors", "heads: found 3, expected a divisor of the hidden size 8"});
  }
}

TEST_CASE("--backend eigen: every subcommand gives what it gives on the other backend, but for rounding") {
  const Trained program;
  const json trained = program.run_json(train_args({"--out", "eigen.safetensors", "--backend", "eigen"}));
  CHECK(trained["end"] == "epochs_done");
  const auto on = [&](const std::string& backend, Args args) {
    args.insert(args.end(), {"--checkpoint", "eigen.safetensors", "--backend", backend, "--threads", "2"});
    return program.run_json(args);
  };
  const auto close = [](const json& found, const json& expected) {
    CHECK(found.get<double>() == doctest::Approx(expected.get<double>()).epsilon(1e-3));
  };
  const Args evaluate = {"evaluate", "--data", "data.txt"};
  CHECK(on("eigen", evaluate)["MRR"] == trained["test"]["MRR"]);  // the best weights were saved
  close(on("cpu", evaluate)["MRR"], trained["test"]["MRR"]);
  const Args recommend = {"recommend", "--data", "data.txt", "--user", "101", "-k", "7"};
  const json found = on("eigen", recommend);
  const json expected = on("cpu", recommend);
  CHECK(found["intent"] == expected["intent"]);
  close(found["distance"], expected["distance"]);
  REQUIRE(found["items"].size() == 7);
  for (std::size_t i = 0; i < 7; ++i) {
    close(found["items"][i]["score"], expected["items"][i]["score"]);
  }
  const Args intents = {"intents", "--data", "data.txt"};
  CHECK(on("eigen", intents)["intents"].size() == on("cpu", intents)["intents"].size());
  CHECK(program.run_json({"demo", "--data", "data.txt", "--epochs", "1", "--backend", "eigen"})["users"].is_array());
  CHECK(program.run(train_args({"--backend", "abacus"})).code == 2);
}

namespace {

/// The metadata of model.safetensors, which the program wrote when run with these arguments.
auto metadata_after(const Program& program, const Args& args) {
  const Finished finished = program.run(args);
  CAPTURE(finished.err);
  REQUIRE(finished.code == 0);
  return el::SafetensorsFile::read(program / "model.safetensors").metadata();
}

}  // namespace

TEST_CASE("presets and ablations set options that flags override") {
  const Program program;
  write_file(program / "data.txt", histories());
  const auto metadata = [&](const Args& more) { return metadata_after(program, train_args(more)); };
  auto values =
      metadata({"--epochs", "1", "--preset", "yelp", "--layers", "1", "--ablation", "icl", "--objective", "bpr"});
  CHECK(values["objective.sequence_contrast.prototype"] == "concat");
  CHECK(values["padding"] == "paper");
  CHECK(values["encoder.layers"] == "1");
  CHECK(values["encoder.hidden"] == "8");
  CHECK(values["objective.cluster.weight"] == "0");
  CHECK(values["objective.sequence_contrast.weight"] == "0.1");
  CHECK(values["objective.next_item.loss"] == "bpr");
  values = metadata({"--epochs", "1", "--ablation", "b", "--trade-off", "0.25", "--no-share-views", "--no-k-means",
                     "--schedule", "cosine", "--warmup-steps", "2", "--clip-norm", "1", "--objective", "softmax"});
  CHECK(values["objective.sequence_contrast.weight"] == "0");
  CHECK(values["objective.intent_contrast.weight"] == "0");
  CHECK(values["objective.cluster.weight"] == "0.25");
  CHECK(values["objective.intent_contrast.share_views"] == "false");
  CHECK(values["run.k_means"] == "false");
  CHECK(values["run.schedule"] == "cosine");
}

TEST_CASE("without a preset the best composition is trained, and with an ablation the paper's") {
  const Program program;
  write_file(program / "data.txt", histories());
  const auto metadata = [&](Args more) {
    more.insert(more.begin(),
                {"train", "--data", "data.txt", "--out", "model.safetensors", "--hidden", "8", "--threads", "1"});
    return metadata_after(program, more);
  };
  auto values = metadata({"--epochs", "2", "--intents", "4"});
  CHECK(values["objective.next_item.loss"] == "softmax");
  CHECK(values["objective.next_item.samples"] == "prefixes");
  CHECK(values["encoder.filter_share"] == "0.9");
  CHECK(values["objective.next_item.labels.agreement"] == "0.3");
  CHECK(values["pooling"] == "last");
  CHECK(values["run.schedule"] == "cosine");
  CHECK(values["run.epochs"] == "2");
  CHECK(values["run.weight_decay"] == "0.5");
  CHECK(values["run.k_means_end"] == "true");
  // It goes on as it was, and its intents can be asked for.
  values = metadata_after(program, {"train", "--data", "data.txt", "--out", "model.safetensors", "--resume", "--epochs",
                                    "3", "--threads", "1"});
  CHECK(values["objective.next_item.samples"] == "prefixes");
  CHECK(program.run({"recommend", "--checkpoint", "model.safetensors", "--history", "13", "--json"}).code == 0);
  values = metadata({"--epochs", "1", "--ablation", "elcm", "--intents", "4"});
  CHECK(values["objective.next_item.loss"] == "bce");
  CHECK(values["objective.next_item.samples"] == "positions");
  CHECK(values["objective.cluster.weight"] == "0.1");
  CHECK(values["objective.sequence_contrast.weight"] == "0");
}

TEST_CASE("an interrupted and resumed run ends in the same bytes as an uninterrupted one") {
  const Program program;
  write_file(program / "data.txt", histories());
  const Args common = {"--epochs",   "40",    "--batch-size",    "2",   "--patience", "1000",
                       "--protocol", "paper", "--learning-rate", "0.02"};
  const auto to = [&](const std::string& out, Args more) {
    more.insert(more.end(), common.begin(), common.end());
    more.insert(more.end(), {"--out", out});
    return train_args(more);
  };
  REQUIRE(program.run(to("whole", {"--log", "whole.jsonl"})).code == 0);

  const pid_t child = program.start(to("parts", {"--log", "parts.jsonl"}));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!contains(read_file(program / "parts.jsonl"), "\"epoch\":2") && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(child, SIGINT);
  const Finished interrupted = program.wait(child);
  CAPTURE(interrupted.err);
  CHECK(interrupted.code == 0);
  REQUIRE(contains(interrupted.out, "interrupted after "));
  CHECK(contains(interrupted.out, "elcrec train --data data.txt --out parts --resume"));
  CHECK(read_file(program / "parts") != read_file(program / "whole"));

  // The checkpoint knows the configuration.
  const Finished resumed = program.run(
      {"train", "--data", "data.txt", "--out", "parts", "--resume", "--log", "parts.jsonl", "--threads", "2"});
  CAPTURE(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(contains(resumed.out, "finished after 40 epochs"));
  const bool same_bytes = read_file(program / "parts") == read_file(program / "whole");
  CHECK(same_bytes);
  const auto lines = [&](const char* name) {
    const std::string text = read_file(program / name);
    return std::count(text.begin(), text.end(), '\n');
  };
  CHECK(lines("parts.jsonl") == lines("whole.jsonl"));
}

TEST_CASE("--resume refuses what does not fit") {
  const Trained program;
  const std::string before = read_file(program / "model.safetensors");
  const Args resume = {"train", "--data", "data.txt", "--out", "model.safetensors", "--resume"};
  const auto with = [&](Args more) {
    more.insert(more.begin(), resume.begin(), resume.end());
    return more;
  };
  check_fails(program, with({"--hidden", "16"}), {"model.safetensors was trained with --hidden 8; expected 16"});
  check_fails(program, with({"--preset", "beauty"}), {"was trained with ", "; expected "});
  check_fails(program, with({"--objective", "softmax"}), {"was trained with --objective bce; expected softmax"});
  check_fails(program, with({"--batch-size", "7"}), {"found batch_size = 256, expected 7"});
  check_fails(program, {"train", "--data", "data.txt", "--out", "new.safetensors", "--resume"},
              {"found no checkpoint new.safetensors"});
  CHECK(read_file(program / "model.safetensors") == before);
  const Finished longer = program.run(with({"--epochs", "5"}));
  CHECK(longer.code == 0);
  CHECK(contains(longer.out, "finished after 5 epochs"));
}

TEST_CASE("bad data is refused with its place and what was expected") {
  const Trained program;
  const std::string id_range = "expected a whole number from 1 to 2147483647";
  const std::vector<std::pair<std::string, Args>> cases = {
      {"", {"bad.txt: found no users", "expected lines"}},
      {"\n\n", {"bad.txt: found no users"}},
      {"1 13 23 33 43\n2\n", {"bad.txt:2: found no item of user 2", "expected at least one"}},
      {"1 13 23 33 43\n2 13\n", {"user 2 has 1 item", "expected at least 4"}},
      {"1 13 23 33 43\n2 13 x 33 43\n", {"bad.txt:2: found item id \"x\"", id_range}},
      {"one 13 23 33 43\n", {"bad.txt:1: found user id \"one\"", "expected a whole number from"}},
      {"1 13 0 33 43\n", {"bad.txt:1: found item id \"0\"", id_range}},
      {"1 13 23 -33 43\n", {"bad.txt:1: found item id \"-33\"", id_range}},
      {"1 13 23 33 2147483648\n", {"bad.txt:1: found item id \"2147483648\"", id_range}},
      {"1 13 23 33 99999999999999999999\n", {"bad.txt:1", id_range}},
      {"7 13 23 33\n8 13 23 33 43\n", {"user 7 has 3 items", "expected at least 4"}}};
  for (const auto& bad : cases) {
    CAPTURE(bad.first);
    write_file(program / "bad.txt", bad.first);
    check_fails(program, train_args({"--data", "bad.txt", "--out", "new.safetensors"}), bad.second);
    check_fails(program, {"evaluate", "--data", "bad.txt", "--checkpoint", "model.safetensors"}, bad.second);
    CHECK(!fs::exists(program / "new.safetensors"));
  }
  check_fails(program, train_args({"--data", "none.txt"}), {"none.txt: cannot be opened: No such file"});
  check_fails(program, train_args({"--data", "."}), {".: found a directory"});
  write_file(program / "other.txt", "1 13 23 33 43\n2 13 23 14 43\n");
  for (const std::string name : {"evaluate", "intents"}) {
    check_fails(program, {name, "--data", "other.txt", "--checkpoint", "model.safetensors"},
                {"other.txt:2: found item 14", "known items"});
  }

  SUBCASE("but lines may end in CRLF, and short histories may be dropped") {
    std::string lines = histories();
    for (std::size_t at = 0; (at = lines.find('\n', at)) != std::string::npos; at += 2) {
      lines.insert(at, 1, '\r');
    }
    write_file(program / "crlf.txt", lines + "7 13 23 33\r\n");
    const Args args = {"--data", "crlf.txt", "--out", "crlf.safetensors", "--epochs", "1"};
    check_fails(program, train_args(args), {"user 7 has 3 items"});
    Args drop = args;
    drop.insert(drop.end(), {"--short-histories", "drop"});
    CHECK(program.run(train_args(drop)).code == 0);
  }
}

TEST_CASE("bad checkpoints are refused with the tensor and what was expected") {
  const Trained program;
  const std::string good = read_file(program / "model.safetensors");
  const auto file = el::SafetensorsFile::read(program / "model.safetensors");
  const auto rewrite = [&](const std::string& changed, const ChangeTensor& change) {
    rewrite_model(file, file.metadata(), program / "bad.safetensors", changed, change);
  };
  const auto check = [&](const Args& parts) {
    for (const Args& args : {Args{"evaluate", "--data", "data.txt", "--checkpoint", "bad.safetensors"},
                             Args{"recommend", "--history", "13 23", "--checkpoint", "bad.safetensors"},
                             Args{"intents", "--data", "data.txt", "--checkpoint", "bad.safetensors"}}) {
      check_fails(program, args, parts);
    }
  };
  const auto unchanged = [](auto&, auto&) {};
  rewrite("", unchanged);
  REQUIRE(program.run({"evaluate", "--data", "data.txt", "--checkpoint", "bad.safetensors"}).code == 0);

  write_file(program / "bad.safetensors", good.substr(0, good.size() - 100));
  check({"bad.safetensors", "expected"});
  write_file(program / "bad.safetensors", good.substr(0, 5));
  check({"bad.safetensors", "expected"});
  write_file(program / "bad.safetensors", "");
  check({"bad.safetensors", "expected"});
  std::string long_header = good;
  long_header.replace(0, 8, {'\x00', '\x00', '\x00', '\x01', '\x00', '\x00', '\x00', '\x00'});
  write_file(program / "bad.safetensors", long_header);
  check({"bad.safetensors", "header", "expected"});
  rewrite("cluster_centers", [](auto& shape, auto& values) {
    shape = {3, 8};
    values.resize(24);
  });
  check({"bad.safetensors: tensor 'cluster_centers': found F32 [3, 8], expected shape F32 [4, 8]"});
  rewrite("LayerNorm.weight", [](auto&, auto& values) { values[3] = NAN; });
  check({"bad.safetensors: tensor \"LayerNorm.weight\" element 3 is nan; expected a finite number"});
  rewrite("position_embeddings.weight", [](auto& shape, auto&) { shape.clear(); });
  check({"bad.safetensors", "position_embeddings.weight", "missing"});
  fs::remove(program / "bad.safetensors");
  check({"bad.safetensors"});
}

TEST_CASE("unknown users and items are named") {
  const Trained program;
  const Args recommend = {"recommend", "--checkpoint", "model.safetensors"};
  const auto with = [&](Args more) {
    more.insert(more.begin(), recommend.begin(), recommend.end());
    return more;
  };
  check_fails(program, with({"--data", "data.txt", "--user", "7"}),
              {"--user: found no user 7 in data.txt", "60 users"});
  check_fails(program, with({"--history", "13 14 23"}), {"--history: found item 14", "model.safetensors"});
  check_fails(program, with({"--history", "4000000000"}), {"found item 4000000000"});
  check_fails(program, with({"--history", "13 x"}), {"found \"x\"", "expected item ids"});
  check_fails(program, with({"--history", " "}), {"--history: found no items"});
  check_fails(program, with({"--history", "13", "-k", "0"}), {"k = 0", "expected at least 1"});
}

TEST_CASE("options out of range are refused before training") {
  const Program program;
  write_file(program / "data.txt", histories());
  const std::vector<std::pair<Args, Args>> cases = {
      {{"--intents", "0"}, {"K = 0", "expected at least 1"}},
      {{"--intents", "61"}, {"K = 61 for 60 users"}},
      {{"--heads", "3"}, {"heads: found 3, expected a divisor of the hidden size 8"}},
      {{"--heads", "0"}, {"heads: found 0"}},
      {{"--hidden", "0"}, {"hidden size: found 0"}},
      {{"--max-length", "0"}, {"length: found 0"}},
      {{"--dropout", "1"}, {"dropout: found 1, expected a value in [0, 1)"}},
      {{"--temperature", "0"}, {"temperature: found 0"}},
      {{"--label-smoothing", "1"}, {"label_smoothing: found 1, expected a share in [0, 1)"}},
      {{"--label-agreement", "-0.1"}, {"label_agreement: found -0.1"}},
      {{"--label-smoothing", "0.5", "--label-agreement", "0.5"}, {"found 1 together, expected less than 1"}},
      {{"--weight-decay", "-1"}, {"weight decay: found -1, expected 0 or more"}},
      {{"--mask", "1.5"}, {"mask: found 1.5"}},
      {{"--epochs", "0"}, {"epochs: found 0"}},
      {{"--batch-size", "0"}, {"batch size: found 0"}},
      {{"--intents", "4611686018427387904"}, {"--intents: found 4611686018427387904, expected at most 16777216"}},
      {{"--batch-size", "9223372036854775807"}, {"--batch-size: found 9223372036854775807, expected at most"}},
      {{"--hidden", "4611686018427387904"}, {"--hidden: found 4611686018427387904, expected at most 65536"}},
      {{"--max-length", "9223372036854775807"}, {"--max-length: found"}},
      {{"--layers", "9223372036854775807"}, {"--layers: found"}},
      {{"--heads", "9223372036854775807"}, {"--heads: found"}},
      {{"--epochs", "9223372036854775807"}, {"--epochs: found"}},
      {{"--filter-frequencies", "9223372036854775807"}, {"--filter-frequencies: found"}},
      {{"--warmup-steps", "9223372036854775807"}, {"--warmup-steps: found"}},
      {{"--learning-rate", "0"}, {"learning rate: found 0"}},
      {{"--out", "none/model"}, {"--out none/model: the folder none was not found", "expected"}},
      {{"--out", "."}, {"is not a regular file"}},
      {{"--log", "none/log"}, {"none/log", "expected"}}};
  for (const auto& [more, parts] : cases) {
    check_fails(program, train_args(more), parts);
  }
  CHECK(!fs::exists(program / "model.safetensors"));
}

TEST_CASE("a full disk leaves the old checkpoint") {
  const Program program;
  write_file(program / "data.txt", histories());
  write_file(program / "model.safetensors", "old");
  const Finished finished = program.run(train_args(), 4096);
  CAPTURE(finished.err);
  CHECK(finished.code == 1);
  CHECK(contains(finished.err, "elcrec: model.safetensors: cannot be written: writing: File too large"));
  CHECK(read_file(program / "model.safetensors") == "old");
  for (const auto& entry : fs::directory_iterator(program / "")) {
    CHECK(!contains(entry.path().filename(), ".tmp"));
  }
}

TEST_CASE("a loss that is not finite ends training with exit code 1") {
  const Program program;
  write_file(program / "data.txt", histories());
  check_fails(program, train_args({"--learning-rate", "1e30", "--batch-size", "8"}),
              {"the loss is not finite", "expected finite terms"});
}

TEST_CASE("the demo recommends, and finds the planted intents") {
  const Program program;
#ifdef NDEBUG
  const std::string epochs = "10";
#else
  const std::string epochs = "1";  // the checked builds are slow: keys only
#endif
  for (const std::string seed : {"1", "2", "3"}) {
    const json demo = program.run_json({"demo", "--seed", seed, "--epochs", epochs});
    CAPTURE(demo.dump());
    CHECK(demo["users"].size() == 3);
    CHECK(demo["users"][0]["recommended"].size() == 10);
    CHECK(demo["intents"][0]["top_items"].size() == 5);
#ifdef NDEBUG
    CHECK(demo["nmi"].get<double>() > 0.5);
    CHECK(demo["test"]["HR@10"].get<double>() > 3 * demo["popularity"]["HR@10"].get<double>());
#else
    CHECK(demo["nmi"].is_number());
    break;
#endif
  }
  // The paper's 256 intents would need as many users.
  write_file(program / "Beauty.txt", histories());
  const Finished small = program.run({"demo", "--data", "Beauty.txt", "--epochs", "1"});
  CAPTURE(small.err);
  CHECK(small.code == 0);
  CHECK(contains(small.out, "intents: 60 instead of 256"));
}

// ---- files ----------------------------------------------------------------------------------------------------------

TEST_CASE("what would overwrite an input is refused before anything is written") {
  const Program program;
  const std::string data = histories();
  write_file(program / "data.txt", data);
  fs::create_directory(program / "folder");
  fs::create_symlink("data.txt", program / "link");
  fs::create_symlink("../link", program / "folder" / "link of a link");
  fs::create_hard_link(program / "data.txt", program / "hard");
  fs::create_symlink("model.safetensors", program / "model link");  // to what is not there yet
  for (const std::string& same :
       {std::string("data.txt"), std::string("folder/../data.txt"), std::string("link"),
        std::string("folder/link of a link"), std::string("hard"), (program / "data.txt").string()}) {
    check_fails(program, train_args({"--out", same}), {"--out " + same, "is the file of --data data.txt"});
    check_fails(program, train_args({"--log", same}), {"--log " + same, "is the file of --data data.txt"});
    check_fails(program, train_args({"--data", same, "--log", "data.txt"}), {"is the file of --data " + same});
  }
  for (const std::string& same :
       {std::string("model.safetensors"), std::string("folder/../model.safetensors"), std::string("model link")}) {
    check_fails(program, train_args({"--log", same}), {"--log " + same, "is the file of --out model.safetensors"});
  }
  CHECK(read_file(program / "data.txt") == data);
  CHECK(fs::is_symlink(program / "link"));
  CHECK(!fs::exists(program / "model.safetensors"));
}

TEST_CASE("files that cannot be written are noticed before training") {
  const Program program;
  write_file(program / "data.txt", histories());
  const auto check = [&](const Args& more, const Args& parts) {
    const Finished finished = program.run(train_args(more));
    CAPTURE(finished.err);
    CHECK(finished.code == 1);
    CHECK(finished.out.empty());  // nothing was trained
    for (const auto& part : parts) {
      CAPTURE(part);
      CHECK(contains(finished.err, part));
    }
  };
  // Not even root can make a file there, though its permissions say so.
  check({"--out", "/proc/model"}, {"--out /proc/model: cannot be written: creating a file beside it: ", "expected"});
  check({"--log", "/proc/log"}, {"--log /proc/log: cannot be written: creating a file beside it: ", "expected"});
  check({"--log", "."}, {"--log .: is a folder"});
  check({"--out", std::string(255, 'm')}, {"cannot be written"});
  for (const auto& entry : fs::directory_iterator(program / "")) {
    CHECK(!contains(entry.path().filename(), ".tmp"));
  }
}

TEST_CASE("a log goes on after a line that was cut") {
  const Trained program;
  write_file(program / "log.jsonl", R"({"epoch":3})"
                                    "\n"
                                    R"({"epo)");
  const Finished resumed = program.run(
      {"train", "--data", "data.txt", "--out", "model.safetensors", "--resume", "--epochs", "4", "--log", "log.jsonl"});
  CAPTURE(resumed.err);
  REQUIRE(resumed.code == 0);
  CHECK(read_file(program / "log.jsonl")
            .starts_with(R"({"epoch":3})"
                         "\n"
                         R"({"epo)"
                         "\n"
                         R"({"epoch":4,)"));
}

// ---- small data -----------------------------------------------------------------------------------------------------

TEST_CASE("long histories are trained on in the memory that is given") {
  const Program program;
  std::string lines;
  for (int user = 1; user <= 30; ++user) {
    lines += std::to_string(user);
    for (int i = 0; i < 120; ++i) {
      lines += ' ' + std::to_string((user * 7 + i * (1 + user % 5)) % 211 + 1);
    }
    lines += '\n';
  }
  write_file(program / "long.txt", lines);
  const Args train = {"train",    "--data", "long.txt",         "--out", "x",         "--epochs", "1",
                      "--hidden", "8",      "--no-k-means-end", "--log", "log.jsonl", "--memory"};
  const auto with = [&](const char* megabytes) {
    Args all = train;
    all.emplace_back(megabytes);
    return all;
  };
  REQUIRE(program.run(with("16")).code == 0);
  const auto epoch = nlohmann::json::parse(read_file(program / "log.jsonl"));
  CHECK(epoch.at("rss_mb") < 300);  // 36 here, 514 in a gigabyte; 150 and 571 under AddressSanitizer
  check_fails(program, with("0"), {"memory: found 0 MB, expected at least 1"});
}

TEST_CASE("a first try on a few users works") {
  const Program program;
  for (const int users : {1, 3, 10}) {
    CAPTURE(users);
    std::string lines;
    for (int user = 1; user <= users; ++user) {
      lines += std::to_string(user);
      for (int i = 0; i < 4; ++i) {
        lines += ' ' + std::to_string((user + i) % 7 + 1);
      }
      lines += '\n';
    }
    write_file(program / "tiny.txt", lines);
    const Finished finished = program.run({"train", "--data", "tiny.txt", "--out", "x", "--epochs", "1"});
    CAPTURE(finished.err);
    CHECK(finished.code == 0);
    CHECK(contains(finished.out, "intents: " + std::to_string(users) + " instead of 256"));
    CHECK(program.run({"intents", "--checkpoint", "x", "--data", "tiny.txt"}).code == 0);
  }
  // Without k-means nothing needs as many users.
  CHECK(program.run({"train", "--data", "tiny.txt", "--out", "x", "--epochs", "1", "--no-k-means-end"}).code == 0);
  CHECK(el::SafetensorsFile::read(program / "x").metadata().at("clusters.count") == "256");
}

TEST_CASE("a user who owns every item stops no training that draws no negatives") {
  const Program program;
  write_file(program / "all.txt", "1 1 2 3 4 5\n2 1 2 3 4\n3 2 3 4 5\n");
  const Args train = {"train", "--data", "all.txt", "--out", "x", "--epochs", "1", "--hidden", "8"};
  const auto with = [&](Args more) {
    more.insert(more.begin(), train.begin(), train.end());
    return more;
  };
  for (const Args& more : {Args{}, Args{"--preset", "elcrec", "--objective", "softmax"}}) {
    const Finished finished = program.run(with(more));
    CAPTURE(finished.err);
    CHECK(finished.code == 0);
  }
  fs::remove(program / "x");
  for (const std::string objective : {"bce", "bpr"}) {
    check_fails(program, with({"--preset", "elcrec", "--objective", objective}),
                {"negative sampler: user 1 owns all 5 items; expected at least one to draw"});
    check_fails(program, with({"--objective", objective, "--label-agreement", "0"}), {"user 1 owns all 5 items"});
  }
  CHECK(!fs::exists(program / "x"));
}

TEST_CASE("lines of one item are dropped, and served from") {
  const Program program;
  const std::string mark = "\xEF\xBB\xBF";
  write_file(program / "data.txt", mark + histories() + "9223372036854775807 13\n-5 23 33\n");
  check_fails(program, train_args(), {"user 9223372036854775807 has 1 item; expected at least 4"});
  const Finished trained = program.run(train_args({"--short-histories", "drop"}));
  CAPTURE(trained.err);
  REQUIRE(trained.code == 0);
  CHECK(contains(trained.out, "60 users"));
  const Args model = {"--checkpoint", "model.safetensors", "--data", "data.txt"};
  const auto with = [&](Args args, const Args& more) {
    args.insert(args.end(), model.begin(), model.end());
    args.insert(args.end(), more.begin(), more.end());
    return program.run_json(args);
  };
  CHECK(with({"evaluate"}, {"--short-histories", "drop"})["users"] == user_count);
  CHECK(with({"recommend"}, {"--user", "9223372036854775807"}) ==
        program.run_json({"recommend", "--checkpoint", "model.safetensors", "--history", "13"}));
  CHECK(with({"recommend"}, {"--user=-5"}) ==
        program.run_json({"recommend", "--checkpoint", "model.safetensors", "--history", "23 33"}));
  CHECK(with({"intents"}, {})["users"] == user_count + 2);
}

// ---- manners --------------------------------------------------------------------------------------------------------

TEST_CASE("what comes from outside reaches the terminal as text") {
  const Trained program;
  const std::string evil = "\x1B[2K\rforged\n";
  const std::string shown = "\\x1B[2K\\x0Dforged\\x0A";
  check_fails(program, train_args({"--out", evil + "/x"}), {"--out " + shown});
  check_fails(program, train_args({"--data", evil}), {shown + ": cannot be opened"});
  check_fails(program, {"recommend", "--checkpoint", evil, "--history", "13"}, {shown});
  check_fails(program, {"recommend", "--checkpoint", "model.safetensors", "--history", evil}, {"found \"\\x1B[2K"});
  for (const Args& args : {Args{"train", "--data", "d", "--out", "o", "--preset", evil},
                           Args{"train", "--data", "d", "--out", "o", "--heads", evil},
                           Args{"train", "--data", "d", "--out", "o", "--padding", evil}}) {
    const Finished finished = program.run(args);
    CAPTURE(finished.err);
    CHECK(finished.code == 2);
    CHECK(contains(finished.err, shown));
    CHECK(!contains(finished.err, "\x1B"));
    CHECK(!contains(finished.err, "\nforged"));
  }
  // A line of 2 MB is not printed whole, nor is a path that the system would not take either.
  CHECK(program.run(train_args({"--data", std::string(100'000, 'x')})).err.size() < 1100);
  write_file(program / "long.txt", "1 13 " + std::string(2'000'000, 'x') + '\n');
  CHECK(program.run(train_args({"--data", "long.txt"})).err.size() < 200);

  // Where nothing fails.
  const Finished trained = program.run(train_args({"--out", evil}));
  CHECK(trained.code == 0);
  CHECK(contains(trained.out, "saved " + shown));
  CHECK(!contains(trained.out, "\x1B"));
  const json object = program.run_json(train_args({"--out", "Latin-1 \xE9"}));
  CHECK(object["checkpoint"].get<std::string>().starts_with("Latin-1 "));
}

TEST_CASE("metadata reaches the terminal as text") {
  const Trained program;
  const auto file = el::SafetensorsFile::read(program / "model.safetensors");
  const auto check = [&](const std::string& key, const std::string& value, const std::string& part) {
    auto metadata = file.metadata();
    metadata[key] = value;
    rewrite_model(file, metadata, program / "bad.safetensors");
    CAPTURE(key);
    check_fails(program, {"recommend", "--checkpoint", "bad.safetensors", "--history", "13"}, {part});
    CHECK(program.run({"recommend", "--checkpoint", "bad.safetensors", "--history", "13"}).err.size() < 200);
  };
  check("encoder.heads", "\x1B[2Kforged\n", "encoder.heads: found '\\x1B[2Kforged\\x0A'");
  check("padding", std::string(2'000'000, 'p'), "padding: found 'pppp");
}

TEST_CASE("names of tensors reach the terminal as text") {
  const Program program;
  const auto check = [&](const std::string& header, const std::string& part) {
    std::string file(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
      file[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
    }
    write_file(program / "bad.safetensors", file + header);
    check_fails(program, {"recommend", "--checkpoint", "bad.safetensors", "--history", "13"}, {part});
    CHECK(program.run({"recommend", "--checkpoint", "bad.safetensors", "--history", "13"}).err.size() < 400);
  };
  const std::string evil = R"(\u001b[2K\nforged)";
  const std::string shown = R"(\x1B[2K\x0Aforged)";
  const std::string two_mb(2'000'000, 'n');
  check("{\"" + evil + "\": 1}", "tensor \"" + shown + "\" is of type number");
  check("{\"" + two_mb + "\": 1}", "tensor \"nnn");
  check("{\"" + two_mb + "\" 1}", "header is not valid JSON");
  check("{\"__metadata__\": {\"" + evil + "\": 1}}", "__metadata__ \"" + shown + "\" is of type number");
  check(R"({"a": {"dtype": ")" + evil + R"(", "shape": [], "data_offsets": [0, 0]}})", "unknown dtype \"" + shown);
  std::string ones = "1";
  for (int i = 1; i < 60; ++i) {
    ones += ",1";
  }
  check(R"({"a": {"dtype": "F32", "shape": [)" + ones + R"(], "data_offsets": [0, 0]}})",
        "bytes for F32 [1, 1, 1, 1, 1, 1, 1, 1, ...]");
}

TEST_CASE("a signal during the k-means start is heard within a second") {
  const Program program;
  std::ostringstream lines;
  el::write_sequences(el::make_synthetic({.users = 6000, .items = 200, .mean_length = 6.0}).data, lines);
  write_file(program / "data.txt", lines.str());
  const pid_t child = program.start(train_args({"--intents", "3000", "--hidden", "64"}));
  const auto until = [&](const std::string& part) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (!contains(read_file(program / "stdout"), part) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  };
  until("k-means: 6000 users around 3000 centers, 105 passes\n");
  until("k-means: pass ");
  const auto sent = std::chrono::steady_clock::now();
  ::kill(child, SIGTERM);
  const Finished finished = program.wait(child);
  const std::chrono::duration<double> heard_after = std::chrono::steady_clock::now() - sent;
  CAPTURE(finished.err);
  CHECK(finished.code == 0);
  CHECK(heard_after.count() < 1.0);
  CHECK(contains(finished.out, "interrupted after 0 whole epochs; saved model.safetensors"));
}

TEST_CASE("whichever allocation fails, a command ends with exit code 0 or 1 and says what is the matter") {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(__clang__)
  MESSAGE("skipped: the library that fails allocations cannot be preloaded before a sanitizer's");
#else
  const Trained program;
  const auto run_failing = [&](const Args& args, long n) {
    ::setenv("LD_PRELOAD", el::test::failing_allocation, 1);
    ::setenv("ELCREC_FAILS", std::to_string(n).c_str(), 1);
    const Finished finished = program.run(args);
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("ELCREC_FAILS");
    return finished;
  };
  const std::vector<Args> commands{
      train_args({"--epochs", "1", "--json", "--log", "log.jsonl"}),
      {"evaluate", "--data", "data.txt", "--checkpoint", "model.safetensors", "--threads", "1", "--json"},
      {"recommend", "--checkpoint", "model.safetensors", "--history", "13 23", "--threads", "1", "--json"},
      {"intents", "--checkpoint", "model.safetensors", "--data", "data.txt", "--threads", "1", "--json"}};
  for (const Args& args : commands) {
    CAPTURE(args.front());
    int failures = 0;
    // The first ones make the command line's parser; from there on about as many again as were there before.
    for (long n = 0; n < 200'000; n += 1 + n / 12) {
      CAPTURE(n);
      const Finished finished = run_failing(args, n);
      CAPTURE(finished.err);
      CHECK((finished.code == 0 || finished.code == 1));
      CHECK((finished.code == 0 || !finished.err.empty()));
      failures += finished.code;
    }
    CHECK(failures > 20);
  }
#endif
}
