// Compiled twice: see CMakeLists.txt. ELCREC_PART is the name of this compilation's function.
#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include <elcrec/elcrec.hpp>

double exact_exponential(double x);  // main.cpp

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

/// The loss of a training step, then the validation NDCG after it; weights are as good as their last digits.
template <class Backend>
std::array<double, 2> train() {
  const auto split = elcrec::leave_one_out(elcrec::make_synthetic({.users = 40, .items = 60, .mean_length = 9}).data);
  elcrec::SasRec<Backend> model(
      Backend(), split.item_count(),
      elcrec::TransformerEncoder<elcrec::Dynamic, Backend>(Backend(), {.hidden = 24, .max_length = 8}, 3));
  std::array<double, 2> result{};
  elcrec::Trainer trainer(model, elcrec::Adam{}, {.epochs = 1, .batch_size = 40});
  trainer.fit(split, [&](const elcrec::EpochReport& report) { result = {report.losses.total, report.valid.ndcg(20)}; });
  return result;
}

bool close(double a, double b, double tolerance) { return a - b < tolerance && b - a < tolerance; }

/// Whether e^x is right, by the standard library in another source.
bool exponential_is_right() {
  using V = elcrec::simd::Pack<float>;
  for (float x = -80.0F; x < 80.0F; x += 0.37F) {
    const V found = elcrec::simd::exp(elcrec::simd::broadcast(x));
    if (!close(static_cast<double>(found[0]) / exact_exponential(static_cast<double>(x)), 1, 1e-6)) {
      return false;
    }
  }
  return true;
}

/// Whether a model with a NaN is told from a sound one.
bool nan_is_noticed() {
  const auto split = elcrec::leave_one_out(elcrec::make_synthetic({.users = 40, .items = 60}).data);
  using Backend = elcrec::BasicCpu<float>;
  elcrec::ELCRec<Backend> model({.items = split.item_count(), .hidden = 8, .intents = 2});
  static_cast<void>(elcrec::evaluate(model, split, elcrec::Split::valid));
  model.items()(5, 5) = std::bit_cast<float>(std::uint32_t{0x7FC00000});
  try {
    static_cast<void>(elcrec::evaluate(model, split, elcrec::Split::valid));
  } catch (const elcrec::DivergenceError&) {
    return true;
  }
  return false;
}

}  // namespace

std::string ELCREC_PART();

/// What of vector code differs from plain loops.
std::string ELCREC_PART() {
  using Fast = elcrec::BasicCpu<float>;
  using Plain = elcrec::BasicReference<float>;
  const auto fast = train<Fast>();
  const auto plain = train<Plain>();
  std::string wrong;
  wrong += exponential_is_right() ? "" : " e^x";
  wrong += recommend<Fast>() == recommend<Plain>() ? "" : " recommendations";
  wrong += close(fast[0], plain[0], 1e-4) ? "" : " loss";
  wrong += close(fast[1], plain[1], 2e-2) ? "" : " NDCG";
  wrong += nan_is_noticed() ? "" : " NaN";
  return wrong;
}
