// quickstart.cpp on a GPU: the backend is the model's template argument, and nothing else changes.
#include <exception>
#include <iostream>

#include <elcrec/backend/cuda.hpp>
#include <elcrec/elcrec.hpp>

namespace el = elcrec;

int main(int argc, char** argv) try {
  const auto data = argc > 1 ? el::read_sequences(argv[1]) : el::make_synthetic({.users = 600, .items = 300}).data;
  const auto split = el::leave_one_out(data);

  const el::Cuda gpu({.device = 0});
  el::ELCRec<el::Cuda> model({.items = data.item_count(), .hidden = 64, .layers = 1, .intents = 8, .dropout = 0.2},
                             gpu);
  el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, {.epochs = 20, .batch_size = 64, .patience = 3});
  trainer.fit(split, el::console_progress());
  std::cout << el::evaluate(model, split, el::Split::test) << '\n';

  const el::Recommender recommender(model);
  auto scratch = recommender.make_scratch();  // one for each thread, with a stream of its own
  const auto history = data.history(0);
  std::cout << "intent " << recommender.intent(history, scratch).intent << "; next:";
  for (const auto& [item, score] : recommender.recommend(history, 5, scratch)) {
    std::cout << ' ' << data.item_map().name(item);
  }
  std::cout << '\n';
} catch (const el::CudaError& error) {
  std::cerr << error.what() << '\n';
  return 77;  // ctest counts it as skipped
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
