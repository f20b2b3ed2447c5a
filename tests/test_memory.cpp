// Memory that runs out: whichever allocation of a job fails, the job ends with an exception that says so, and the same
// job then succeeds. A process that ends in abort (an exception out of a destructor or a noexcept function) fails the
// test.
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <new>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <unistd.h>

#include "elcrec/elcrec.hpp"
#include "failing_new.hpp"
#include "support.hpp"

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;

namespace {

/// Allocations that still succeed before one fails; negative for all of them.
thread_local long left = -1;
/// No allocation may be larger.
std::atomic<std::size_t> largest{std::numeric_limits<std::size_t>::max()};

/// Runs the job with its first, second, ... allocation failing until it needs no more; returns how many there were.
template <class Job>
long fail_each_allocation_of(Job job) {
  for (long n = 0;; ++n) {
    CAPTURE(n);
    left = n;
    bool failed = false;
    try {
      job();
    } catch (const std::bad_alloc&) {
      failed = true;
    } catch (const el::Error&) {
      failed = true;
    }
    if (std::exchange(left, -1) >= 0) {  // it came to its end without the n-th
      CHECK_FALSE(failed);
      return n;
    }
    REQUIRE(n < 100000);
  }
}

struct Fixture {
  fs::path folder = fs::temp_directory_path() / ("elcrec_test_memory_" + std::to_string(::getpid()));
  el::LeaveOneOut split =
      el::leave_one_out(el::make_synthetic({.users = 12, .items = 30, .intents = 2, .mean_length = 6}).data);
  el::ELCRecOptions options{
      .items = split.item_count(), .max_length = 6, .hidden = 8, .layers = 1, .heads = 1, .intents = 2};
  el::Cpu one_thread{el::CpuOptions{.threads = 1, .slices = 2}};

  Fixture() { fs::create_directories(folder); }
  ~Fixture() { fs::remove_all(folder); }
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;
};

}  // namespace

bool el::test::allocation_fails(std::size_t bytes) {
  if (left == 0 || bytes > largest) {
    left = -1;
    return true;
  }
  left -= left > 0 ? 1 : 0;
  return false;
}

TEST_CASE_FIXTURE(Fixture, "reading a file of histories") {
  std::string text = "1 2 3 4 5\n2 3 4 5 6\n7 8 2 3 9\n";
  CHECK(fail_each_allocation_of([&] {
          std::istringstream in(text);
          static_cast<void>(el::leave_one_out(el::read_sequences(in, "histories")));
        }) > 5);
}

TEST_CASE_FIXTURE(Fixture, "making, saving and loading a model") {
  const auto path = folder / "model.safetensors";
  const el::ELCRec<el::Cpu> model(options, one_thread);
  CHECK(fail_each_allocation_of([&] { el::ELCRec<el::Cpu>{options, one_thread}; }) > 20);
  CHECK(fail_each_allocation_of([&] { el::save_model(path, model, el::ItemMap::identity(options.items)); }) > 20);
  CHECK(fail_each_allocation_of([&] { static_cast<void>(el::load_elcrec<el::Cpu>(path, one_thread)); }) > 50);
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 1);  // no temporary stays
}

TEST_CASE_FIXTURE(Fixture, "training, saving, resuming and logging") {
  const auto path = folder / "run.safetensors";
  const auto train = [&](bool resume, Index epochs) {
    el::ELCRec<el::Cpu> model(options, one_thread);
    el::TrainerOptions run;  // not one initialiser: GCC 12 destroys its members twice if one of them throws
    run.epochs = epochs;
    run.batch_size = 8;
    run.checkpoint = path;
    el::Trainer trainer(model, el::Adam{}, run, el::KMeansStart({.iterations = 2, .restarts = 1}));
    if (resume) {
      trainer.resume(path);
    }
    el::RunLog log(folder / "run.jsonl");
    std::ostringstream progress;
    trainer.fit(split, el::console_progress(progress), log);
  };
  CHECK(fail_each_allocation_of([&] { train(false, 1); }) > 100);
  CHECK(fail_each_allocation_of([&] { train(true, 2); }) > 100);
}

TEST_CASE_FIXTURE(Fixture, "evaluating and recommending") {
  const el::ELCRec<el::Cpu> model(options, one_thread);
  CHECK(fail_each_allocation_of([&] { static_cast<void>(el::evaluate(model, split, el::Split::test)); }) > 5);
  const auto history = split.items(0);
  const std::vector<std::span<const el::ItemId>> histories{split.items(0), split.items(1)};
  std::size_t served = 0;
  CHECK(fail_each_allocation_of([&] {
          const el::Recommender recommender(model);
          el::Recommender<el::ELCRec<el::Cpu>>::Scratch scratch;
          served = recommender.recommend(history, 5, scratch).size();
          static_cast<void>(recommender.intent(history, scratch));
          el::Recommender<el::ELCRec<el::Cpu>>::BatchScratch batch;
          recommender.recommend_batch(histories, 5, batch);
        }) > 10);
  CHECK(served == 5);
}

TEST_CASE_FIXTURE(Fixture, "a lack of memory is named: what for, how large, and what lowers it") {
  const auto said = [](std::size_t limit, auto job) {
    largest = limit;
    std::string what;
    try {
      job();
    } catch (const el::MemoryError& error) {
      what = error.what();
    }
    largest = std::numeric_limits<std::size_t>::max();
    return what;
  };
  auto large = options;
  large.intents = 100'000'000;
  CHECK(said(std::size_t{1} << 30, [&] { el::ELCRec<el::Cpu>(large, one_thread); }) ==
        "memory: found no room for cluster centers, 100000000 x 8 (3200 MB in one piece); a smaller `intents` takes "
        "less");
  large = options;
  large.items = 1'000'000'000;
  CHECK(said(std::size_t{1} << 30, [&] {
          el::ELCRec<el::Cpu>(large, one_thread);
        }).starts_with("memory: found no room for the item table, 1000000002 x 8 (32000 MB in one piece); "));
  el::ELCRec<el::Cpu> model(options, one_thread);
  CHECK(said(1000, [&] {
          el::Trainer(model, el::Adam{});
        }).starts_with("memory: found no room for gradients and the optimizer's state"));
  el::Trainer trainer(model, el::Adam{}, {.epochs = 1}, el::NoStages());
  CHECK(said(1000, [&] { trainer.fit(split); }).find("for a training step of 12 users") != std::string::npos);
  CHECK(said(1000, [&] { trainer.fit(split); }).find("a smaller `batch_size`") != std::string::npos);
}
