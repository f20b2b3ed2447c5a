// The threads of the CPU backend: whose turn it is, how many there are, when they start, and what happens where they
// cannot.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include <doctest/doctest.h>

#include "elcrec/elcrec.hpp"
#include "support.hpp"

#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(thread_sanitizer) || \
    HAS_FEATURE(address_sanitizer)
constexpr bool sanitized = true;  // a sanitizer needs terabytes of addresses, and no threads in a fork's child
#else
constexpr bool sanitized = false;
#endif

namespace el = elcrec;
namespace fs = std::filesystem;
using el::Index;
using el::test::error_of;

namespace {

/// Sum of 0 ... n - 1 by a parallel region; fails where two tasks have one lane at a time.
Index sum_below(const el::Cpu& cpu, Index n) {
  std::atomic<Index> sum{0};
  cpu.parallel_for(n, [&](el::Cpu::Lane& lane, Index i) {
    const auto frame = lane.workspace().frame();
    const auto numbers = lane.workspace().array<Index>(64);
    std::fill(numbers.begin(), numbers.end(), i);
    std::this_thread::yield();
    sum += std::count(numbers.begin(), numbers.end(), i) == 64 ? i : Index{1} << 40;
  });
  return sum;
}

/// Threads of this process; 0 where the system does not tell. It lists a thread for a moment after it was joined.
Index running_threads() {
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const fs::path tasks = "/proc/self/task";
  return fs::exists(tasks) ? std::distance(fs::directory_iterator(tasks), fs::directory_iterator()) : 0;
}

/// What f returns in a fork's child; 100 where the child does not end by itself.
template <class F>
int in_child(F f) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(20);
    _exit(f());
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("elcrec_threads_" + std::to_string(getpid()));
  ~Folder() { fs::remove_all(path); }
  void write(const fs::path& name, const std::string& text) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name) << text;
  }
};

}  // namespace

