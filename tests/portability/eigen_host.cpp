// A host of the Eigen backend: trains and recommends by plain C++20 and Eigen, and compares with the plain loops of the
// reference backend. No compiler's vector extension may come after what is included first.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include <Eigen/Core>
#include <nlohmann/json.hpp>

#pragma GCC poison vector_size

#include "elcrec/backend/eigen_cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/data/synthetic.hpp"
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/serve/recommender.hpp"
#include "elcrec/train/trainer.hpp"

namespace el = elcrec;

int main(int argc, char** argv) {
  const std::filesystem::path path = argc > 1 ? argv[1] : "eigen_host.safetensors";
  const auto split = el::leave_one_out(el::make_synthetic({.users = 150, .items = 90, .intents = 4}).data);
  for (const auto padding : {el::Padding::masked, el::Padding::paper}) {
    el::ELCRecOptions o;
    o.items = split.item_count();
    o.max_length = 8;
    o.hidden = 16;
    o.intents = 5;
    o.padding = padding;
    el::ELCRec<el::EigenCpu> model(o, el::EigenCpu({.threads = 2}));
    el::Trainer(model, el::Adam{}, {.epochs = 2, .batch_size = 32}, el::KMeansStart({.iterations = 3, .restarts = 1}))
        .fit(split);
    el::save_model(path, model, el::ItemMap::identity(model.item_count()));
    std::printf("NDCG@10 %.4f\n", el::evaluate(model, split, el::Split::test).ndcg(10));

    const auto reference = el::load_elcrec<el::Reference>(path);
    const el::Recommender recommender(model);
    const el::Recommender expecting(reference.model);
    auto scratch = recommender.make_scratch();
    auto expecting_scratch = expecting.make_scratch();
    for (el::Index user = 0; user < split.user_count(); user += 10) {
      const auto found = recommender.recommend(split.items(user), 10, scratch);
      const auto expected = expecting.recommend(split.items(user), 10, expecting_scratch);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        if (found.size() != expected.size() || !(std::abs(found[i].score - expected[i].score) < 1e-4F)) {
          std::printf("user %d: found other scores than the reference's\n", static_cast<int>(user));
          return 1;
        }
      }
    }
  }
}
