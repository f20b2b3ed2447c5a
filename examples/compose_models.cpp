// Models of other papers composed outside the library (compose/), each trained, evaluated, saved, loaded and served by
// it unchanged. Returns 1 if one of them is not better than popularity.
#include <filesystem>
#include <iostream>
#include <string_view>
#include <vector>

#include "compose/bpr_mf.hpp"
#include "compose/gru4rec.hpp"

namespace el = elcrec;

/// Whether the model passes popularity's NDCG@10 by `factor` after training.
template <class Model>
bool run(std::string_view name, Model& model, const el::LeaveOneOut& split, double factor) {
  el::Trainer trainer(model, el::Adam{.learning_rate = 1e-2}, {.epochs = 25, .batch_size = 128, .patience = 5});
  trainer.fit(split);
  const auto own = el::evaluate(model, split, el::Split::test);
  const auto popularity = el::evaluate_popularity(split, el::Split::test);
  std::cout << name << "  " << own << "\npopularity  " << popularity << '\n';

  const auto path = std::filesystem::temp_directory_path() / el::message("elcrec_", name, ".safetensors");
  el::save_model(path, model, split.dataset().item_map());
  const auto loaded = el::load_model<Model>(path, model.backend());
  std::filesystem::remove(path);

  const el::Recommender recommender(loaded.model);
  auto scratch = recommender.make_scratch();
  std::cout << "user 0, next:";
  for (const auto& [item, score] :
       recommender.recommend(split.input(0, el::Split::test), 5, scratch, false, el::user_row(0))) {
    std::cout << ' ' << item;
  }
  std::cout << "\n\n";
  return own.ndcg(10) > factor * popularity.ndcg(10);
}

int main() {
  const auto split = el::leave_one_out(el::make_synthetic({.users = 800, .items = 300}).data);
  const el::Cpu backend;
  constexpr el::Index length = 20;

  compose::BprMf<el::Cpu> factors(backend, split.item_count(),
                                  compose::UserTable<el::Cpu>(backend, {split.user_count(), 32, length}, 1));
  compose::Gru4Rec<el::Cpu> recurrent(backend, split.item_count(),
                                      compose::GruEncoder<el::Cpu>(backend, {32, 48, length}, 1));
  const bool factors_learn = run("BPR-MF", factors, split, 1.2);
  const bool recurrent_learns = run("GRU4Rec", recurrent, split, 2);
  return factors_learn && recurrent_learns ? 0 : 1;
}
