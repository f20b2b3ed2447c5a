// A host: trains, saves, loads and recommends, and compares with the plain loops of the reference backend.
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "elcrec/backend/eigen_cpu.hpp"
#include "elcrec/elcrec.hpp"

namespace el = elcrec;

namespace {

template <class B>
std::vector<el::Recommendation> answer(const std::filesystem::path& path, std::span<const el::ItemId> history) {
  const auto loaded = el::load_elcrec<B>(path);
  const el::Recommender recommender(loaded.model);
  auto scratch = recommender.make_scratch();
  (void)recommender.intent(history, scratch);
  typename el::Recommender<el::ELCRec<B>>::BatchScratch batch;
  recommender.recommend_batch(std::span(&history, 1), 10, batch);
  const auto found = batch.of(0);
  return {found.begin(), found.end()};
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path path = argc > 1 ? argv[1] : "host.safetensors";
  const auto split = el::leave_one_out(el::make_synthetic({.users = 150, .items = 90, .intents = 4}).data);
  el::ELCRecOptions o;
  o.items = split.item_count();
  o.max_length = 8;
  o.hidden = 16;
  o.intents = 5;
  el::ELCRec<el::Cpu> model(o);
  el::Trainer(model, el::Adam{}, {.epochs = 2, .batch_size = 32}, el::KMeansStart({.iterations = 3, .restarts = 1}))
      .fit(split);
  el::save_model(path, model, el::ItemMap::identity(model.item_count()));
  std::printf("NDCG@10 %.4f\n", el::evaluate(model, split, el::Split::test).ndcg(10));

  for (el::Index user = 0; user < split.user_count(); user += 10) {
    const auto expected = answer<el::Reference>(path, split.items(user));
    for (const auto& found :
         {answer<el::Cpu>(path, split.items(user)), answer<el::EigenCpu>(path, split.items(user))}) {
      for (std::size_t i = 0; i < expected.size(); ++i) {
        if (found.size() != expected.size() || !(std::abs(found[i].score - expected[i].score) < 1e-4F)) {
          std::printf("user %d: found other scores than the reference's\n", static_cast<int>(user));
          return 1;
        }
      }
    }
  }
}