TEST_CASE("regions of one pool take turns") {
  const el::Cpu cpu({.threads = 3});
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&wrong, copy = cpu] {
      for (Index round = 0; round < 100; ++round) {
        wrong += sum_below(copy, round % 7) != (round % 7) * (round % 7 - 1) / 2;
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("a region inside a task runs on the task's thread") {
  for (const Index threads : {1, 3}) {
    const el::Cpu cpu({.threads = threads});
    const el::Cpu other({.threads = 2});
    std::atomic<int> wrong{0};
    cpu.parallel_for(8, [&](el::Cpu::Lane& lane, Index) {
      const auto frame = lane.workspace().frame();
      const auto kept = lane.workspace().array<Index>(64);
      std::fill(kept.begin(), kept.end(), 5);
      wrong += sum_below(cpu, 20) != 190;
      other.parallel_for(2, [&](el::Cpu::Lane&, Index) { wrong += sum_below(cpu, 20) != 190; });
      wrong += std::count(kept.begin(), kept.end(), 5) != 64;
    });
    CHECK(wrong == 0);
    CHECK(error_of([&] {
            cpu.parallel_for(
                4, [&](el::Cpu::Lane&, Index) { cpu.parallel_for(2, [](auto&, Index) { throw el::Error("inner"); }); });
          }) == "inner");
    CHECK(sum_below(cpu, 20) == 190);
  }
}

TEST_CASE("a task's exception ends the loop: what has not begun is left out") {
  const el::Cpu cpu({.threads = 2});
  std::atomic<bool> thrown{false};
  std::atomic<int> finished{0};
  CHECK(error_of([&] {
          cpu.parallel_for(2000, [&](auto&, Index i) {
            if (i == 0) {
              thrown = true;
              throw el::Error("task 0");
            }
            while (!thrown) {
              std::this_thread::yield();
            }
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            ++finished;
          });
        }) == "task 0");
  CHECK(finished < 1999);
}

TEST_CASE("two pools whose tasks use each other do not wait for each other") {
  const el::Cpu a({.threads = 2});
  const el::Cpu b({.threads = 2});
  std::atomic<int> wrong{0};
  const auto nest = [&wrong](const el::Cpu& outer, const el::Cpu& inner) {
    for (int round = 0; round < 50; ++round) {
      outer.parallel_for(4, [&](el::Cpu::Lane&, Index) { wrong += sum_below(inner, 20) != 190; });
    }
  };
  std::thread other([&] { nest(b, a); });
  nest(a, b);
  other.join();
  CHECK(wrong == 0);
}

namespace {

struct Fixture {
  el::LeaveOneOut split =
      el::leave_one_out(el::make_synthetic({.users = 300, .items = 90, .intents = 4, .mean_length = 10}).data);
  el::ELCRec<el::Cpu> model = [this] {
    el::ELCRecOptions o;
    o.items = split.item_count();
    o.max_length = 8;
    o.hidden = 16;
    o.intents = 5;
    return el::ELCRec<el::Cpu>(o, el::Cpu({.threads = 3}));
  }();
  el::Recommender<el::ELCRec<el::Cpu>> recommender{model};
  std::vector<std::span<const el::ItemId>> histories = [this] {
    std::vector<std::span<const el::ItemId>> all;
    for (Index user = 0; user < split.user_count(); ++user) {
      all.push_back(split.items(user));
    }
    return all;
  }();

  std::vector<el::ItemId> answers(Index k) const {
    el::Recommender<el::ELCRec<el::Cpu>>::BatchScratch scratch;
    recommender.recommend_batch(histories, k, scratch);
    std::vector<el::ItemId> items;
    for (Index user = 0; user < split.user_count(); ++user) {
      for (const auto& found : scratch.of(user)) {
        items.push_back(found.item);
      }
    }
    return items;
  }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "one recommender answers batches from several threads") {
  const auto expected = answers(10);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        wrong += answers(10) != expected;
      }
    });
  }
  for (auto& caller : callers) {
    caller.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE_FIXTURE(Fixture, "threads start with the first region that has work for several") {
  const Index before = running_threads();
  if (before == 0) {
    MESSAGE("skipped: no /proc/self/task here");
    return;
  }
  const Folder folder;
  fs::create_directories(folder.path);
  el::save_model(folder.path / "model.safetensors", model, el::ItemMap::identity(model.item_count()));
  const auto loaded = el::load_elcrec<el::Cpu>(folder.path / "model.safetensors", el::Cpu({.threads = 3}));
  const el::Recommender serving(loaded.model);
  auto scratch = serving.make_scratch();
  CHECK(serving.recommend(histories[0], 10, scratch).size() == 10);
  CHECK(running_threads() == before);
  decltype(serving)::BatchScratch batch;
  serving.recommend_batch(histories, 10, batch);
  CHECK(running_threads() == before + 2);
}

TEST_CASE("more threads than can be started are an error") {
  CHECK(error_of([] { el::Cpu({.threads = 100000}); }) == "threads: found 100000, expected 0 (all) to 4096");
  if (sanitized) {
    MESSAGE("skipped under a sanitizer: threads that do not fit the memory");
    return;
  }
  // 200 stacks of 8 MB, of which 512 MB have room for some
  const int result = in_child([] {
    const rlimit stack{8 << 20, 8 << 20};
    const rlimit memory{512 << 20, 512 << 20};
    if (setrlimit(RLIMIT_STACK, &stack) != 0 || setrlimit(RLIMIT_AS, &memory) != 0) {
      return 1;
    }
    const el::Cpu cpu({.threads = 200});
    for (int time = 0; time < 2; ++time) {
      const std::string said = error_of([&] { sum_below(cpu, 20); });
      if (said.rfind("threads: found room for ", 0) != 0 || said.find("200; a smaller `threads`") == said.npos) {
        return 2;
      }
    }
    return running_threads() <= 1 && sum_below(cpu, 1) == 0 && sum_below(el::Cpu({.threads = 3}), 20) == 190 ? 0 : 3;
  });
  CHECK(result == 0);
}

TEST_CASE("a fork's child has threads of its own") {
  if (sanitized) {
    MESSAGE("skipped under a sanitizer");
    return;
  }
  const el::Cpu cpu({.threads = 3});
  CHECK(sum_below(cpu, 20) == 190);
  CHECK(in_child([&] { return sum_below(cpu, 20) == 190 ? 0 : 1; }) == 0);
  CHECK(in_child([&] {
          auto only = std::make_unique<el::Cpu>(cpu);
          only.reset();
          return sum_below(el::Cpu({.threads = 2}), 20) == 190 ? 0 : 1;
        }) == 0);
  CHECK(sum_below(cpu, 20) == 190);
}

#if defined(__linux__)
TEST_CASE("as many threads as the affinity mask has processors") {
  Index threads = 0;
  std::thread pinned([&threads] {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(static_cast<std::size_t>(sched_getcpu()), &mask);
    if (sched_setaffinity(0, sizeof(mask), &mask) == 0) {
      threads = el::Cpu().threads();
    }
  });
  pinned.join();
  CHECK(threads == 1);
}
#endif

TEST_CASE("as many threads as the control groups grant processors") {
  const Folder root;
  const auto granted = [&] { return el::detail::granted_processors(root.path); };
  const Index all = granted();
  CHECK(all > 1000000);

  SUBCASE("version 2, the least of the group and those above") {
    root.write("proc/self/cgroup", "0::/a/b\n");
    root.write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(granted() == all);
    root.write("sys/fs/cgroup/a/b/cpu.max", "350000 100000\n");
    CHECK(granted() == 4);
    root.write("sys/fs/cgroup/a/cpu.max", "200000 100000\n");
    CHECK(granted() == 2);
    root.write("sys/fs/cgroup/cpu.max", "1000 100000\n");
    CHECK(granted() == 1);
  }
  SUBCASE("version 2 in a container that shows the host's path") {
    root.write("proc/self/cgroup", "0::/../docker/0123\n");
    root.write("sys/fs/cgroup/cpu.max", "300000 100000\n");
    CHECK(granted() == 3);
  }
  SUBCASE("version 1") {
    root.write("proc/self/cgroup", "12:cpuset:/\n4:cpu,cpuacct:/a\nnonsense\n0::/\n");
    root.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
    root.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    CHECK(granted() == all);
    root.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "150000\n");
    CHECK(granted() == 2);
    root.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
    root.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(granted() == 1);
  }
  SUBCASE("nonsense grants everything") {
    root.write("proc/self/cgroup", "0::/\n");
    for (const char* text : {"", "-5 100000\n", "100000 0\n", "100000\n", "99999999999999999999 1\n"}) {
      root.write("sys/fs/cgroup/cpu.max", text);
      CHECK(granted() == all);
    }
  }
}
