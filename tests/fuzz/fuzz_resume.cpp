// libFuzzer entry: clang++ -std=c++20 -fsanitize=fuzzer,address,undefined -Iinclude tests/fuzz/fuzz_resume.cpp
// A checkpoint whose training state was changed resumes and trains on, or gives an Error and leaves the trainer as it
// was. The input says which values and tensors change, and whether the run goes on on other data.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include <unistd.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/types.hpp"
#include "elcrec/data/leave_one_out.hpp"
#include "elcrec/io/checkpoint.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/train/trainer.hpp"

namespace {

using elcrec::Index;
using Model = elcrec::ELCRec<elcrec::Cpu>;

/// Adam that raises a flag after some steps of this process.
struct Countdown : elcrec::Adam {
  template <class B>
  struct State : elcrec::AdamState<B> {
    using List = std::span<const elcrec::Parameter<typename B::Scalar>>;
    State(const Countdown& options, const B& backend, List parameters)
        : elcrec::AdamState<B>(options, backend, parameters), flag(options.flag), left(options.steps) {}
    void step(const B& backend, List parameters, List gradients, double rate_factor) {
      elcrec::AdamState<B>::step(backend, parameters, gradients, rate_factor);
      *flag = --left <= 0;
    }
    std::atomic<bool>* flag;
    int left;
  };
  std::atomic<bool>* flag = nullptr;
  int steps = 0;
};

const elcrec::Cpu& backend() {
  static const elcrec::Cpu cpu({.threads = 1});
  return cpu;
}

/// Histories of six of ten items; users of the first split are three batches of two.
elcrec::LeaveOneOut make_split(Index users, Index stride) {
  std::vector<std::int64_t> names;
  std::vector<Index> offsets{0};
  std::vector<elcrec::ItemId> items;
  for (Index u = 0; u < users; ++u) {
    names.push_back(u);
    for (Index i = 0; i < 6; ++i) {
      items.push_back(static_cast<elcrec::ItemId>((u + stride * i) % 10 + 1));
    }
    offsets.push_back(static_cast<Index>(items.size()));
  }
  return elcrec::leave_one_out({names, offsets, items, elcrec::ItemMap::identity(10)});
}

Model make_model() {
  elcrec::ELCRecOptions o;
  o.items = 10;
  o.max_length = 4;
  o.hidden = 4;
  o.intents = 2;
  return Model(o, backend());
}

elcrec::TrainerOptions options(const std::atomic<bool>& stop) { return {.epochs = 3, .batch_size = 2, .stop = &stop}; }

elcrec::KMeansStart start() { return elcrec::KMeansStart({.iterations = 1, .restarts = 1}); }

/// A file that is gone at the end, in memory where there is a file system for that.
struct Place {
  std::filesystem::path path = choose();
  Place() = default;
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }

  static std::filesystem::path choose() {
    const std::filesystem::path memory = "/dev/shm";
    const auto folder = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    return folder / ("elcrec_fuzz_resume_" + std::to_string(::getpid()) + ".safetensors");
  }
};

struct Tensor {
  std::string name;
  std::vector<Index> shape;
  std::vector<float> values;
};

/// A checkpoint's content, to be changed and written again.
struct Parts {
  std::map<std::string, std::string> metadata;
  std::vector<Tensor> tensors;
  std::vector<double> sums;

  explicit Parts(const std::filesystem::path& path) {
    const auto file = elcrec::SafetensorsFile::read(path);
    const auto options = make_model().metadata();
    for (const auto& [key, value] : file.metadata()) {
      if (key.starts_with(elcrec::training_prefix) || options.contains(key)) {
        metadata[key] = value;
      }
    }
    for (const auto& name : file.names()) {
      if (file.info(name).dtype == elcrec::DType::f32) {
        tensors.push_back({name, file.info(name).shape, file.read<float>(name)});
      }
    }
    sums = file.read<double>(sums_name());
  }

  void write(const std::filesystem::path& path) const {
    elcrec::CheckpointWriter writer;
    for (const auto& [key, value] : metadata) {
      writer.metadata(key, value);
    }
    for (const auto& t : tensors) {
      writer.add<elcrec::Cpu, float>(backend(), t.name, t.shape, t.values);
    }
    writer.add<elcrec::Cpu, double>(backend(), sums_name(), {static_cast<Index>(sums.size())}, sums);
    writer.add(elcrec::ItemMap::identity(10));
    writer.write(path);
  }

