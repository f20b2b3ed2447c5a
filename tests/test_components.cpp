// Gradients of every component and loss against central differences in double, values against plain formulas.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numbers>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/cluster/k_means.hpp"
#include "elcrec/encoder/check_encoder_gradients.hpp"
#include "elcrec/head/cosine.hpp"
#include "elcrec/head/dot_bias.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/training_pass.hpp"
#include "elcrec/nn/check_gradients.hpp"
#include "support.hpp"
#ifdef ELCREC_TEST_CUDA
#include "elcrec/backend/cuda.hpp"
#else
#include "elcrec/backend/eigen_cpu.hpp"
#endif

namespace el = elcrec;
using el::Index;
using el::ItemId;
using el::test::BatchShape;
using el::test::HostCopy;
using el::test::random_batch;
using el::test::random_matrix;
using el::test::random_values;
using el::test::Staged;
using el::test::sum_of;
using el::test::to_host;
using el::test::value_of;

/// Compiled once more against the CUDA backend.
#ifdef ELCREC_TEST_CUDA
#define EVERY_BACKEND el::BasicCuda<double>
#define K_MEANS_BACKENDS el::BasicCuda<double>, el::BasicCuda<float>
constexpr Index most_samples = 5;  // emulated kernels are slow
constexpr Index pass_samples = 1;
constexpr bool along_directions = false;
constexpr Index many_items = 70;
constexpr Index many_users = 20;
#else
#define EVERY_BACKEND el::BasicReference<double>, el::BasicCpu<double>, el::BasicEigenCpu<double>
#define K_MEANS_BACKENDS el::BasicReference<double>, el::BasicCpu<double>, el::BasicCpu<float>, el::BasicEigenCpu<float>
constexpr Index most_samples = 50;
constexpr Index pass_samples = 6;
constexpr bool along_directions = true;
constexpr Index many_items = 4500;  // 18 blocks of a softmax, two a task
constexpr Index many_users = 200;   // 1000 targets, in two chunks
#endif

namespace {

constexpr double gradient_tolerance = 1e-6;

el::GradientCheckOptions samples(Index wanted) { return {.samples = std::min(wanted, most_samples)}; }
constexpr el::Padding both_paddings[] = {el::Padding::paper, el::Padding::masked};
constexpr el::Pooling poolings[] = {el::Pooling::mean, el::Pooling::concat, el::Pooling::last};
constexpr el::DropoutBits fixed_dropout{.seed = 5, .step = 2, .view = 1, .training = true};

void check(const el::GradientCheck& found, Index at_least) {
  CAPTURE(found);
  CHECK(found.error < gradient_tolerance);
  CHECK(found.compared >= at_least);
}

/// Biases and norms away from 0 and 1.
template <class B, class Component>
Component shaken(const B& backend, Component component, std::uint64_t seed = 1) {
  for (auto& p : el::parameters(component)) {
    auto values = to_host(backend, p.values);
    for (Index r = 0; r < p.values.rows(); ++r) {
      const auto noise = random_values(++seed, p.values.cols(), 0.3);
      for (Index c = 0; c < p.values.cols(); ++c) {
        values[static_cast<std::size_t>(r * p.values.cols() + c)] += noise[static_cast<std::size_t>(c)];
      }
    }
    el::test::to_device(backend, values, p.values);
  }
  return component;
}

/// Checks a component with input x (T, in) and output y (T, out) under the loss <w, y>.
/// run(pass, component, x, y, dy, gradient, dx): forward, then backward unless gradient is null.
template <class B, class Component, class Run>
void check_block(const B& backend, const Component& component, Index rows, Index in, Index out, Run run) {
  el::WithInput<Component> subject{shaken(backend, component), random_matrix(backend, 11, rows, in)};
  const auto w = random_matrix(backend, 12, rows, out);
  auto memory = backend.make_workspace();
  const auto loss = [&](const auto& at, el::WithInput<Component>* gradient) {
    memory.clear();
    return sum_of(backend, [&](auto& lane, double* sum) {
      const el::Pass<B> pass{lane, memory, fixed_dropout};
      const auto y = pass.keep(rows, out);
      const auto dy = pass.keep(rows, out);
      lane.copy(w.view(), dy);
      run(pass, at.component, el::MatrixView<const double>(at.input.view()), y, dy,
          gradient != nullptr ? &gradient->component : nullptr,
          gradient != nullptr ? gradient->input.view() : el::MatrixView<double>{});
      lane.add_dot(1.0, w.view(), y, sum);
    });
  };
  const auto count = static_cast<Index>(el::parameters(subject).size());
  check(el::check_gradients(subject, loss, samples(50), backend), std::min(rows, count * most_samples));
}

/// The derivative along a random direction of each parameter against its gradient: every element at once, where samples
/// may miss the rows that are wrong. `gradients` are those of the last loss().
template <class B, class Loss, class Gradients>
void check_directions(const B& backend, const std::vector<el::Parameter<double>>& list, Loss loss,
                      Gradients gradients) {
  loss();
  std::vector<std::vector<double>> analytic;
  for (const auto& g : gradients()) {
    analytic.push_back(to_host(backend, g.values));
  }
  REQUIRE(analytic.size() == list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    CAPTURE(list[i].name);
    const auto& g = analytic[i];
    const auto direction = random_values(i, ssize(std::span(g)));
    const auto square = [](const auto& v) { return std::inner_product(v.begin(), v.end(), v.begin(), 0.0); };
    const double length = std::sqrt(square(direction));
    const auto original = to_host(backend, list[i].values);
    const auto loss_at = [&](double step) {
      auto values = original;
      for (std::size_t e = 0; e < values.size(); ++e) {
        values[e] += step * direction[e] / length;
      }
      el::test::to_device(backend, values, list[i].values);
      return loss();
    };
    constexpr double step = 1e-4;
    const double numeric = (loss_at(step) - loss_at(-step)) / (2 * step);
    el::test::to_device(backend, original, list[i].values);
    const double expected = std::inner_product(g.begin(), g.end(), direction.begin(), 0.0) / length;
    const double usual = std::sqrt(square(g) / static_cast<double>(g.size()));
    CHECK(std::abs(numeric - expected) < gradient_tolerance * std::max(std::abs(expected), usual) + 1e-10);
  }
}

/// A parameter that is nothing else.
template <class B>
struct Values {
  using Backend = B;
  static void visit_parameters(auto& self, auto&& visitor) { visitor("values", self.matrix.view(), 2); }
  el::Matrix<B> matrix;
};

double squared_distance(el::MatrixView<const double> a, Index i, el::MatrixView<const double> b, Index j) {
  double sum = 0;
  for (Index c = 0; c < a.cols(); ++c) {
    sum += (a(i, c) - b(j, c)) * (a(i, c) - b(j, c));
  }
  return sum;
}

std::string failure(const std::function<void()>& f) {
  try {
    f();
  } catch (const el::ArgumentError& e) {
    return e.what();
  }
  return "nothing thrown";
}

}  // namespace

// ---- the check itself ---------------------------------------------------------------------------------------------

TEST_CASE("check_gradients finds the one wrong element and says which") {
  const el::Reference backend;
  Values<el::Reference> values{random_matrix(backend, 1, 3, 4)};
  const auto before = values.matrix.view().flat();
  const std::vector<double> original(before.begin(), before.end());
  double wrong = 0;
  const auto cubes = [&](auto& at, auto* gradient) {
    double sum = 0;
    for (Index i = 0; i < at.matrix.view().size(); ++i) {
      const double v = at.matrix.view().data()[i];
      sum += v * v * v;
      if (gradient != nullptr) {
        gradient->matrix.view().data()[i] += 3 * v * v + (i == 6 ? wrong : 0.0);
      }
    }
    return sum;
  };
  const auto right = el::check_gradients(values, cubes);
  CHECK(right.error < 1e-8);
  CHECK(right.compared == 12);
  wrong = 0.01;
  const auto found = el::check_gradients(values, cubes);
  CHECK(found.row == 1);
  CHECK(found.col == 2);
  CHECK(found.error > 1e-4);
  CHECK(found.analytic - found.numeric == doctest::Approx(0.01));
  std::ostringstream text;
  text << found;
  CHECK(text.str().starts_with("worst of 12 gradients: 'values' (1, 2), analytic "));
  wrong = std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isinf(el::check_gradients(values, cubes).error));
  wrong = 0;
  CHECK(el::check_gradients(values, cubes, {.samples = 5}).compared == 5);
  CHECK(std::vector<double>(values.matrix.view().flat().begin(), values.matrix.view().flat().end()) == original);
  CHECK(failure([&] { static_cast<void>(el::check_gradients(values, cubes, {.step = 0})); }) ==
        "gradient check: found step 0, expected a positive number");
}

// ---- nn and encoder -----------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("gradients of linear and layer norm", B, EVERY_BACKEND) {
  const B backend;
  check_block(backend, el::Linear<B>(backend, 5, 7), 4, 5, 7,
              [](const auto& pass, const auto& linear, auto x, auto y, auto dy, auto* gradient, auto dx) {
                linear.forward(pass.lane, x, y);
                if (gradient != nullptr) {
                  linear.accumulate(pass.lane, x, dy, *gradient);
                  linear.input_gradient(pass.lane, dy, dx, el::Write::replace);
                }
              });
  for (const Index columns : {2, 9, 64}) {
    check_block(backend, el::LayerNorm<B>(backend, columns, 1e-12), 5, columns, columns,
                [](const auto& pass, const auto& norm, auto x, auto y, auto dy, auto* gradient, auto dx) {
                  typename el::LayerNorm<B>::Cache cache;
                  norm.forward(pass, x, cache, y);
                  if (gradient != nullptr) {
                    norm.backward(pass, cache, dy, *gradient, dy);  // in place
                    pass.lane.copy(dy, dx);
                  }
                });
  }
}

