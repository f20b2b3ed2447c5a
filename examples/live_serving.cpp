// Serves while it trains: two threads recommend from snapshots, of which every epoch publishes the next. Returns 1 if
// an answer was short or the last snapshot is not the trained model.
#include <atomic>
#include <cstdint>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include <elcrec/elcrec.hpp>

namespace el = elcrec;

using Model = el::ELCRec<el::Cpu>;
using Served = el::Snapshot<Model>;

int main() {
  const auto data = el::make_synthetic({.users = 300, .items = 200}).data;
  const auto split = el::leave_one_out(data);
  std::vector<std::vector<std::int64_t>> histories;  // in a host's ids
  for (el::Index user = 0; user < data.user_count(); ++user) {
    histories.emplace_back();
    for (const el::ItemId item : data.history(user)) {
      histories.back().push_back(data.item_map().name(item));
    }
  }

  Model model({.items = data.item_count(), .hidden = 32, .layers = 1, .intents = 8, .dropout = 0.2});
  const el::Cpu serving({.threads = 2});  // a pool that training has no part in; the snapshots share it
  const auto snapshot = [&] { return std::make_shared<const Served>(el::clone(model, serving), data.item_map()); };
  el::Slot slot(snapshot());

  std::atomic<bool> done{false};
  std::atomic<long> answers{0};
  std::atomic<long> wrong{0};
  std::vector<std::thread> readers;
  for (std::size_t reader = 0; reader < 2; ++reader) {
    readers.emplace_back([&, user = reader]() mutable {
      Served::Scratch scratch;  // one for each thread; it serves every snapshot
      while (!done) {
        const auto now = slot.take();  // stays as it is for as long as it is held
        const auto found = now->recommend(histories[user], 10, scratch, el::UnknownItems::ignore);
        wrong += found.size() == 10 ? 0 : 1;
        ++answers;
        user = (user + 1) % histories.size();
      }
    });
  }

  el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, {.epochs = 4, .batch_size = 64});
  trainer.fit(split, [&](const el::EpochReport&) {
    slot.publish(snapshot());
    std::cout << answers << " answers so far\n";
  });
  slot.publish(snapshot());  // the best weights, which are the model's now
  done = true;
  for (auto& reader : readers) {
    reader.join();
  }

  const auto last = slot.take();
  const auto served = el::evaluate(last->model(), split, el::Split::test);
  std::cout << answers << " answers; the last snapshot: " << served << '\n';
  return wrong == 0 && answers > 0 && served.ndcg(10) == el::evaluate(model, split, el::Split::test).ndcg(10) ? 0 : 1;
}
