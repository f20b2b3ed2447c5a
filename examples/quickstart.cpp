#include <iostream>

#include <elcrec/elcrec.hpp>

namespace el = elcrec;

int main(int argc, char** argv) {
  // Lines "user item item ...", oldest item first; without a file, histories with planted intents.
  const auto data = argc > 1 ? el::read_sequences(argv[1]) : el::make_synthetic({.users = 600, .items = 300}).data;
  const auto split = el::leave_one_out(data);

  el::ELCRec<el::Cpu> model({.items = data.item_count(), .hidden = 64, .layers = 1, .intents = 8, .dropout = 0.2});
  el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, {.epochs = 20, .batch_size = 64, .patience = 3});
  trainer.fit(split, el::console_progress());
  std::cout << el::evaluate(model, split, el::Split::test) << '\n';

  const el::Recommender recommender(model);
  decltype(recommender)::Scratch scratch;  // one for each thread
  const auto history = data.history(0);
  std::cout << "intent " << recommender.intent(history, scratch).intent << "; next:";
  for (const auto& [item, score] : recommender.recommend(history, 5, scratch)) {
    std::cout << ' ' << data.item_map().name(item);
  }
  std::cout << '\n';
}