TEST_CASE_TEMPLATE("gradients of attention and feed forward", B, EVERY_BACKEND) {
  const B backend;
  for (const auto padding : both_paddings) {
    const auto batch = random_batch(3, {.lengths = {4, 1, 0, 9, 6}, .max_length = 6, .masked = 0.3}, padding);
    const Staged<B> staged(backend, batch);
    const auto tokens = staged.view();
    const auto check_layer = [&](const auto& component) {
      using Component = std::remove_cvref_t<decltype(component)>;
      check_block(backend, component, tokens.tokens(), 8, 8,
                  [&](const auto& pass, const auto& block, auto x, auto y, auto dy, auto* gradient, auto dx) {
                    typename Component::Cache cache;
                    block.forward(pass, 3, tokens, x, cache, y);
                    if (gradient != nullptr) {
                      block.backward(pass, 3, tokens, cache, dy, *gradient, dy);  // in place
                      pass.lane.copy(dy, dx);
                    }
                  });
    };
    for (const auto mask : {el::AttentionMask::causal, el::AttentionMask::bidirectional}) {
      check_layer(
          el::AttentionBlock<B>(backend, 8, {.heads = 2, .dropout = 0.3, .probability_dropout = 0.4, .mask = mask}));
    }
    check_layer(el::FeedForward<B>(backend, 8, 0.4, 1e-12));
    check_layer(el::FilterBlock<B>(backend, 8, {.max_length = 6, .frequencies = 2, .dropout = 0.3}));
    check_layer(el::FilteredAttention<B>(backend, 8, {.dropout = 0.3, .probability_dropout = 0.4}, 0.7,
                                         {.max_length = 6, .frequencies = 3, .dropout = 0.3}));
  }
}

