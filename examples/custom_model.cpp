// Another model from the library's parts and three of one's own: an encoder, an augmentation and an objective, trained
// by the unchanged Trainer on any backend, saved and loaded. Returns 1 if a gradient of the encoder is wrong, the model
// is not twice as good as popularity, or the loaded one is another.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <elcrec/elcrec.hpp>
#include <elcrec/encoder/check_encoder_gradients.hpp>

namespace el = elcrec;

struct RunningMeanOptions {
  el::Index max_length = 50;
  el::Index hidden = 64;

  static void visit_options(auto& self, auto&& visitor) {
    visitor("max_length", self.max_length);
    visitor("hidden", self.hidden);
  }
};

/// An item and the mean of all up to it, joined by a small network:
/// e_t = E[item_t] + P[position_t],  m_t = mean_{s ≤ t} e_s,
/// c_t = W_j [e_t; m_t] + b_j,  y_t = e_t + W_o gelu(c_t) + b_o.
/// The running mean is attention with all queries and keys 0: every item that is seen then has the same weight.
template <el::Backend B>
class RunningMeanEncoder {
 public:
  static constexpr std::string_view name = "running_mean";
  using Options = RunningMeanOptions;
  using Backend = B;
  using T = typename B::Scalar;
  using In = el::MatrixView<const T>;
  using Out = el::MatrixView<T>;

  struct Cache {
    Out qkv;            // (T, 3D) zeros, zeros, e
    Out probabilities;  // (T, longest)
    Out both;           // (T, 2D) e and its running mean, side by side
    Out c;              // (T, D) before bias and activation
    Out activated;      // (T, D)
  };

  RunningMeanEncoder(const B& backend, const Options& o, std::uint64_t seed = 0)
      : positions_(backend, o.max_length, o.hidden),
        join_(backend, 2 * o.hidden, o.hidden),
        out_(backend, o.hidden, o.hidden) {
    std::uint32_t which = 1;  // 0 draws the item table
    for (auto& p : el::parameters(*this)) {
      if (p.rank == 2) {
        el::initialise_normal(backend, seed, which++, 1 / std::sqrt(static_cast<double>(p.values.cols())), p.values);
      }
    }
    el::initialise_constant(backend, 0, positions_.view());
  }

  [[nodiscard]] Options options() const { return {max_length(), hidden()}; }
  [[nodiscard]] el::Index hidden() const { return positions_.cols(); }
  [[nodiscard]] el::Index max_length() const { return positions_.rows(); }
  [[nodiscard]] bool causal() const { return true; }

  void forward(const el::Pass<B>& pass, const el::TokenView& tokens, In table, Cache& cache, Out y) const {
    const el::Index t = tokens.tokens();
    const el::Index d = hidden();
    cache = {pass.keep(t, 3 * d), pass.keep(t, tokens.longest), pass.keep(t, 2 * d), pass.keep(t, d), pass.keep(t, d)};
    const auto e = cache.both.slice_cols(0, d);
    embed(pass.lane, tokens, table, positions_.view(), y);
    pass.lane.copy(y, e);
    pass.lane.fill(cache.qkv, T(0));
    pass.lane.copy(y, cache.qkv.slice_cols(2 * d, 3 * d));
    attention(pass.lane, tokens, 1, el::AttentionMask::causal, {}, cache.qkv, cache.probabilities, cache.c);
    pass.lane.copy(cache.c, cache.both.slice_cols(d, 2 * d));
    join_.forward_without_bias(pass.lane, cache.both, cache.c);
    bias_gelu(pass.lane, cache.c, join_.bias.view(), cache.activated);
    out_.forward(pass.lane, cache.activated, y);
    pass.lane.add_scaled(T(1), e, y);
  }

  void backward(const el::Pass<B>& pass, const el::TokenView& tokens, const Cache& cache, Out dy,
                RunningMeanEncoder& gradient, Out dembedded) const {
    const el::Index t = tokens.tokens();
    const el::Index d = hidden();
    const auto frame = pass.lane.workspace().frame();
    const auto dc = pass.scratch(t, d);
    const auto again = pass.scratch(t, d);
    const auto dboth = pass.scratch(t, 2 * d);
    const auto dmean = pass.scratch(t, d);
    const auto dqkv = pass.scratch(t, 3 * d);
    out_.accumulate(pass.lane, cache.activated, dy, gradient.out_);
    out_.input_gradient(pass.lane, dy, dc, el::Write::replace);
    bias_gelu_backward(pass.lane, cache.c, join_.bias.view(), dc, again, dc);
    join_.accumulate(pass.lane, cache.both, dc, gradient.join_);
    join_.input_gradient(pass.lane, dc, dboth, el::Write::replace);
    pass.lane.copy(dboth.slice_cols(d, 2 * d), dmean);
    attention_backward(pass.lane, tokens, 1, el::AttentionMask::causal, {}, cache.qkv, cache.probabilities, dmean,
                       dqkv);
    pass.lane.copy(dy, dembedded);
    pass.lane.add_scaled(T(1), dboth.slice_cols(0, d), dembedded);
    pass.lane.add_scaled(T(1), dqkv.slice_cols(2 * d, 3 * d), dembedded);
    position_gradient(pass.lane, tokens, dembedded, gradient.positions_.view());
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("positions", el::MatrixView(self.positions_.view()), 2);
    el::Linear<B>::visit_parameters(self.join_, el::scoped("join.", visitor));
    el::Linear<B>::visit_parameters(self.out_, el::scoped("out.", visitor));
  }
  /// What a file must hold for these options.
  static void visit_shapes(const Options& o, auto&& visitor) {
    visitor("positions", std::vector<el::Index>{o.max_length, o.hidden});
    el::Linear<B>::visit_shapes(el::checked_product("join", 2, o.hidden), o.hidden, el::scoped("join.", visitor));
    el::Linear<B>::visit_shapes(o.hidden, o.hidden, el::scoped("out.", visitor));
  }

