// What surrounds a training run: signals, stopping within k-means, progress.
#include <atomic>
#include <clocale>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/cluster/k_means.hpp"
#include "elcrec/cluster/k_means_stages.hpp"
#include "elcrec/data/synthetic.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/train/run_log.hpp"
#include "elcrec/train/stop_signal.hpp"
#include "elcrec/train/trainer.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;

namespace {

using Model = el::ELCRec<el::Cpu>;

/// Every parameter, one after the other.
std::vector<float> weights(Model& model) {
  std::vector<float> all;
  for (const auto& p : el::parameters(model)) {
    all.insert(all.end(), p.values.data(), p.values.data() + p.values.size());
  }
  return all;
}

el::ELCRecOptions small_model(Index items) {
  return {.items = items, .max_length = 6, .hidden = 8, .intents = 5, .seed = 3};
}

}  // namespace

TEST_CASE("a signal that is ignored stays ignored, and others get their handlers back") {
  std::signal(SIGTERM, SIG_IGN);
  std::signal(SIGINT, SIG_DFL);
  {
    const el::StopSignal stop;
    std::raise(SIGTERM);
    CHECK(!stop.requested());
    std::raise(SIGINT);
    CHECK(stop.requested());
    CHECK((std::signal(SIGINT, SIG_DFL) == SIG_DFL));  // the second has its usual effect
  }
  CHECK((std::signal(SIGTERM, SIG_DFL) == SIG_IGN));
  CHECK((std::signal(SIGINT, SIG_DFL) == SIG_DFL));
}

TEST_CASE("k-means tells its passes, and leaves the centers alone when it is stopped") {
  const el::Cpu backend({.threads = 2});
  const auto points = el::test::random_matrix(backend, 1, 2000, 4);
  auto centers = el::test::random_matrix(backend, 2, 7, 4);
  const auto before = el::test::to_host(backend, centers.view());
  std::atomic<bool> stop{false};
  std::vector<Index> told;
  el::KMeansOptions options{.iterations = 4, .restarts = 3, .stop = &stop};
  Index last = 15;
  options.progress = [&](const el::KMeansReport& report) {
    CHECK(report.points == 2000);
    CHECK(report.centers == 7);
    CHECK(report.passes == 15);
    told.push_back(report.pass);
    stop = report.pass == last;
  };
  const auto find = [&] {
    stop = false;
    told.clear();
    return el::k_means<el::Cpu>(backend, std::as_const(points).view(), options, centers.view());
  };
  last = 8;  // in the second start
  CHECK(std::isinf(find()));
  CHECK(told == std::vector<Index>{0, 1, 2, 3, 4, 5, 6, 7, 8});
  CHECK(el::test::to_host(backend, centers.view()) == before);
  last = -1;
  CHECK(std::isfinite(find()));
  CHECK(told.size() == 16);
  CHECK(el::test::to_host(backend, centers.view()) != before);
}

TEST_CASE("a run stopped within k-means goes on to the bits of an uninterrupted one") {
  const auto split =
      el::leave_one_out(el::make_synthetic({.users = 80, .items = 40, .intents = 4, .mean_length = 8.0}).data);
  const fs::path checkpoint = fs::temp_directory_path() / ("elcrec_test_run." + std::to_string(::getpid()));
  for (const bool at_start : {true, false}) {
    CAPTURE(at_start);
    std::atomic<bool> stop{false};
    el::TrainerOptions options{.epochs = 2, .batch_size = 32, .seed = 5, .checkpoint = checkpoint, .stop = &stop};
    Model whole(small_model(split.item_count()));
    el::KMeansOptions k_means{.iterations = 3, .restarts = 2};
    const auto trainer_of = [&](Model& model) {
      return std::make_unique<el::Trainer<Model, el::Adam>>(
          model, el::Adam{}, options, at_start ? std::optional<el::KMeansStart>(k_means) : std::nullopt,
          at_start ? std::nullopt : std::optional<el::KMeansEnd>(k_means));
    };
    CHECK(trainer_of(whole)->fit(split).end == el::FitResult::End::epochs_done);

    Model parts(small_model(split.item_count()));
    k_means.progress = [&](const el::KMeansReport& report) { stop = stop || report.pass == 6; };
    const auto interrupted = trainer_of(parts)->fit(split);
    CHECK(interrupted.end == el::FitResult::End::interrupted);
    CHECK(interrupted.epochs == (at_start ? 0 : 2));
    CHECK(weights(parts) != weights(whole));

    stop = false;
    k_means.progress = {};
    Model resumed(small_model(split.item_count()));
    const auto trainer = trainer_of(resumed);
    trainer->resume(checkpoint);
    CHECK(trainer->fit(split).end == el::FitResult::End::epochs_done);
    CHECK(weights(resumed) == weights(whole));
  }
  fs::remove(checkpoint);
}

TEST_CASE("more centers than users are refused only where k-means is to find them") {
  const auto split =
      el::leave_one_out(el::make_synthetic({.users = 4, .items = 40, .intents = 2, .mean_length = 8.0}).data);
  Model model(small_model(split.item_count()));  // 5 intents
  const auto fit = [&](auto... stages) {
    return el::test::error_of([&] { el::Trainer(model, el::Adam{}, {.epochs = 1}, stages...).fit(split); });
  };
  CHECK(fit(el::NoStages()) == "no error");
  const std::string refused = "intents: found K = 5 for 4 users, expected at most one for each user";
  CHECK(fit() == refused);
  CHECK(fit(el::KMeansStart()) == refused);
  CHECK(fit(el::KMeansEnd()) == refused);
  CHECK(fit(el::KMeansEveryEpoch()) == refused);
}

TEST_CASE("progress has decimal points in any locale") {
  const fs::path folder = fs::temp_directory_path() / ("elcrec_test_locale." + std::to_string(::getpid()));
  const std::string before = std::setlocale(LC_ALL, nullptr);
  if (std::setlocale(LC_ALL, "de_DE.UTF-8") == nullptr) {
    fs::create_directory(folder);
    const std::string make = "localedef -i de_DE -f UTF-8 '" + (folder / "de_DE.UTF-8").string() + "' >/dev/null 2>&1";
    const bool made = std::system(make.c_str()) == 0;
    ::setenv("LOCPATH", folder.c_str(), 1);
    if (!made || std::setlocale(LC_ALL, "de_DE.UTF-8") == nullptr) {
      fs::remove_all(folder);
      MESSAGE("skipped: there is no locale de_DE.UTF-8, nor can localedef make it");
      return;
    }
  }
  REQUIRE(std::string(std::localeconv()->decimal_point) == ",");
  std::ostringstream out;
  el::EpochReport report;
  report.epoch = 2;
  report.epochs = 1000;
  report.valid.add(0);
  report.valid.add(2);
  report.losses = {1.25, {{"next_item", 0.5}}};
  report.users_per_second = 1234567.8;
  report.seconds_left = 2.25;
  report.best = true;
  el::console_progress(out)(report);
  std::setlocale(LC_ALL, before.c_str());
  fs::remove_all(folder);
  CHECK(out.str() ==
        "epoch   2/1000  loss 1.2500  next_item 0.5000  1234568 users/s  2.2 s left  valid HR@20 1.0000 NDCG@20 "
        "0.7500  *\n");
}