TEST_CASE_TEMPLATE("the filter keeps the low frequencies and maps the rest", B, EVERY_BACKEND) {
  const B backend;
  constexpr Index length = 7;
  constexpr Index frequencies = 2;
  constexpr Index d = 4;
  const auto block =
      shaken(backend, el::FilterBlock<B>(backend, d, {.max_length = length, .frequencies = frequencies, .dropout = 0}));
  for (const auto padding : both_paddings) {
    // Masked items leave gaps between the positions of a ragged sequence.
    const auto batch =
        random_batch(3, {.lengths = {4, 1, 0, 9, 7}, .max_length = length, .masked = 0.3, .targets = false}, padding);
    const Staged<B> staged(backend, batch);
    const auto tokens = batch.view();
    const auto x = random_matrix(backend, 5, tokens.tokens(), d);
    el::Matrix<B> y(backend, tokens.tokens(), d);
    auto memory = backend.make_workspace();
    backend.parallel_for(1, [&](auto& lane, Index) {
      typename el::FilterBlock<B>::Cache cache;
      block.forward({lane, memory, {}}, 0, staged.view(), x.view(), cache, y.view());
    });
    const HostCopy in(backend, x.view());
    const HostCopy out(backend, y.view());
    const HostCopy w(backend, block.high_weight.view());
    const HostCopy gamma(backend, block.norm.gamma.view());
    const HostCopy beta(backend, block.norm.beta.view());
    const auto pass_share = [](Index i, Index j) {
      double sum = 1;
      for (Index f = 1; f < frequencies; ++f) {
        sum += 2 * std::cos(2 * std::numbers::pi * static_cast<double>(f * (i - j)) / length);
      }
      return sum / length;
    };
    for (Index s = 0; s < tokens.sequences(); ++s) {
      for (Index t = tokens.begin(s); t < tokens.end(s); ++t) {
        std::vector<double> low(d, 0.0);
        std::vector<double> sum(d, 0.0);
        for (Index c = 0; c < d; ++c) {
          for (Index u = tokens.begin(s); u < tokens.end(s); ++u) {
            low[static_cast<std::size_t>(c)] += pass_share(tokens.position(t), tokens.position(u)) * in(u, c);
          }
        }
        double mean = 0;
        double square = 0;
        for (Index c = 0; c < d; ++c) {
          const auto at = static_cast<std::size_t>(c);
          sum[at] = in(t, c) + low[at];
          for (Index e = 0; e < d; ++e) {
            sum[at] += w(c, e) * (in(t, e) - low[static_cast<std::size_t>(e)]);
          }
          mean += sum[at] / d;
          square += sum[at] * sum[at] / d;
        }
        for (Index c = 0; c < d; ++c) {
          const double normal = (sum[static_cast<std::size_t>(c)] - mean) / std::sqrt(square - mean * mean + 1e-12);
          CHECK(out(t, c) == doctest::Approx(gamma(0, c) * normal + beta(0, c)).epsilon(1e-10));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("gradients of the transformer", B, EVERY_BACKEND) {
  const B backend;
  const auto table = random_matrix(backend, 4, 12, 8);
  const BatchShape shape{.lengths = {4, 1, 0, 9, 6}, .max_length = 6, .items = 10, .masked = 0.2};
  for (const auto padding : both_paddings) {
    const auto batch = random_batch(6, shape, padding);
    for (const auto mask : {el::AttentionMask::causal, el::AttentionMask::bidirectional}) {
      for (Index layers = 0; layers <= 3; ++layers) {
        CAPTURE(layers);
        const el::TransformerEncoder<el::Dynamic, B> encoder(backend, {.hidden = 8,
                                                                       .layers = layers,
                                                                       .heads = 2,
                                                                       .max_length = 6,
                                                                       .deviation = 0.3,
                                                                       .mask = mask,
                                                                       .filter_share = layers == 2 ? 0.6 : 0});
        check(el::check_encoder_gradients(shaken(backend, encoder), batch.view(), table.view(), fixed_dropout,
                                          samples(8), backend),
              (4 + 16 * layers) * samples(8).samples);
      }
    }
  }
}

TEST_CASE_TEMPLATE("forward_last gives the last rows of forward", B, EVERY_BACKEND) {
  const B backend;
  const auto table = random_matrix(backend, 4, 12, 8);
  const BatchShape shape{.lengths = {4, 1, 9, 6, 2}, .max_length = 7, .items = 10, .masked = 0.25};
  for (const auto padding : both_paddings) {
    const auto batch = random_batch(6, shape, padding);
    const Staged<B> staged(backend, batch);
    const auto tokens = staged.view();
    for (const auto mask : {el::AttentionMask::causal, el::AttentionMask::bidirectional}) {
      for (Index layers = 0; layers <= 3; ++layers) {
        CAPTURE(layers);
        const auto encoder =
            shaken(backend, el::TransformerEncoder<8, B>(backend, {.hidden = 8,
                                                                   .layers = layers,
                                                                   .heads = 2,
                                                                   .max_length = 7,
                                                                   .deviation = 0.3,
                                                                   .mask = mask,
                                                                   .filter_share = layers == 2 ? 0.6 : 0}));
        auto memory = backend.make_workspace();
        el::Matrix<B> all(backend, tokens.tokens(), 8);
        el::Matrix<B> last(backend, tokens.sequences(), 8);
        backend.parallel_for(1, [&](auto& lane, Index) {
          const el::Pass<B> pass{lane, memory, {}};
          typename el::TransformerEncoder<8, B>::Cache cache;
          encoder.forward(pass, tokens, table.view(), cache, all.view());
          encoder.forward_last(pass, tokens, table.view(), last.view());
        });
        const HostCopy expected(backend, all.view());
        const HostCopy found(backend, last.view());
        for (Index s = 0; s < tokens.sequences(); ++s) {
          const Index end = batch.view().end(s);
          for (Index c = 0; c < 8 && end > batch.view().begin(s); ++c) {
            CHECK(found(s, c) == doctest::Approx(expected(end - 1, c)).epsilon(1e-12));
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("real positions have the same output under both paddings", B, EVERY_BACKEND) {
  const B backend;
  const BatchShape shape{.lengths = {4, 1, 9, 6, 2}, .max_length = 7, .items = 10, .masked = 0.25};
  const auto paper = random_batch(6, shape, el::Padding::paper);
  const auto masked = random_batch(6, shape, el::Padding::masked);
  const auto table = random_matrix(backend, 4, 12, 8);
  for (const auto mask : {el::AttentionMask::causal, el::AttentionMask::bidirectional}) {
    const auto encoder = shaken(
        backend, el::TransformerEncoder<8, B>(
                     backend, {.hidden = 8, .layers = 2, .heads = 2, .max_length = 7, .deviation = 0.3, .mask = mask}));
    for (const bool training : {false, true}) {
      const auto encode = [&](const el::TokenBatch& batch) {
        const Staged<B> staged(backend, batch);
        auto memory = backend.make_workspace();
        el::Matrix<B> y(backend, batch.tokens(), 8);
        backend.parallel_for(1, [&](auto& lane, Index) {
          typename el::TransformerEncoder<8, B>::Cache cache;
          encoder.forward(el::Pass<B>{lane, memory, {.seed = 5, .training = training}}, staged.view(), table.view(),
                          cache, y.view());
        });
        return HostCopy(backend, y.view());
      };
      const auto a = paper.view();
      const auto b = masked.view();
      const auto ya = encode(paper);
      const auto yb = encode(masked);
      Index compared = 0;
      for (Index s = 0; s < a.sequences(); ++s) {
        for (Index u = b.begin(s); u < b.end(s); ++u) {
          const Index t = a.begin(s) + b.position(u);
          REQUIRE(a.item(t) == b.item(u));
          for (Index c = 0; c < 8; ++c) {
            CHECK(ya(t, c) == doctest::Approx(yb(u, c)).epsilon(1e-12));
            ++compared;
          }
        }
      }
      CHECK(compared == b.tokens() * 8);
      CHECK(b.tokens() > 10);
    }
  }
}

TEST_CASE_TEMPLATE("a fixed hidden size changes nothing", B, EVERY_BACKEND) {
  const B backend;
  const el::TransformerOptions options{.hidden = 8, .layers = 2, .heads = 2, .max_length = 7, .deviation = 0.3};
  const auto batch = random_batch(6, {.lengths = {4, 1, 9}, .max_length = 7, .items = 10}, el::Padding::masked);
  const auto table = random_matrix(backend, 4, 12, 8);
  const auto run = [&](const auto& encoder) {
    using Encoder = std::remove_cvref_t<decltype(encoder)>;
    auto memory = backend.make_workspace();
    const Staged<B> staged(backend, batch);
    const auto tokens = staged.view();
    el::Matrix<B> y(backend, tokens.tokens(), 8);
    el::Matrix<B> dembedded(backend, tokens.tokens(), 8);
    Encoder gradient = encoder;
    std::vector<double> values;
    backend.parallel_for(1, [&](auto& lane, Index) {
      const el::Pass<B> pass{lane, memory, fixed_dropout};
      typename Encoder::Cache cache;
      encoder.forward(pass, tokens, table.view(), cache, y.view());
      values = to_host(backend, y.view());
      encoder.backward(pass, tokens, cache, y.view(), gradient, dembedded.view());
    });
    for (const auto& p : el::parameters(gradient)) {
      const auto more = to_host(backend, p.values);
      values.insert(values.end(), more.begin(), more.end());
    }
    return values;
  };
  CHECK(run(el::TransformerEncoder<8, B>(backend, options, 3)) ==
        run(el::TransformerEncoder<el::Dynamic, B>(backend, options, 3)));
}

// ---- losses as functions ------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("cluster loss", B, EVERY_BACKEND) {
  const B backend;
  const Index users = 9;
  const Index d = 6;
  for (const Index k : {2, 3, 17, 50, 1030}) {  // the last more than a block of rows
    for (const auto pairs : {el::CenterPairs::all, el::CenterPairs::distinct}) {
      for (const auto assignment : {el::Assignment::every, el::Assignment::nearest}) {
        el::WithInput<Values<B>> subject{{random_matrix(backend, 1, k, d)}, random_matrix(backend, 2, users, d)};
        auto nearest = backend.template allocate<std::int32_t>(users);
        const std::span<std::int32_t> nearest_ids(nearest.data(), static_cast<std::size_t>(users));
        backend.parallel_for(1, [&](auto& lane, Index) {
          nearest_rows(lane, subject.input.view(), subject.component.matrix.view(), nearest_ids);
        });
        const auto ids = to_host<std::int32_t>(backend, std::span<const std::int32_t>(nearest_ids));
        const auto loss = [&](const auto& at, auto* gradient) {
          el::Matrix<B> unused_h(backend, users, d);
          el::Matrix<B> unused_c(backend, k, d);
          const auto dh = gradient != nullptr ? gradient->input.view() : unused_h.view();
          const auto dc = gradient != nullptr ? gradient->component.matrix.view() : unused_c.view();
          return sum_of(backend, [&](auto& lane, double* value) {
            if (assignment == el::Assignment::every) {
              el::cluster_loss(lane, at.input.view(), at.component.matrix.view(), pairs, 1.0, value, dh, dc);
            } else {
              el::nearest_cluster_loss(lane, at.input.view(), at.component.matrix.view(), nearest_ids, pairs, 1.0,
                                       value, dh, dc);
            }
          });
        };
        check(el::check_gradients(subject, loss, samples(50), backend), most_samples + std::min(most_samples, k * d));

        const HostCopy users_copy(backend, subject.input.view());
        const HostCopy centers_copy(backend, subject.component.matrix.view());
        const auto h = users_copy.view();
        const auto c = centers_copy.view();
        double attraction = 0;
        double repulsion = 0;
        for (Index i = 0; i < users; ++i) {
          for (Index j = 0; j < k; ++j) {
            const bool mine = assignment == el::Assignment::every || j == ids[static_cast<std::size_t>(i)];
            attraction += mine ? squared_distance(h, i, c, j) : 0.0;
          }
        }
        for (Index i = 0; i < k; ++i) {
          for (Index j = 0; j < k; ++j) {
            repulsion += squared_distance(c, i, c, j);
          }
        }
        const auto terms = static_cast<double>(assignment == el::Assignment::every ? users * k : users);
        const auto center_terms = static_cast<double>(pairs == el::CenterPairs::all ? k * k : k * (k - 1));
        CHECK(loss(subject, static_cast<el::WithInput<Values<B>>*>(nullptr)) ==
              doctest::Approx(attraction / terms - repulsion / center_terms).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE_TEMPLATE("info_nce", B, EVERY_BACKEND) {
  const B backend;
  const Index d = 5;
  const std::vector<Index> lengths{3, 1, 5, 2, 4, 4, 2, 5, 0, 1};  // five users, two views each
  const std::vector<std::int32_t> user_labels{1, 2, 1, 3, 2};
  const auto paper = random_batch(5, {.lengths = lengths, .max_length = 5, .targets = false}, el::Padding::paper);
  const auto ragged = random_batch(5, {.lengths = lengths, .max_length = 5, .targets = false}, el::Padding::masked);
  REQUIRE(el::position_index(paper.view()).dense);
  REQUIRE_FALSE(el::position_index(ragged.view()).dense);
  auto memory = backend.make_workspace();

  struct Case {
    const el::TokenBatch* batch;
    double temperature;
    bool labels;
  };
  for (const Case& one : {Case{&paper, 1.0, false}, {&paper, 0.5, true}, {&ragged, 1.0, true}, {&ragged, 0.5, false}}) {
    const Staged<B> staged(backend, *one.batch);
    const auto tokens = staged.view();
    const double temperature = one.temperature;
    const auto staged_labels = el::test::to_device(backend, user_labels);
    const std::span<const std::int32_t> labels(staged_labels.data(), one.labels ? user_labels.size() : 0);
    Values<B> z{random_matrix(backend, 3, tokens.tokens(), d, 0.4)};
    el::InfoNceOptions options{.temperature = temperature};
    const auto loss = [&](const auto& at, auto* gradient) {
      el::Matrix<B> unused(backend, tokens.tokens(), d);
      const auto dz = gradient != nullptr ? gradient->matrix.view() : unused.view();
      return value_of(backend, [&](double* value) {
        el::info_nce(backend, memory, el::position_index(tokens), at.matrix.view(), labels, options, value, dz);
      });
    };
    check(el::check_gradients(z, loss, samples(50), backend), most_samples);

    // The definition: flattened, zero-padded sequences.
    const Index n = tokens.sequences();
    el::Matrix<el::Reference> flat(el::Reference{}, n, tokens.max_length * d);
    el::ReferenceLane<double> lane;
    concat_pool(lane, one.batch->view(), HostCopy(backend, z.matrix.view()).view(), flat.view());
    double expected = 0;
    for (Index i = 0; i < n; ++i) {
      const auto logit = [&](Index j) {
        double sum = 0;
        for (Index c = 0; c < flat.cols(); ++c) {
          sum += flat.view()(i, c) * flat.view()(j, c);
        }
        return sum / temperature;
      };
      const Index pair = (i + n / 2) % n;
      double total = 0;
      for (Index j = 0; j < n; ++j) {
        const bool same =
            one.labels && user_labels[static_cast<std::size_t>(i % 5)] == user_labels[static_cast<std::size_t>(j % 5)];
        total += j != i && (j == pair || !same) ? std::exp(logit(j)) : 0.0;
      }
      expected += (std::log(total) - logit(pair)) / static_cast<double>(n);
    }
    CHECK(loss(z, static_cast<Values<B>*>(nullptr)) == doctest::Approx(expected).epsilon(1e-12));

    Values<B> plain = z;
    Values<B> scaled = z;
    loss(z, &plain);
    options.share = 0.5;
    options.weight = 3.0;
    CHECK(loss(z, &scaled) == doctest::Approx(0.5 * expected).epsilon(1e-12));
    const auto plain_values = to_host(backend, plain.matrix.view());
    const auto scaled_values = to_host(backend, scaled.matrix.view());
    for (std::size_t i = 0; i < plain_values.size(); ++i) {
      CHECK(scaled_values[i] == doctest::Approx(1.5 * plain_values[i]).epsilon(1e-12));
    }
  }
}

TEST_CASE_TEMPLATE("info_nce of several tiles of samples", B, EVERY_BACKEND) {
  const B backend;
  const Index users = 70;
  const Index d = 5;
  const auto z = random_matrix(backend, 3, 2 * users, d, 0.4);
  el::Matrix<B> dz(backend, 2 * users, d);
  auto memory = backend.make_workspace();
  const double loss = value_of(backend, [&](double* value) {
    el::info_nce(backend, memory, el::GramIndex::rows(2 * users), z.view(), {}, {}, value, dz.view());
  });

  const HostCopy at(backend, z.view());
  const auto pair = [](Index i) { return (i + users) % (2 * users); };
  const auto exponential = [&](Index i, Index j) {
    return j == i ? 0.0 : std::exp(std::inner_product(at.row(i), at.row(i) + d, at.row(j), 0.0));
  };
  std::vector<double> totals;
  double expected = 0;
  for (Index i = 0; i < 2 * users; ++i) {
    totals.push_back(0);
    for (Index j = 0; j < 2 * users; ++j) {
      totals.back() += exponential(i, j);
    }
    expected += std::log(totals.back() / exponential(i, pair(i))) / (2 * users);
  }
  CHECK(loss == doctest::Approx(expected).epsilon(1e-12));
  // dL/dz_i = 1/N Σ_j (p_ij + p_ji - 2 [j = pair(i)]) z_j
  const HostCopy gradient(backend, dz.view());
  for (const Index i : {0, 63, 64, 127, 128, 139}) {
    for (Index c = 0; c < d; ++c) {
      double sum = -2 * at(pair(i), c);
      for (Index j = 0; j < 2 * users; ++j) {
        sum += exponential(i, j) * (1 / totals[static_cast<std::size_t>(i)] + 1 / totals[static_cast<std::size_t>(j)]) *
               at(j, c);
      }
      CHECK(gradient(i, c) == doctest::Approx(sum / (2 * users)).epsilon(1e-9));
    }
  }
}

TEST_CASE_TEMPLATE("gradients of pooling", B, EVERY_BACKEND) {
  const B backend;
  for (const auto padding : both_paddings) {
    const auto batch = random_batch(3, {.lengths = {4, 1, 0, 9}, .max_length = 6, .masked = 0.2}, padding);
    const Staged<B> staged(backend, batch);
    const auto tokens = staged.view();
    for (const auto pooling : poolings) {
      const Index columns = el::pooled_columns(pooling, 6, 3);
      CHECK(columns == (pooling == el::Pooling::concat ? 18 : 3));
      const auto w = random_matrix(backend, 1, 4, columns);
      Values<B> x{random_matrix(backend, 2, tokens.tokens(), 3)};
      const auto loss = [&](const auto& at, auto* gradient) {
        el::Matrix<B> y(backend, 4, columns);
        return sum_of(backend, [&](auto& lane, double* sum) {
          el::pool(lane, pooling, tokens, at.matrix.view(), y.view());
          if (gradient != nullptr) {
            el::pool_backward(lane, pooling, tokens, w.view(), gradient->matrix.view());
          }
          lane.add_dot(1.0, w.view(), y.view(), sum);
        });
      };
      check(el::check_gradients(x, loss, samples(50), backend), std::min<Index>(most_samples, 24));
    }
  }
}

// ---- objectives through a training pass ---------------------------------------------------------------------------

namespace {

constexpr Index items = 12;
constexpr Index hidden = 4;
constexpr Index max_length = 5;
constexpr Index intents = 5;

/// Hundreds of tiny steps: handing them to other threads would take most of the time.
template <class B>
B one_thread() {
  if constexpr (std::is_constructible_v<B, el::CpuOptions>) {
    return B(el::CpuOptions{.threads = 1, .slices = 3});
  } else {
    return B();
  }
}

template <class B>
using Centers = el::LearnableClusters<el::Dynamic, el::Dynamic, B>;

/// Every objective of the library in one model; a test gives weight to one.
template <class B>
using EveryObjective = el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, Centers<B>, el::NextItemBce,
                                           el::NextItemBpr, el::NextItemSoftmax, el::NextItem, el::SequenceContrast<>,
                                           el::ProjectCenters, el::ClusterLoss, el::IntentContrast<>>;

template <class B>
el::TransformerEncoder<el::Dynamic, B> small_encoder(const B& backend) {
  return {backend,
          {.hidden = hidden,
           .layers = 1,
           .heads = 2,
           .max_length = max_length,
           .dropout = 0.3,
           .attention_dropout = 0.3,
           .deviation = 0.3}};
}

template <class B>
EveryObjective<B> every_objective(const B& backend, el::Pooling pooling, el::Padding padding) {
  EveryObjective<B> model(backend, {items, 1, 0.5}, small_encoder(backend),
                          Centers<B>(backend, intents, el::pooled_columns(pooling, max_length, hidden), 3));
  std::apply([](auto&... objective) { ((objective.weight = 0), ...); }, model.objectives);
  model.padding = padding;
  return model;
}

template <class Model>
el::StepBatches<Model> random_batches(el::Padding padding) {
  el::StepBatches<Model> batches;
  using Sources = typename Model::SourceList;
  const std::vector<Index> lengths{3, 1, 8, 2, 5, 4};
  if constexpr (Sources::template contains<el::InputView>) {
    batches.template of<el::InputView>() =
        random_batch(1, {.lengths = lengths, .max_length = max_length, .items = items}, padding);
  }
  const auto add_prefixes = [padding](el::TokenBatch& batch, const std::vector<std::vector<ItemId>>& prefixes) {
    batch.start(max_length, padding);
    std::size_t n = 0;
    for (const auto& prefix : prefixes) {
      std::vector<ItemId> targets(prefix.size(), el::padding_item);
      std::vector<ItemId> negatives = targets;
      targets.back() = n++ < 2 ? 6 : static_cast<ItemId>(n);
      negatives.back() = 8;
      batch.add(prefix, {el::with<el::Targets>(targets), el::with<el::Negatives>(negatives)});
    }
  };
  if constexpr (Sources::template contains<el::PrefixView>) {
    add_prefixes(batches.template of<el::PrefixView>(), {{3}, {3, 7}, {3, 7, 1, 9, 2, 4, 4}, {5, 5}});
  }
  if constexpr (Sources::template contains<el::AugmentedPair<>>) {
    auto& pair = batches.template of<el::AugmentedPair<>>();
    pair = random_batch(2,
                        {.lengths = {3, 1, 5, 0, 5, 4, 2, 1, 7, 2, 1, 4},
                         .max_length = max_length,
                         .items = items,
                         .masked = 0.2,
                         .targets = false},
                        padding);
    for (const ItemId label : {1, 2, 1, 3, 4, 2}) {
      pair.append(el::with<el::Labels>(label));
    }
  }
  return batches;
}

/// What a step trains: all parameters but row 0 of the item table.
template <class Model>
struct Trained {
  using Backend = typename Model::Backend;
  static void visit_parameters(auto& self, auto&& visitor) {
    Model::visit_parameters(self.model, [&](const std::string& name, auto values, int rank) {
      visitor(
          name,
          name == "item_embeddings.weight" ? values.slice_rows(1, values.rows()) : values.slice_rows(0, values.rows()),
          rank);
    });
  }
  Model model;
};

/// Losses and gradients of a training pass with dropout against central differences. Where an objective projects the
/// centers, only the part of their gradient that is tangential to the sphere can show.
template <class Model>
void check_pass(Model& model, bool projects, const std::function<void(Model&)>& configure) {
  configure(model);
  const auto batches = random_batches<Model>(model.padding);
  const auto& backend = model.backend();
  el::TrainingPass<Model> pass(model);
  Trained<Model> subject{shaken(backend, model)};
  if constexpr (Model::has_clusters) {
    backend.parallel_for(1, [&](auto& lane, Index) { subject.model.clusters().project(lane); });
  }
  const auto copy = [&backend](const auto& from, const auto& to) {
    backend.parallel_for(1, [&](auto& lane, Index) {
      for (std::size_t i = 0; i < from.size(); ++i) {
        lane.copy(from[i].values, to[i].values);
      }
    });
  };
  const auto loss = [&](auto& at, Trained<Model>* gradient) {
    copy(el::parameters(at.model), el::parameters(model));
    const double total = pass.run(batches, 7, 3).total;
    if (gradient != nullptr) {
      const auto gradients = pass.gradients();
      const auto same_name = [](const auto& a, const auto& b) { return a.name == b.name; };
      const auto named = el::parameters(model);
      CHECK(std::equal(gradients.begin(), gradients.end(), named.begin(), named.end(), same_name));
      const auto table =
          std::ranges::find_if(gradients, [](const auto& p) { return p.name == "item_embeddings.weight"; });
      const auto padding_row = table->values.slice_rows(0, 1);
      CHECK(to_host(backend, padding_row) == std::vector<double>(hidden, 0.0));  // padding is never trained
      copy(gradients, el::parameters(gradient->model));
      if constexpr (Model::has_clusters) {
        const auto centers = gradient->model.clusters().centers();
        auto values = to_host(backend, centers);
        const el::MatrixView<double> g(values.data(), centers.rows(), centers.cols());
        const HostCopy c(backend, at.model.clusters().centers());
        for (Index j = 0; projects && j < g.rows(); ++j) {
          const double along = std::inner_product(g.row(j), g.row(j) + g.cols(), c.row(j), 0.0);
          for (Index i = 0; i < g.cols(); ++i) {
            g(j, i) -= along * c(j, i);
          }
        }
        el::test::to_device(backend, values, centers);
      }
    }
    return total;
  };
  const auto found = el::check_gradients(subject, loss, samples(pass_samples), model.backend());
  check(found, 15 * pass_samples);
  if (along_directions) {
    Trained<Model> gradient = subject;
    check_directions(
        backend, el::parameters(subject), [&] { return loss(subject, &gradient); },
        [&] { return el::parameters(gradient); });
  }
  CHECK(loss(subject, nullptr) != 0.0);
}

template <class B>
void check_objective(const std::string& name, el::Pooling pooling, bool projects,
                     const std::function<void(EveryObjective<B>&)>& configure) {
  const auto backend = one_thread<B>();
  for (const auto padding : both_paddings) {
    CAPTURE(name);
    CAPTURE(padding == el::Padding::paper);
    CAPTURE(pooling == el::Pooling::mean);
    auto model = every_objective(backend, pooling, padding);
    check_pass<EveryObjective<B>>(model, projects, configure);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("gradients of next-item objectives", B, EVERY_BACKEND) {
  using Model = EveryObjective<B>;
  check_objective<B>("bce", el::Pooling::mean, false,
                     [](Model& m) { m.template objective<el::NextItemBce>().weight = 0.7; });
  check_objective<B>("bpr", el::Pooling::mean, false,
                     [](Model& m) { m.template objective<el::NextItemBpr>().weight = 1.3; });
  check_objective<B>("softmax", el::Pooling::mean, false,
                     [](Model& m) { m.template objective<el::NextItemSoftmax>().weight = 0.7; });
  for (const auto loss : {el::NextItemLoss::bce, el::NextItemLoss::bpr, el::NextItemLoss::softmax}) {
    check_objective<B>("prefixes", el::Pooling::mean, false, [loss](Model& m) {
      m.template objective<el::NextItem>() = {.weight = 0.7, .loss = loss, .samples = el::NextItemSamples::prefixes};
    });
  }
}

TEST_CASE_TEMPLATE("gradients of a softmax with smoothed labels", B, EVERY_BACKEND) {
  for (const auto samples : {el::NextItemSamples::positions, el::NextItemSamples::prefixes}) {
    check_objective<B>("smoothing", el::Pooling::mean, false, [samples](auto& m) {
      m.template objective<el::NextItem>() = {
          .weight = 0.7, .loss = el::NextItemLoss::softmax, .samples = samples, .labels = {.smoothing = 0.2}};
    });
  }
}

TEST_CASE_TEMPLATE("a softmax over several blocks of items, of targets in several chunks", B, EVERY_BACKEND) {
  const auto backend = one_thread<B>();
  using Model = el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, el::NextItem>;
  Model model(backend, {many_items, 1, 0.5}, small_encoder(backend));
  auto& softmax = model.template objective<el::NextItem>();  // member by member: nvcc 13 takes no braces here
  softmax.weight = 0.7;
  softmax.loss = el::NextItemLoss::softmax;
  softmax.labels.smoothing = 0.2;
  el::StepBatches<Model> batches;
  batches.template of<el::InputView>() =
      random_batch(1,
                   {.lengths = std::vector<Index>(static_cast<std::size_t>(many_users), max_length),
                    .max_length = max_length,
                    .items = many_items},
                   model.padding);
  el::TrainingPass<Model> pass(model);
  // Without dropout: of so many rows some would be empty, whose layer norm has a jump there.
  check_directions(
      backend, el::parameters(model), [&] { return pass.run(batches, 7, 3, false).total; },
      [&] { return pass.gradients(); });
}

namespace {

/// A softmax whose encodings are to agree, with the loss that its gradients are of: cross entropies in plain loops
/// against labels that stay what they were at the first call.
struct FrozenLabels {
  using Partner = el::Again<el::PrefixView>;
  using Views = el::TypeList<el::PrefixView, Partner>;
  static constexpr std::string_view name = "frozen_labels";

  double weight = 0.7;
  el::SoftmaxLabels labels{.smoothing = 0.15, .agreement = 0.35};
  std::shared_ptr<std::vector<double>> frozen = std::make_shared<std::vector<double>>();  // (2, N, V)

  void evaluate(auto& step) const {
    using Step = std::remove_reference_t<decltype(step)>;
    using Lane = typename Step::Lane;
    using T = typename Step::Scalar;
    const auto unused = step.memory().template array<double>(1);
    const std::array sides = {&step.template encoding<el::PrefixView>(), &step.template encoding<Partner>()};
    el::full_softmax<Step>(step, sides, weight, labels, unused.data());
    const auto& backend = step.backend();
    const auto& first = step.template encoding<el::PrefixView>();
    const auto& second = step.template encoding<Partner>();
    const HostCopy table(backend, step.scored_items());
    const auto ids = to_host<ItemId>(backend, first.tokens.template column<el::Targets>());
    const auto tokens = to_host<std::int32_t>(backend, first.tokens.template column<el::TargetTokens>());
    std::vector<double> predicted;  // log p
    for (const auto* side : {&first, &second}) {
      const HostCopy y(backend, side->y);
      for (const auto t : tokens) {
        std::vector<double> z;
        for (Index v = 1; v <= items; ++v) {
          z.push_back(0);
          for (Index c = 0; c < hidden; ++c) {
            z.back() += y(t, c) * table(v, c);
          }
        }
        double sum = 0;
        for (const double value : z) {
          sum += std::exp(value);
        }
        for (const double value : z) {
          predicted.push_back(value - std::log(sum));
        }
      }
    }
    const std::size_t half = predicted.size() / 2;
    if (frozen->empty()) {
      for (std::size_t i = 0; i < predicted.size(); ++i) {
        const auto item = static_cast<ItemId>(i % static_cast<std::size_t>(items)) + 1;
        const std::size_t n = i % half / static_cast<std::size_t>(items);
        const double target =
            item == ids[static_cast<std::size_t>(tokens[n])] ? 1 - labels.smoothing - labels.agreement : 0;
        const double other = std::exp(predicted[(i + half) % predicted.size()]);
        frozen->push_back(target + labels.smoothing / static_cast<double>(items) + labels.agreement * other);
      }
    }
    const double n = 2 * static_cast<double>(tokens.size());
    const double loss = -std::inner_product(predicted.begin(), predicted.end(), frozen->begin(), 0.0) / n;
    const auto value = step.memory().template matrix<T>(1, 1);
    el::test::to_device(backend, {loss}, value);
    backend.parallel_for(1, [&](Lane& lane, Index) { lane.add_sum(1.0, value, step.loss(*this)); });
  }
};

}  // namespace

TEST_CASE_TEMPLATE("gradients of a softmax whose encodings agree", B, EVERY_BACKEND) {
  const auto backend = one_thread<B>();
  for (const auto padding : both_paddings) {
    using Model = el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, FrozenLabels>;
    Model model(backend, {items, 1, 0.5}, small_encoder(backend));
    model.padding = padding;
    check_pass<Model>(model, false, [](Model&) {});
  }
}

TEST_CASE_TEMPLATE("gradients of sequence contrast", B, EVERY_BACKEND) {
  for (const auto pooling : poolings) {
    for (const auto prototype : {el::Prototype::shift, el::Prototype::concat}) {
      for (const bool masking : {false, true}) {
        check_objective<B>("sequence contrast", pooling, false, [&](auto& m) {
          m.template objective<el::SequenceContrast<>>() = {.weight = 0.6,
                                                            .temperature = 2.0,
                                                            .prototype = prototype,
                                                            .pooling = pooling,
                                                            .mask_false_negatives = masking};
        });
      }
    }
  }
}

TEST_CASE_TEMPLATE("gradients of the cluster loss as an objective", B, EVERY_BACKEND) {
  for (const auto pooling : poolings) {
    for (const auto assignment : {el::Assignment::every, el::Assignment::nearest}) {
      check_objective<B>("cluster", pooling, true, [&](auto& m) {
        m.template objective<el::ClusterLoss>() = {
            .weight = 2.0, .pairs = el::CenterPairs::distinct, .assignment = assignment, .pooling = pooling};
      });
    }
  }
}

TEST_CASE_TEMPLATE("gradients of intent contrast", B, EVERY_BACKEND) {
  for (const auto pooling : poolings) {
    for (const bool share : {false, true}) {
      for (const bool masking : {false, true}) {
        check_objective<B>("intent contrast", pooling, true, [&](auto& m) {
          m.template objective<el::IntentContrast<>>() = {.weight = 0.8,
                                                          .temperature = 2.0,
                                                          .pooling = pooling,
                                                          .mask_false_negatives = masking,
                                                          .share_views = share};
        });
      }
    }
  }
}

TEST_CASE_TEMPLATE("users of one label, or of one intent, are no negatives of each other", B, EVERY_BACKEND) {
  const auto backend = one_thread<B>();
  using Model = EveryObjective<B>;
  for (const auto padding : both_paddings) {
    const auto batches = random_batches<Model>(padding);  // six users: two pairs share a label, and of five intents one
    const auto loss = [&](auto objective, bool masking) {
      auto model = every_objective(backend, el::Pooling::mean, padding);
      objective.weight = 1;
      objective.mask_false_negatives = masking;
      model.template objective<decltype(objective)>() = objective;
      return el::TrainingPass<Model>(model).run(batches, 7, 3).total;
    };
    CHECK(loss(el::SequenceContrast<>{}, true) < loss(el::SequenceContrast<>{}, false) - 1e-3);
    CHECK(loss(el::IntentContrast<>{}, true) < loss(el::IntentContrast<>{}, false) - 1e-3);
  }
}

TEST_CASE_TEMPLATE("next-item losses equal their formulas, under both paddings", B, EVERY_BACKEND) {
  const B backend;
  std::vector<double> with_dropout;
  for (const auto padding : both_paddings) {
    auto model = every_objective(backend, el::Pooling::mean, padding);
    const auto batches = random_batches<EveryObjective<B>>(padding);
    const auto tokens = batches.template of<el::InputView>().view();
    double bce = 0;
    double bpr = 0;
    double softmax = 0;
    Index targets = 0;
    const Staged<B> staged(backend, batches.template of<el::InputView>());
    const HostCopy table(backend, model.items());
    const auto add_losses = [&](const HostCopy& y) {
      const auto score = [&](Index t, Index v) {
        return std::inner_product(y.row(t), y.row(t) + hidden, table.row(v), 0.0);
      };
      const auto logistic = [](double x) { return 1 / (1 + std::exp(-x)); };
      for (Index t = 0; t < tokens.tokens(); ++t) {
        const ItemId target = tokens.template column<el::Targets>()[static_cast<std::size_t>(t)];
        if (target == 0) {
          continue;
        }
        const double positive = score(t, target);
        const double negative = score(t, tokens.template column<el::Negatives>()[static_cast<std::size_t>(t)]);
        bce -= std::log(logistic(positive)) + std::log(1 - logistic(negative));
        bpr -= std::log(logistic(positive - negative));
        double total = 0;
        for (Index v = 1; v <= items; ++v) {
          total += std::exp(score(t, v));
        }
        softmax += std::log(total) - positive;
        ++targets;
      }
    };
    backend.parallel_for(1, [&](auto& lane, Index) {
      model.encode(lane, staged.view(), [&](auto y) { add_losses(HostCopy(backend, y)); });
    });
    CHECK(targets == 3 + 1 + 5 + 2 + 5 + 4);
    std::apply([](auto& a, auto& b, auto& c, auto&...) { a.weight = b.weight = c.weight = 1; }, model.objectives);
    el::TrainingPass<EveryObjective<B>> pass(model);
    const auto losses = pass.run(batches, 0, 0, false);
    REQUIRE(losses.terms.size() == 3);
    const auto n = static_cast<double>(targets);
    CHECK(losses.terms[0].second == doctest::Approx(bce / n).epsilon(1e-12));
    CHECK(losses.terms[1].second == doctest::Approx(bpr / n).epsilon(1e-12));
    CHECK(losses.terms[2].second == doctest::Approx(softmax / n).epsilon(1e-12));
    CHECK(losses.total == doctest::Approx((bce + bpr + softmax) / n).epsilon(1e-12));
    with_dropout.push_back(pass.run(batches, 9, 1, true).total);
    CHECK(std::abs(with_dropout.back() - losses.total) > 1e-6);
    CHECK(pass.run(batches, 9, 2, true).total != with_dropout.back());
    CHECK(pass.run(batches, 8, 1, true).total != with_dropout.back());
    CHECK(with_dropout.back() ==
          doctest::Approx(with_dropout.front()).epsilon(1e-12));  // the same bits under both paddings
  }
}

TEST_CASE_TEMPLATE("ELCRec and its ablations run and their gradients are right", B, EVERY_BACKEND) {
  const B backend;
  const el::TransformerEncoder<el::Dynamic, B> encoder(
      backend, {.hidden = hidden, .layers = 1, .heads = 2, .max_length = max_length, .deviation = 0.3});
  const Centers<B> clusters(backend, intents, hidden);
  const auto run = [&]<class Model>(Model model, std::size_t terms) {
    const auto losses = el::TrainingPass<Model>(model).run(random_batches<Model>(el::Padding::masked), 0, 0);
    CHECK(losses.terms.size() == terms);
    CHECK(std::isfinite(losses.total));
  };
  run(el::SasRecWithContrast<B>(backend, items, encoder, clusters), 3);
  run(el::SasRecWithClusters<B>(backend, items, encoder, clusters), 2);
  run(el::ELCRec<B>({.items = items, .max_length = max_length, .hidden = hidden, .intents = intents}, backend), 4);
  el::SasRec<B> plain(backend, {items, 1, 0.5}, encoder);
  check_pass<el::SasRec<B>>(plain, false, [](auto&) {});
}

template <class B, class... Objectives>
void check_head(auto make) {
  const auto backend = one_thread<B>();
  for (const auto padding : both_paddings) {
    using Head = decltype(make(backend));
    using Model = el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, Head, Objectives...>;
    Model model(backend, {items, 1, 0.5}, small_encoder(backend), make(backend));
    model.padding = padding;
    check_pass<Model>(model, false, [](Model&) {});
  }
}

TEST_CASE_TEMPLATE("gradients through heads, beside an objective that reads encodings", B, EVERY_BACKEND) {
  const auto biased = [](const B& backend) {
    el::DotBiasHead<B> head(backend, items + 2);
    el::initialise_normal(backend, 5, 0, 0.7, head.bias());
    return head;
  };
  check_head<B, el::NextItemSoftmax>(biased);
  check_head<B, el::NextItemBpr, el::SequenceContrast<>>(biased);
  const auto cosine = [](const B&) { return el::CosineHead<B>(0.3); };
  check_head<B, el::NextItemSoftmax>(cosine);
  check_head<B, el::NextItemBce>(cosine);
}

TEST_CASE("centers are projected where an objective after that reads them, and left alone where none does") {
  const el::Reference backend;
  auto model = every_objective(backend, el::Pooling::mean, el::Padding::masked);
  using Model = decltype(model);
  const auto batches = random_batches<Model>(el::Padding::masked);
  el::TrainingPass<Model> pass(model);
  backend.parallel_for(1,
                       [&](auto& lane, Index) { lane.scale(2.0, el::MatrixView<double>(model.clusters().centers())); });
  const auto length = [&] {
    const double* center = model.clusters().centers().row(0);
    return std::sqrt(std::inner_product(center, center + hidden, center, 0.0));
  };
  model.objective<el::SequenceContrast<>>().weight = 1;  // stands before the projection
  pass.run(batches, 0, 0);
  CHECK(length() == doctest::Approx(2));
  model.objective<el::ClusterLoss>().weight = 1;
  pass.run(batches, 0, 1);
  CHECK(length() == doctest::Approx(1));
}

// ---- steps in little memory ----------------------------------------------------------------------------------------

namespace {

/// Loss and gradients of a step in `bytes` of memory against those of the whole step at once.
template <class Model>
void check_little_memory(Model& model, std::size_t bytes) {
  const auto batches = random_batches<Model>(model.padding);
  el::TrainingPass<Model> whole(model);
  el::TrainingPass<Model> little(model, bytes);
  for (std::uint32_t step = 0; step < 2; ++step) {  // the second one finds what the first left
    const double loss = whole.run(batches, 7, step).total;
    CHECK(little.run(batches, 7, step).total == doctest::Approx(loss).epsilon(1e-12));
    const auto expected = whole.gradients();
    const auto found = little.gradients();
    REQUIRE(found.size() == expected.size());
    for (std::size_t p = 0; p < found.size(); ++p) {
      CHECK(found[p].rows.has_value() == expected[p].rows.has_value());
      const auto a = to_host(model.backend(), expected[p].values);
      const auto b = to_host(model.backend(), found[p].values);
      for (std::size_t i = 0; i < a.size(); ++i) {
        CHECK(b[i] == doctest::Approx(a[i]).epsilon(1e-9));
      }
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("a step in little memory is the step", B, EVERY_BACKEND) {
  const auto backend = one_thread<B>();
  for (const auto padding : both_paddings) {
    for (const std::size_t bytes : std::array<std::size_t, 3>{1, 4000, 30000}) {
      using NextItems = el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, el::NextItem>;
      NextItems next(backend, {items, 1, 0.5}, small_encoder(backend));
      next.padding = padding;
      auto& loss = next.template objective<el::NextItem>();
      for (const auto kind : {el::NextItemLoss::bce, el::NextItemLoss::softmax}) {
        loss.loss = kind;
        loss.samples = el::NextItemSamples::positions;
        check_little_memory(next, bytes);
        loss.samples = el::NextItemSamples::prefixes;
        loss.labels.smoothing = 0.1;
        loss.labels.agreement = 0.3;
        check_little_memory(next, bytes);
      }
      auto every = every_objective(backend, el::Pooling::mean, padding);
      std::apply([](auto&... objective) { ((objective.weight = 0.5), ...); }, every.objectives);
      every.template objective<el::NextItem>().samples = el::NextItemSamples::prefixes;  // a source of its own
      check_little_memory(every, bytes);
      el::SequentialModel<el::TransformerEncoder<el::Dynamic, B>, el::DotBiasHead<B>, el::NextItemSoftmax> biased(
          backend, {items, 1, 0.5}, small_encoder(backend), el::DotBiasHead<B>(backend, items + 2));
      biased.padding = padding;
      check_little_memory(biased, bytes);
    }
  }
}

TEST_CASE("what passes in phases, and what is encoded twice") {
  using B = el::Reference;
  const B backend;
  auto model = every_objective(backend, el::Pooling::mean, el::Padding::masked);
  using Model = decltype(model);
  const auto batches = random_batches<Model>(el::Padding::masked);  // 20 tokens of six users, prefixes of 1, 2, 5, 2
  constexpr std::size_t input = Model::SourceList::index_of<el::InputView>();
  constexpr std::size_t prefixes = Model::SourceList::index_of<el::PrefixView>();
  auto& next = model.objective<el::NextItem>();
  next.weight = 1;
  next.samples = el::NextItemSamples::prefixes;
  const auto plan = [&](Index budget) { return el::StepPlan<Model>(model, batches, 100, budget, 1); };
  CHECK(plan(1000).phases() == 1);
  CHECK(!plan(1000).in_phases(prefixes));
  const auto three = plan(600);
  REQUIRE(three.phases() == 3);
  CHECK(three.in_phases(prefixes));
  CHECK(three.range(prefixes, 0) == std::pair<Index, Index>(0, 2));
  CHECK(three.range(prefixes, 1) == std::pair<Index, Index>(2, 3));
  CHECK(three.range(prefixes, 2) == std::pair<Index, Index>(3, 4));
  CHECK(plan(1).phases() == 4);  // a sequence is the least that passes
  CHECK(!plan(1).encodes_again());

  SUBCASE("what compares users is encoded twice, and takes half the memory for it") {
    model.objective<el::ClusterLoss>().weight = 1;
    const auto both = plan(1000);
    CHECK(both.encodes_again());
    CHECK(!both.in_phases(input));
    CHECK(both.takes_part(input, 0));
    CHECK(!both.takes_part(input, 1));
    CHECK(both.run_tokens() == 5);
    CHECK(both.phases() == 3);
    CHECK(plan(3200).phases() == 1);
  }
  SUBCASE("a sum over the sequences of a view that something else reads passes with it") {
    model.objective<el::NextItemBce>().weight = 1;
    CHECK(plan(1000).in_phases(input));
    model.objective<el::ClusterLoss>().weight = 1;
    CHECK(!plan(1000).in_phases(input));
  }
}

// ---- clusters -----------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("k_means finds separable blobs", B, K_MEANS_BACKENDS) {
  const B backend;
  const Index per_blob = 40;
  auto points = random_matrix(backend, 8, 3 * per_blob, 5, 0.1);
  auto values = to_host(backend, points.view());
  for (Index i = 0; i < points.rows(); ++i) {
    values[static_cast<std::size_t>(i * 5 + i % 3)] += 4;
  }
  el::test::to_device(backend, values, points.view());
  const HostCopy point(backend, points.view());
  std::vector<std::vector<double>> means(3, std::vector<double>(5));
  for (Index i = 0; i < points.rows(); ++i) {
    for (Index c = 0; c < 5; ++c) {
      means[static_cast<std::size_t>(i % 3)][static_cast<std::size_t>(c)] += point(i, c) / per_blob;
    }
  }
  el::Matrix<B> centers(backend, 3, 5);
  const double inertia = el::k_means<B>(backend, points.view(), {}, centers.view());
  double expected = 0;
  for (Index i = 0; i < points.rows(); ++i) {
    for (Index c = 0; c < 5; ++c) {
      const double gap = point(i, c) - means[static_cast<std::size_t>(i % 3)][static_cast<std::size_t>(c)];
      expected += gap * gap;
    }
  }
  CHECK(inertia == doctest::Approx(expected).epsilon(1e-4));
  const HostCopy center(backend, centers.view());
  for (const auto& mean : means) {
    double nearest = 1e9;
    for (Index j = 0; j < 3; ++j) {
      double distance = 0;
      for (Index c = 0; c < 5; ++c) {
        distance += std::abs(center(j, c) - mean[static_cast<std::size_t>(c)]);
      }
      nearest = std::min(nearest, distance);
    }
    CHECK(nearest < 1e-5);
  }
  CHECK(failure([&] {
          el::Matrix<B> many(backend, 121, 5);
          el::k_means<B>(backend, points.view(), {}, many.view());
        }) == "k-means: found K = 121 clusters for 120 points, expected 1 <= K <= points");
}

TEST_CASE("k_means refills an empty cluster") {
  const el::Cpu backend;
  el::Matrix<el::Cpu> points(backend, 20, 2);
  points.view()(13, 0) = 10;  // the others are all the same, so most starts put two centers on one place
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    el::Matrix<el::Cpu> centers(backend, 2, 2);
    CHECK(el::k_means<el::Cpu>(backend, points.view(), {.restarts = 1, .seed = seed}, centers.view()) < 1e-12);
    CHECK(centers.view()(0, 0) + centers.view()(1, 0) == 10.0F);
  }
}

TEST_CASE("k_means refills two empty clusters with two points") {
  const el::Cpu backend;
  el::Matrix<el::Cpu> points(backend, 20, 2);
  points.view()(13, 0) = 10;
  points.view()(4, 1) = 20;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    el::Matrix<el::Cpu> centers(backend, 3, 2);
    // The first pass moves the points that were left over, the second what they leave behind.
    CHECK(el::k_means<el::Cpu>(backend, points.view(), {.iterations = 2, .restarts = 1, .seed = seed}, centers.view()) <
          1e-12);
  }
}

TEST_CASE("k_means gives the best of its starts, each another, and what its centers reach") {
  const el::Cpu backend;
  const auto points = random_matrix(backend, 4, 300, 3);
  std::vector<double> reached;
  for (int restarts = 1; restarts <= 8; ++restarts) {
    el::Matrix<el::Cpu> centers(backend, 12, 3);
    reached.push_back(el::k_means<el::Cpu>(backend, points.view(), {.iterations = 4, .restarts = restarts, .seed = 2},
                                           centers.view()));
    const HostCopy point(backend, points.view());
    const HostCopy center(backend, centers.view());
    double sum = 0;
    for (Index i = 0; i < 300; ++i) {
      double nearest = std::numeric_limits<double>::max();
      for (Index j = 0; j < 12; ++j) {
        nearest = std::min(nearest, squared_distance(point.view(), i, center.view(), j));
      }
      sum += nearest;
    }
    CHECK(reached.back() == doctest::Approx(sum).epsilon(1e-5));
  }
  CHECK(std::is_sorted(reached.rbegin(), reached.rend()));
  CHECK(reached.back() < reached.front());
  CHECK(std::adjacent_find(reached.begin(), reached.end()) != reached.end());  // a start that was no better
}

TEST_CASE("k_means gives the same bits for any number of threads") {
  std::vector<std::vector<double>> found;
  for (const Index threads : {1, 2, 3}) {
    const el::Cpu backend({.threads = threads});
    const auto points = random_matrix(backend, 4, 1500, 8);
    el::Matrix<el::Cpu> centers(backend, 20, 8);
    const double inertia =
        el::k_means<el::Cpu>(backend, points.view(), {.iterations = 5, .restarts = 2}, centers.view());
    found.push_back(el::test::to_host(backend, centers.view()));
    found.back().push_back(inertia);
  }
  CHECK(found[0] == found[1]);
  CHECK(found[0] == found[2]);
}

// ---- wrong options ------------------------------------------------------------------------------------------------

TEST_CASE("wrong options say what is expected") {
  const el::Reference backend;
  const auto encoder = [&](const el::TransformerOptions& o) {
    return failure([&] { static_cast<void>(el::TransformerEncoder<el::Dynamic, el::Reference>(backend, o)); });
  };
  CHECK(encoder({.hidden = 0}) == "hidden size: found 0, expected at least 1");
  CHECK(encoder({.hidden = 64, .heads = 3}) == "heads: found 3, expected a divisor of the hidden size 64");
  CHECK(encoder({.heads = 0}) == "heads: found 0, expected a divisor of the hidden size 64");
  CHECK(encoder({.layers = -1}) == "layers: found -1, expected 0 to 64");
  CHECK(encoder({.max_length = 0}) == "maximum length: found 0, expected at least 1");
  CHECK(encoder({.dropout = 1.0}) == "dropout: found 1, expected a value in [0, 1)");
  CHECK(encoder({.attention_dropout = -0.5}) == "dropout: found -0.5, expected a value in [0, 1)");
  CHECK(failure([&] { static_cast<void>(el::TransformerEncoder<32, el::Reference>(backend, {.hidden = 64})); }) ==
        "hidden size: found 64, expected 32, the size that the encoder's type fixes");

  const auto model = [](el::ELCRecOptions o) {
    o.items = o.items == 0 ? 10 : o.items;
    o.hidden = o.hidden == 64 ? 8 : o.hidden;
    return failure([&] { static_cast<void>(el::ELCRec<el::Reference>(o)); });
  };
  CHECK(model({}) == "nothing thrown");
  CHECK(model({.items = -1}) == "items: found -1, expected 1 to 2^31 - 3");
  CHECK(model({.intents = 0}) == "intents: found K = 0, expected at least 1");
  CHECK(model({.hidden = 0}) == "hidden size: found 0, expected at least 1");
  CHECK(model({.heads = 3}) == "heads: found 3, expected a divisor of the hidden size 8");
  CHECK(model({.dropout = 1.0}) == "dropout: found 1, expected a value in [0, 1)");
  CHECK(model({.filter_share = 1, .samples = el::NextItemSamples::prefixes}) ==
        "share of the filter: found 1, expected a value in [0, 1)");
  CHECK(model({.filter_share = 0.5, .filter_frequencies = 26, .samples = el::NextItemSamples::prefixes}) ==
        "filter: found 26 frequencies, expected 1 to 25 of 50 positions");
  for (const auto mask : {el::AttentionMask::causal, el::AttentionMask::bidirectional}) {
    CHECK(
        model({.attention_mask = mask, .filter_share = mask == el::AttentionMask::causal ? 0.5 : 0.0}) ==
        "samples: found positions with a filter or bidirectional attention, which see what follows; expected prefixes");
  }
  CHECK(model({.temperature = 0}) == "temperature: found 0, expected a positive number");
  CHECK(failure([] { static_cast<void>(el::preset("books")); }) ==
        "preset: found 'books', expected best, beauty, sports, toys or yelp");

  CHECK(failure([&] {
          el::SasRecWithClusters<el::Reference> one(
              backend, items, {backend, {.hidden = hidden, .layers = 0, .max_length = max_length}},
              Centers<el::Reference>(backend, 1, hidden));
          one.objective<el::ClusterLoss>().pairs = el::CenterPairs::distinct;
          el::TrainingPass<decltype(one)>(one).run(random_batches<decltype(one)>(el::Padding::masked), 0, 0);
        }) == "cluster loss over distinct pairs of centers: found K = 1, expected at least 2");
}

// ---- what a training pass refuses -----------------------------------------------------------------------------------

namespace {

constexpr el::TransformerOptions no_layers{.hidden = hidden, .layers = 0, .max_length = max_length};
constexpr Index catalogue = items;  // where a member is called items

/// An encoder of no layers that does not say whether it is causal.
struct Silent {
  using Inner = el::TransformerEncoder<el::Dynamic, el::Reference>;
  using Backend = el::Reference;
  using Cache = Inner::Cache;

  [[nodiscard]] Index hidden() const { return inner.hidden(); }
  [[nodiscard]] Index max_length() const { return inner.max_length(); }
  void forward(auto&&... arguments) const { inner.forward(arguments...); }
  void backward(const auto& pass, const auto& tokens, const auto& cache, auto dy, Silent& gradient, auto out) const {
    inner.backward(pass, tokens, cache, dy, gradient.inner, out);
  }
  static void visit_parameters(auto& self, auto&& visitor) { Inner::visit_parameters(self.inner, visitor); }

  Inner inner{el::Reference(), no_layers};
};

/// The input's view by an author who did not think of encoders that look ahead.
struct OwnView {
  void build(const el::BatchSource& source, std::span<const Index> users, el::TokenBatch& batch) const {
    el::InputView{}.build(source, users, batch);
  }
};

/// A model with a parameter that no training pass has a gradient for.
struct WithBias : el::SasRec<el::Reference> {
  explicit WithBias(const el::TransformerEncoder<el::Dynamic, el::Reference>& encoder_part, Index bias_size)
      : el::SasRec<el::Reference>(el::Reference(), catalogue, encoder_part), bias(el::Reference(), 1, bias_size) {}
  static void visit_parameters(auto& self, auto&& visitor) {
    el::SasRec<el::Reference>::visit_parameters(self, visitor);
    visitor("score_bias", el::MatrixView(self.bias.view()), 1);
  }
  el::Matrix<el::Reference> bias;
};

/// A model that names the encoder's parameters alone.
struct WithoutItems : el::SasRec<el::Reference> {
  using el::SasRec<el::Reference>::SasRec;
  static void visit_parameters(auto& self, auto&& visitor) {
    el::TransformerEncoder<el::Dynamic, el::Reference>::visit_parameters(self.encoder, visitor);
  }
};

template <class Model>
std::string refusal(Model& model) {
  return failure([&] { el::TrainingPass<Model> pass(model); });
}

}  // namespace

TEST_CASE("an encoder that looks ahead is not trained on targets that it sees") {
  using Encoder = el::TransformerEncoder<el::Dynamic, el::Reference>;
  using B = el::Reference;
  const B backend;
  const auto encoder = [&](el::AttentionMask mask, double filter_share) {
    return Encoder(backend, {.hidden = hidden,
                             .layers = 1,
                             .max_length = max_length,
                             .mask = mask,
                             .filter_share = filter_share,
                             .filter_frequencies = 2});
  };
  const auto all = el::AttentionMask::bidirectional;
  const auto causal = el::AttentionMask::causal;
  const auto plain = [&](const Encoder& e) {
    el::SasRec<B> model(backend, items, e);
    return refusal(model);
  };
  CHECK(plain(encoder(causal, 0)) == "nothing thrown");
  for (const auto& what : {plain(encoder(all, 0)), plain(encoder(causal, 0.5))}) {
    CHECK(what.find("encoder: found one that sees the tokens that follow") == 0);
    CHECK(what.find("'next_item'") != std::string::npos);
    CHECK(what.find("InputView") != std::string::npos);
    CHECK(what.find("expected a causal encoder") != std::string::npos);
  }

  SUBCASE("the same sequences encoded again, and an author's own view, are no way around it") {
    el::SequentialModel<Encoder, el::NextItemBy<el::NextItemLoss::bce, el::Again<el::InputView>>> again(
        backend, items, encoder(all, 0));
    CHECK(refusal(again).find("InputView") != std::string::npos);
    el::SequentialModel<Encoder, el::NextItemBy<el::NextItemLoss::bce, OwnView>> own(backend, items, encoder(all, 0));
    CHECK(refusal(own).find("expected a causal encoder") != std::string::npos);
  }
  SUBCASE("prefixes and pooled users have no target ahead") {
    el::SequentialModel<Encoder, Centers<B>, el::NextItemBy<el::NextItemLoss::bce, el::PrefixView>,
                        el::SequenceContrast<>, el::ClusterLoss, el::IntentContrast<>>
        model(backend, items, encoder(all, 0.5), Centers<B>(backend, 2, hidden));
    CHECK(refusal(model) == "nothing thrown");
  }
  SUBCASE("a loss that is turned on later is refused at its first step") {
    el::SasRec<B> model(backend, items, encoder(all, 0));
    model.objective<el::NextItemBce>().weight = 0;
    el::TrainingPass<el::SasRec<B>> pass(model);
    const auto batches = random_batches<el::SasRec<B>>(el::Padding::masked);
    CHECK(pass.run(batches, 0, 0).total == 0);
    model.objective<el::NextItemBce>().weight = 1;
    CHECK(failure([&] { pass.run(batches, 0, 1); }).find("expected a causal encoder") != std::string::npos);
  }
  SUBCASE("an encoder that does not say counts as one that looks ahead") {
    el::SequentialModel<Silent, el::NextItemBce> model(backend, items, Silent{});
    CHECK(refusal(model).find("encoder: found one that does not say whether it is causal") == 0);
    el::SequentialModel<Silent, el::NextItemBy<el::NextItemLoss::bce, el::PrefixView>> prefixes(backend, items,
                                                                                                Silent{});
    CHECK(refusal(prefixes) == "nothing thrown");
  }
}

TEST_CASE("a model whose parameters are not those of its gradients is refused") {
  const el::Reference backend;
  const el::TransformerEncoder<el::Dynamic, el::Reference> encoder(
      backend, {.hidden = hidden, .layers = 1, .max_length = max_length});
  WithBias more(encoder, 7);
  CHECK(refusal(more).find("parameters of the model: found 'score_bias' (1, 7), expected no more") == 0);
  WithoutItems less(backend, items, encoder);
  CHECK(refusal(less).find("parameters of the model: found 'position_embeddings.weight'") == 0);
  CHECK(refusal(less).find("expected 'item_embeddings.weight'") != std::string::npos);
}

// ---- batches and random numbers -------------------------------------------------------------------------------------

TEST_CASE("a loss that lacks a column, or reads one of another width, says so") {
  using Model = el::SequentialModel<el::TransformerEncoder<el::Dynamic, el::Reference>, el::NextItemBpr>;
  const el::Reference backend;
  Model model(backend, items, small_encoder(backend));
  el::TrainingPass<Model> pass(model);
  el::StepBatches<Model> batches;
  const std::vector<ItemId> sequence{3, 4};
  const auto run = [&](std::initializer_list<el::ColumnValues> columns) {
    auto& batch = batches.of<el::InputView>();
    batch.start(max_length, el::Padding::masked);
    batch.add(sequence, columns);
    return failure([&] { pass.run(batches, 1, 1); });
  };
  CHECK(run({el::with<el::Targets>(sequence), el::with<el::Negatives>(sequence)}) == "nothing thrown");
  CHECK(run({el::with<el::Targets>(sequence), el::with<el::Negatives>(std::vector<ItemId>{5, 6, 7, 8}, 2)}) ==
        "column 'negatives': found 2 for each target, expected 1: the pairwise losses compare a target with one "
        "negative");
  CHECK(run({el::with<el::Targets>(sequence)}).find("batch: found no column 'negatives', expected one") == 0);
  CHECK(run({el::with<el::Negatives>(sequence)}).find("batch: found no column 'targets', expected one") == 0);
}

TEST_CASE("a batch of more tokens than its numbers can count is refused before it is filled") {
  constexpr Index most = std::numeric_limits<std::int32_t>::max();
  el::TokenBatch batch;
  CHECK(failure([&] { batch.start(most + 1, el::Padding::masked); }) ==
        "maximum length: found 2147483648, expected 1 to 2147483647");
  batch.start(most, el::Padding::masked);
  const std::vector<ItemId> first{1};
  batch.add(first);
  const std::span<const ItemId> never_read(first.data(), most);
  CHECK(failure([&] { batch.add(never_read); }).find("expected at most 2147483647; a smaller batch size") !=
        std::string::npos);
}

TEST_CASE("no two places of dropout share a stream, however many layers and views") {
  std::vector<std::uint32_t> streams;
  constexpr std::uint32_t views = 5;
  constexpr std::uint32_t sites = 1200;  // 300 layers of four
  for (std::uint32_t view = 0; view < views; ++view) {
    for (std::uint32_t site = 0; site < sites; ++site) {
      streams.push_back(
          el::DropoutBits{.seed = 1, .step = 2, .view = view, .training = true}.mask(site, 0.5).stream.tensor);
    }
  }
  CHECK(streams[255] == 0x10FF);  // as ever where a view has up to 256 places
  CHECK(streams[3 * sites + 7] == 0x1307);
  std::ranges::sort(streams);
  CHECK(std::ranges::adjacent_find(streams) == streams.end());
  CHECK(failure([] {
          static_cast<void>(el::DropoutBits{.training = true}.mask(0x10000, 0.5));
        }).find("expected below 65536") != std::string::npos);
}