 private:
  el::Matrix<B> positions_;  // (L, D)
  el::Linear<B> join_;       // (D, 2D)
  el::Linear<B> out_;        // (D, D)
};

/// A view without the first half of the history: what a user did lately.
struct Recent {
  static constexpr std::string_view name = "recent";

  void operator()(std::span<const el::ItemId> history, el::RandomEngine&, std::vector<el::ItemId>& view) const {
    const auto recent = history.subspan(history.size() / 2);
    view.assign(recent.begin(), recent.end());
  }
};

using Views = el::AugmentedPair<el::RandomView<Recent, el::Mask>>;

/// Pulls a user's mean encoding in one view towards the one in the other: L = mean_i |h_i - h'_i|² / 2.
struct Agreement {
  using Views = el::TypeList<::Views>;
  static constexpr std::string_view name = "agreement";
  double weight = 1.0;

  static void visit_options(auto& self, auto&& visitor) { visitor("weight", self.weight); }

  void evaluate(auto& step) const {
    using T = typename std::remove_cvref_t<decltype(step)>::Scalar;
    auto& pair = step.template encoding<::Views>();
    const el::Index users = pair.tokens.sequences() / 2;
    const auto h = el::user_embeddings(step, pair, el::Pooling::mean);
    const auto dh = step.memory().template matrix<T>(2 * users, h.unit.cols());
    step.backend().parallel_for(1, [&](auto& lane, el::Index) {
      const auto first = dh.slice_rows(0, users);
      const double mean = 1 / static_cast<double>(users);
      lane.copy(h.unit.slice_rows(0, users), first);
      lane.add_scaled(T(-1), h.unit.slice_rows(users, 2 * users), first);
      lane.add_dot(mean / 2, first, first, step.loss(*this));
      lane.scale(static_cast<T>(weight * mean), first);
      lane.copy(first, dh.slice_rows(users, 2 * users));
      lane.scale(T(-1), dh.slice_rows(users, 2 * users));
    });
    el::user_embeddings_backward(step, pair, el::Pooling::mean, h, dh);
  }
};

template <el::Backend B>
using CustomModel = el::SequentialModel<RunningMeanEncoder<B>, el::NextItemSoftmax, Agreement>;

/// The library checks a part of one's own by central differences, in double.
el::GradientCheck check_encoder() {
  const el::Reference backend;
  const RunningMeanEncoder<el::Reference> encoder(backend, {.max_length = 6, .hidden = 4}, 7);
  el::Matrix<el::Reference> table(backend, 10, 4);
  el::initialise_normal(backend, 8, 0, 1.0, table.view());
  el::TokenBatch batch;
  batch.start(6, el::Padding::masked);
  for (const std::vector<el::ItemId>& history : {std::vector<el::ItemId>{3, 1, 4}, {1, 5, 9, 2, 6, 5, 3}, {8}}) {
    batch.add(history);
  }
  return el::check_encoder_gradients(encoder, batch.view(), table.view());
}

int main() {
  const el::GradientCheck gradients = check_encoder();
  std::cout << gradients << '\n';
  const auto split = el::leave_one_out(el::make_synthetic({.users = 1000, .items = 400}).data);
  const el::Cpu backend;
  const RunningMeanEncoder<el::Cpu> encoder(backend, {.max_length = 30, .hidden = 32}, 1);
  CustomModel<el::Cpu> model(backend, split.item_count(), encoder);
  model.objective<Agreement>().weight = 0.1;
  el::Trainer trainer(model, el::Adam{.learning_rate = 3e-3}, {.epochs = 12, .batch_size = 64, .patience = 3});
  trainer.fit(split, el::console_progress());

  const auto own = el::evaluate(model, split, el::Split::test);
  const auto popularity = el::evaluate_popularity(split, el::Split::test);
  std::cout << "own model  " << own << "\npopularity " << popularity << '\n';

  const auto path = std::filesystem::temp_directory_path() / "elcrec_custom_model.safetensors";
  el::save_model(path, model, split.dataset().item_map());
  const auto loaded = el::load_model<CustomModel<el::Cpu>>(path, backend);
  std::filesystem::remove(path);
  const bool same = el::evaluate(loaded.model, split, el::Split::test).ndcg(10) == own.ndcg(10) &&
                    loaded.model.metadata() == model.metadata();
  std::cout << (same ? "saved and loaded\n" : "the loaded model is another\n");
  return gradients.error < 1e-6 && own.ndcg(10) > 2 * popularity.ndcg(10) && same ? 0 : 1;
}