  static std::string sums_name() { return std::string(elcrec::training_prefix) + "loss_sums"; }
};

/// One epoch and one batch of the next, trained once.
const Parts& original() {
  static const Parts parts = [] {
    const Place place;
    std::atomic<bool> stop{false};
    auto o = options(stop);
    o.checkpoint = place.path;
    Model model = make_model();
    elcrec::Trainer(model, Countdown{{}, &stop, 4}, o, start()).fit(make_split(6, 1));
    return Parts(place.path);
  }();
  return parts;
}

/// Values from the fuzzer's bytes; zeros at their end.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) {
      return 0;
    }
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  std::size_t below(std::size_t n) { return (byte() + std::size_t{256} * byte()) % n; }
  template <class T>
  T value() {
    std::array<std::uint8_t, sizeof(T)> raw{};
    std::generate(raw.begin(), raw.end(), [this] { return byte(); });
    return std::bit_cast<T>(raw);
  }
  std::string text() {
    std::string characters(below(24), '0');
    std::generate(characters.begin(), characters.end(), [this] { return static_cast<char>(byte() & 0x7F); });
    return characters;
  }

 private:
  std::span<const std::uint8_t> bytes_;
};

void change(Parts& parts, Input& input) {
  const auto metadata = [&] {
    return std::next(parts.metadata.begin(), static_cast<std::ptrdiff_t>(input.below(parts.metadata.size())));
  };
  const auto tensor = [&] {
    return parts.tensors.begin() + static_cast<std::ptrdiff_t>(input.below(parts.tensors.size()));
  };
  switch (input.byte() % 8) {
    case 0:
      metadata()->second = input.text();
      break;
    case 1:
      metadata()->second = elcrec::to_text(input.value<std::int64_t>());
      break;
    case 2:
      metadata()->second = elcrec::to_text(static_cast<Index>(input.value<std::int8_t>()));
      break;
    case 3:
      metadata()->second = elcrec::to_text(input.value<double>());
      break;
    case 4:
      if (parts.metadata.size() > 1) {
        parts.metadata.erase(metadata());
      }
      break;
    case 5: {
      auto& values = tensor()->values;
      values[input.below(values.size())] = input.value<float>();
      break;
    }
    case 6:
      if (const auto found = tensor(); found->shape.size() == 1) {
        found->values.resize(1 + input.below(40));
        found->shape[0] = static_cast<Index>(found->values.size());
      } else if (parts.tensors.size() > 1) {
        parts.tensors.erase(found);
      }
      break;
    default:
      parts.sums.resize(input.below(8));
      if (!parts.sums.empty()) {
        parts.sums[input.below(parts.sums.size())] = input.value<double>();
      }
  }
}

std::vector<float> weights(const Model& model) {
  std::vector<float> all;
  for (const auto& p : elcrec::parameters(model)) {
    all.insert(all.end(), p.values.flat().begin(), p.values.flat().end());
  }
  return all;
}

void require_sane(bool holds) {
  if (!holds) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::array splits{make_split(6, 1), make_split(6, 3), make_split(2, 1), make_split(9, 1)};
  Input input(std::span(data, size));
  Parts parts = original();
  const auto& split = splits[input.below(splits.size())];
  const int steps = 1 + input.byte() % 4;
  while (!input.empty()) {
    change(parts, input);
  }

  std::atomic<bool> stop{false};
  Model model = make_model();
  const std::vector<float> before = weights(model);
  elcrec::Trainer trainer(model, Countdown{{}, &stop, steps}, options(stop), start());
  try {
    const Place place;
    parts.write(place.path);
    trainer.resume(place.path);
  } catch (const elcrec::Error&) {
    require_sane(weights(model) == before && trainer.epoch() == 0);
    return 0;
  }
  const Index resumed_at = trainer.epoch();
  require_sane(resumed_at >= 0);
  try {
    const auto result = trainer.fit(split, [](const elcrec::EpochReport& report) {
      require_sane(report.users_per_second > 0 && std::isfinite(report.train_seconds));
      require_sane(report.valid.ndcg(20) >= 0 && report.valid.ndcg(20) <= 1);
    });
    require_sane(result.epochs >= resumed_at && result.best_epoch >= 0 && result.best_epoch <= result.epochs);
    require_sane(result.best_epoch == 0 || (result.best_ndcg >= 0 && result.best_ndcg <= 1));
  } catch (const elcrec::Error&) {
  }
  return 0;
}
