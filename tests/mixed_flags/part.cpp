// Compiled twice: see CMakeLists.txt. ELCREC_PART is the name of this compilation's function.
#include <vector>

#include <elcrec/elcrec.hpp>

namespace {

template <class Backend>
std::vector<elcrec::ItemId> recommend() {
  const elcrec::ELCRec<Backend> model({.items = 1000, .max_length = 8, .hidden = 24, .intents = 3, .seed = 7},
                                      Backend());
  const elcrec::Recommender recommender(model);
  typename elcrec::Recommender<elcrec::ELCRec<Backend>>::Scratch scratch;
  const std::vector<elcrec::ItemId> history{5, 900, 17, 44, 312};
  std::vector<elcrec::ItemId> items;
  for (const auto& [item, score] : recommender.recommend(history, 20, scratch)) {
    items.push_back(item);
  }
  return items;
}

}  // namespace

bool ELCREC_PART();

/// Whether vector code recommends the items that plain loops do.
bool ELCREC_PART() { return recommend<elcrec::BasicCpu<float>>() == recommend<elcrec::BasicReference<float>>(); }
