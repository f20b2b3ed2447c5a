#include <cstdio>
#include <vector>

#include <elcrec/serve.hpp>

void train(const char* path);

int main() {
  const char* path = "host.safetensors";
  train(path);
  const auto loaded = elcrec::load_elcrec<elcrec::Cpu>(path);
  const elcrec::Recommender recommender(loaded.model);
  auto scratch = recommender.make_scratch();
  const std::vector<elcrec::ItemId> history{1, 2, 3};
  const auto found = recommender.recommend(history, 5, scratch);
  std::printf("%zu recommendations, intent %td\n", found.size(), recommender.intent(history, scratch).intent);
  return found.size() == 5 ? 0 : 1;
}
