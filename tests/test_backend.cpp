// The conformance suite: every operation of core/concepts.hpp on every backend against ReferenceLane<double>.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "support.hpp"
#ifdef ELCREC_TEST_CUDA
#include "elcrec/backend/cuda.hpp"
#else
#include "elcrec/backend/eigen.hpp"
#include "elcrec/backend/eigen_cpu.hpp"
#endif

namespace el = elcrec;
using el::AttentionMask;
using el::Index;
using el::ItemId;
using el::Padding;
using el::Write;
using el::test::BatchShape;
using el::test::random_batch;
using el::test::to_device;
using el::test::to_host;

/// A new backend is added here. Compiled once more against the CUDA backend.
#ifdef ELCREC_TEST_CUDA
#define EVERY_BACKEND el::BasicCuda<float>, el::BasicCuda<double>
#else
#define EVERY_BACKEND                                                                             \
  el::BasicCpu<float>, el::BasicCpu<double>, el::BasicEigenCpu<float>, el::BasicEigenCpu<double>, \
      el::BasicReference<float>
#endif

namespace {

/// Where an operation runs: on ReferenceLane<double>, whose results are expected, or on the backend under test.
struct OnReference {};
struct OnBackend {};

/// Largest difference, relative to the largest expected magnitude, but at least to 0.01 (inputs are of the order of 1).
template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 2e-5 : 1e-12;

/// A matrix in both places with the same values, in rows that may be farther apart than they are long.
template <class B>
struct Both {
  using T = typename B::Scalar;

  Both(const B& b, Index rows, Index cols, std::vector<double> values, Index gap = 0)
      : backend(b), columns(cols), expected(el::Reference(), rows, cols + gap), found(b, rows, cols + gap) {
    std::vector<T> rounded(static_cast<std::size_t>(expected.view().size()), T(-77));
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < cols; ++c) {
        rounded[static_cast<std::size_t>(r * (cols + gap) + c)] =
            static_cast<T>(values[static_cast<std::size_t>(r * cols + c)]);
      }
    }
    std::copy(rounded.begin(), rounded.end(), expected.view().data());
    backend.template copy<T>(rounded, found.view().flat());
  }

  el::MatrixView<double> operator()(OnReference) { return expected.view().slice_cols(0, columns); }
  el::MatrixView<T> operator()(OnBackend) { return found.view().slice_cols(0, columns); }

  /// Whether both are equal within the tolerance, and nothing was written between the rows.
  void check(double factor = 1.0) {
    const auto a = to_host<double>(el::Reference(), std::span<const double>(expected.view().flat()));
    const auto b = to_host<T>(backend, std::span<const T>(found.view().flat()));
    double largest = 0.01;
    double worst = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      const bool inside = static_cast<Index>(i) % expected.cols() < columns;
      largest = inside && std::isfinite(a[i]) ? std::max(largest, std::abs(a[i])) : largest;
      const double difference = a[i] == static_cast<double>(b[i]) ? 0.0 : std::abs(a[i] - static_cast<double>(b[i]));
      if (!(difference <= worst)) {
        worst = difference;
        at = i;
      }
    }
    const Index row = expected.cols() > 0 ? static_cast<Index>(at) / expected.cols() : 0;
    const Index col = expected.cols() > 0 ? static_cast<Index>(at) % expected.cols() : 0;
    CAPTURE(expected.rows());
    CAPTURE(columns);
    CAPTURE(largest);
    INFO("worst difference " << worst << " at (" << row << ", " << col << ")");
    CHECK(worst <= factor * tolerance<T> * largest);
  }

  B backend;
  Index columns;
  el::Matrix<el::Reference> expected;
  el::Matrix<B> found;
};

/// Integers, spans of which operations read or write, in both places.
template <class B, class U>
struct BothArray {
  BothArray(const B& b, std::vector<U> values)
      : backend(b), expected(std::move(values)), found(to_device(b, expected)) {}
  std::span<U> operator()(OnReference) { return expected; }
  std::span<U> operator()(OnBackend) { return {found.data(), expected.size()}; }
  void check() { CHECK(to_host<U>(backend, std::span<const U>(found.data(), expected.size())) == expected); }

  B backend;
  std::vector<U> expected;
  typename B::template Buffer<U> found;
};

template <class B>
struct Suite {
  using T = typename B::Scalar;
  B backend{};
  std::uint64_t seed = 0;

  /// N(0, 1); every second matrix has a gap between its rows.
  Both<B> matrix(Index rows, Index cols, double deviation = 1.0) {
    const Index gap = ++seed % 2 == 0 ? 3 : 0;
    return {backend, rows, cols, el::test::random_values(seed, rows * cols, deviation), gap};
  }
  /// The same without gap.
  Both<B> dense(Index rows, Index cols, double deviation = 1.0) {
    return {backend, rows, cols, el::test::random_values(++seed, rows * cols, deviation)};
  }
  /// Multiples of 1/4 in [-2, 2]: their dot products are exact in float too, and there are ties.
  Both<B> grid(Index rows, Index cols) {
    el::RandomEngine random({.seed = ++seed});
    std::vector<double> values(static_cast<std::size_t>(rows * cols));
    for (auto& v : values) {
      v = (static_cast<double>(random.below(17)) - 8) / 4;
    }
    return {backend, rows, cols, values, seed % 2 == 0 ? 2 : 0};
  }
  template <class U>
  BothArray<B, U> array(std::vector<U> values) {
    return {backend, std::move(values)};
  }
  /// n numbers below `bound`.
  BothArray<B, std::int32_t> ids(Index n, Index bound) {
    el::RandomEngine random({.seed = ++seed});
    std::vector<std::int32_t> values(static_cast<std::size_t>(n));
    for (auto& v : values) {
      v = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(bound)));
    }
    return array(values);
  }

  /// f(lane, place) in both places.
  template <class F>
  void run(F f) {
    el::ReferenceLane<double> lane;
    f(lane, OnReference{});
    backend.parallel_for(1, [&](auto& own, Index) { f(own, OnBackend{}); });
  }

  [[nodiscard]] el::TokenView tokens(const el::TokenBatch& batch, OnReference) const { return batch.view(); }
  [[nodiscard]] el::TokenView tokens(const el::TokenBatch& batch, OnBackend) {
    staging_.finished();
    staging_.upload(batch.view());
    return staging_.view();
  }

 private:
  typename B::Staging staging_{backend};
};

template <class Lane>
constexpr auto scalar_of(const Lane&, double value) {
  return static_cast<typename Lane::Scalar>(value);
}

constexpr std::array<Index, 17> sizes{1, 2, 3, 5, 7, 8, 13, 31, 32, 33, 50, 64, 65, 100, 200, 256, 300};
constexpr Write both_writes[] = {Write::replace, Write::add};
constexpr AttentionMask both_masks[] = {AttentionMask::causal, AttentionMask::bidirectional};

/// Batches of all kinds: empty ones, empty sequences, sequences of one token, cut ones, item 0 in the middle, only item
/// 0.
std::vector<el::TokenBatch> batches() {
  std::vector<el::TokenBatch> list;
  std::uint64_t seed = 0;
  for (const auto padding : {Padding::paper, Padding::masked}) {
    list.push_back(random_batch(++seed, {.lengths = {}}, padding));
    list.push_back(random_batch(++seed, {.lengths = {1}, .max_length = 1}, padding));
    list.push_back(random_batch(++seed, {.lengths = {0, 1, 4, 0, 12, 3, 10}, .max_length = 10}, padding));
    list.push_back(
        random_batch(++seed, {.lengths = {3, 9, 1, 17, 33, 50, 8}, .max_length = 50, .masked = 0.4}, padding));
    list.push_back(random_batch(++seed, {.lengths = {5, 7}, .max_length = 7, .masked = 1.0}, padding));
    list.push_back(random_batch(++seed, {.lengths = {70, 31, 64}, .max_length = 70, .masked = 0.1}, padding));
  }
  return list;
}

/// 70 short sequences with gaps between their positions.
el::TokenBatch many_sequences() {
  std::vector<Index> lengths;
  for (Index i = 0; i < 70; ++i) {
    lengths.push_back(i % 13);
  }
  return random_batch(9, {.lengths = lengths, .max_length = 12, .masked = 0.3}, Padding::masked);
}

}  // namespace

// ---- elementwise and reductions -----------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("elementwise operations", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 3, 8, 65}) {
    for (const Index cols : sizes) {
      auto x = suite.matrix(rows, cols);
      auto y = suite.matrix(rows, cols);
      auto row = suite.matrix(1, cols);
      suite.run([&](auto& lane, auto on) {
        lane.add_scaled(scalar_of(lane, 0.75), x(on), y(on));
        lane.add_row(scalar_of(lane, -1.5), row(on), y(on));
        lane.scale(scalar_of(lane, 1.25), y(on));
        lane.add_column_sum(y(on), row(on));
      });
      y.check();
      row.check(4);
      suite.run([&](auto& lane, auto on) {
        lane.column_mean(x(on), row(on));
        lane.copy(x(on), y(on));
      });
      y.check(0);
      row.check();
      auto per_row = suite.matrix(1, rows);
      suite.run([&](auto& lane, auto on) { lane.scale_rows(per_row(on), y(on)); });
      y.check();
      suite.run([&](auto& lane, auto on) { lane.row_dots(x(on), y(on), per_row(on)); });
      per_row.check();
      suite.run([&](auto& lane, auto on) { lane.fill(y(on), scalar_of(lane, 3)); });
      y.check(0);
    }
  }
}

TEST_CASE_TEMPLATE("elementwise products", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 3, 65}) {
    for (const Index cols : sizes) {
      auto x = suite.matrix(rows, cols);
      auto z = suite.matrix(rows, cols);
      auto y = suite.matrix(rows, cols);
      for (const auto write : both_writes) {
        suite.run([&](auto& lane, auto on) { lane.multiply_elementwise(x(on), z(on), y(on), write); });
        y.check();
        suite.run([&](auto& lane, auto on) { lane.multiply_elementwise(x(on), y(on), y(on), write); });
        y.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("activations", B, EVERY_BACKEND) {
  Suite<B> suite;
  const auto check = [&](auto forward, auto backward, bool from_output) {
    for (const double deviation : {1e-3, 1.0, 30.0}) {
      for (const Index cols : sizes) {
        auto x = suite.matrix(5, cols, deviation);
        auto y = suite.matrix(5, cols);
        auto dy = suite.matrix(5, cols);
        auto dx = suite.matrix(5, cols);
        suite.run([&](auto& lane, auto on) {
          lane.fill(x(on).slice_rows(2, 3), scalar_of(lane, 0));
          forward(lane, x(on), y(on));
          backward(lane, from_output ? y(on) : x(on), dy(on), dx(on));
        });
        y.check();
        dx.check();
        suite.run([&](auto& lane, auto on) {  // in place
          backward(lane, from_output ? y(on) : x(on), dy(on), dy(on));
          forward(lane, x(on), x(on));
        });
        dy.check();
        x.check();
      }
    }
    auto none = suite.matrix(0, 7);
    suite.run([&](auto& lane, auto on) { forward(lane, none(on), none(on)); });
    auto extreme = Both<B>(suite.backend, 1, 6, {-1000, -90, -0.0, 0.0, 90, 1000});
    auto ones = Both<B>(suite.backend, 1, 6, std::vector<double>(6, 1.0));
    suite.run([&](auto& lane, auto on) {
      if (from_output) {
        forward(lane, extreme(on), extreme(on));
        backward(lane, extreme(on), ones(on), ones(on));
      } else {
        backward(lane, extreme(on), ones(on), ones(on));
        forward(lane, extreme(on), extreme(on));
      }
    });
    extreme.check();
    ones.check();
  };
  check([](auto& lane, auto x, auto y) { sigmoid(lane, x, y); },
        [](auto& lane, auto y, auto dy, auto dx) { sigmoid_backward(lane, y, dy, dx); }, true);
  check([](auto& lane, auto x, auto y) { tanh(lane, x, y); },
        [](auto& lane, auto y, auto dy, auto dx) { tanh_backward(lane, y, dy, dx); }, true);
  check([](auto& lane, auto x, auto y) { relu(lane, x, y); },
        [](auto& lane, auto y, auto dy, auto dx) { relu_backward(lane, y, dy, dx); }, true);
  check([](auto& lane, auto x, auto y) { silu(lane, x, y); },
        [](auto& lane, auto x, auto dy, auto dx) { silu_backward(lane, x, dy, dx); }, false);
}

TEST_CASE("the gradients of the activations are those of central differences") {
  el::ReferenceLane<double> lane;
  constexpr double h = 1e-5;
  std::array<double, 7> x{-3, -0.9, -0.1, 0.05, 0.4, 1.5, 4};
  constexpr auto n = static_cast<Index>(x.size());
  const auto check = [&](auto forward, auto backward, bool from_output) {
    std::array<double, 7> low, high, y, dx;
    std::array<double, 7> dy{1, -2, 0.5, 3, -1, 2, 1};
    const auto view = [](auto& values) { return el::MatrixView<double>(values.data(), 1, n); };
    const auto shifted = [&](double by, auto& out) {
      std::transform(x.begin(), x.end(), out.begin(), [by](double v) { return v + by; });
      forward(lane, view(out), view(out));
    };
    shifted(-h, low);
    shifted(h, high);
    shifted(0, y);
    backward(lane, view(from_output ? y : x), view(dy), view(dx));
    for (std::size_t i = 0; i < x.size(); ++i) {
      CHECK(dx[i] == doctest::Approx(dy[i] * (high[i] - low[i]) / (2 * h)).epsilon(1e-8));
    }
  };
  check([](auto& l, auto in, auto out) { sigmoid(l, in, out); },
        [](auto& l, auto y, auto dy, auto dx) { sigmoid_backward(l, y, dy, dx); }, true);
  check([](auto& l, auto in, auto out) { tanh(l, in, out); },
        [](auto& l, auto y, auto dy, auto dx) { tanh_backward(l, y, dy, dx); }, true);
  check([](auto& l, auto in, auto out) { relu(l, in, out); },
        [](auto& l, auto y, auto dy, auto dx) { relu_backward(l, y, dy, dx); }, true);
  check([](auto& l, auto in, auto out) { silu(l, in, out); },
        [](auto& l, auto in, auto dy, auto dx) { silu_backward(l, in, dy, dx); }, false);
}

TEST_CASE_TEMPLATE("sums", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 7, 64}) {
    for (const Index cols : sizes) {
      auto x = suite.matrix(rows, cols);
      auto y = suite.matrix(rows, cols);
      auto sums = suite.template array<double>({0.5, 0.25});
      suite.run([&](auto& lane, auto on) {
        lane.add_dot(2.0, x(on), y(on), sums(on).data());
        lane.add_sum(-0.5, x(on), sums(on).data() + 1);
      });
      const auto found = to_host<double>(suite.backend, std::span<const double>(sums(OnBackend{})));
      const double scale = 1 + std::sqrt(static_cast<double>(rows * cols));  // of a sum of as many N(0, 1)
      CHECK(std::abs(found[0] - sums.expected[0]) < 2 * tolerance<typename B::Scalar> * scale);
      CHECK(std::abs(found[1] - sums.expected[1]) < 2 * tolerance<typename B::Scalar> * scale);
    }
  }
}

// ---- products -----------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("products", B, EVERY_BACKEND) {
  Suite<B> suite;
  const auto check = [&](Index m, Index n, Index k) {
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(k);
    for (const auto write : both_writes) {
      auto x = suite.matrix(m, k);
      auto xt = suite.matrix(k, m);
      auto w = suite.matrix(k, n);
      auto wt = suite.matrix(n, k);
      auto y = suite.matrix(m, n);
      suite.run([&](auto& lane, auto on) { lane.multiply_nt(x(on), wt(on), y(on), write); });
      y.check();
      suite.run([&](auto& lane, auto on) { lane.multiply_nn(x(on), w(on), y(on), write); });
      y.check();
      suite.run([&](auto& lane, auto on) { lane.multiply_tn(xt(on), w(on), y(on), write); });
      y.check();
    }
    auto x = suite.matrix(m, k);
    auto w = suite.matrix(n, k);
    auto b = suite.matrix(1, n);
    auto y = suite.matrix(m, n);
    suite.run([&](auto& lane, auto on) { lane.linear(x(on), w(on), b(on), y(on)); });
    y.check();
  };
  el::RandomEngine random({.seed = 1});
  const auto draw = [&] { return sizes[random.below(sizes.size())]; };
  for (int i = 0; i < 40; ++i) {
    const Index m = draw();
    const Index n = draw();
    check(m, n, std::min<Index>(draw(), 3000000 / (m * n)));
  }
  check(0, 5, 3);
  check(5, 0, 3);
  check(20, 20, 0);
  check(13, 33, 600);  // deeper than a block of the packed operand
}

// ---- encoder ------------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("embedding", B, EVERY_BACKEND) {
  Suite<B> suite;
  auto list = batches();
  list.push_back(many_sequences());
  for (const auto& batch : list) {
    const Index t = batch.tokens();
    for (const Index d : {1, 8, 33}) {
      auto table = suite.matrix(21, d);
      auto positions = suite.matrix(batch.view().max_length, d);
      auto y = suite.matrix(t, d);
      auto dpositions = suite.matrix(batch.view().max_length, d);
      suite.run([&](auto& lane, auto on) {
        embed(lane, suite.tokens(batch, on), table(on), positions(on), y(on));
        position_gradient(lane, suite.tokens(batch, on), y(on), dpositions(on));
      });
      y.check();
      dpositions.check();
    }
  }
}

TEST_CASE_TEMPLATE("layer norm", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 13, 300}) {
    for (const Index d : sizes) {
      if (d == 1 || (rows == 300 && d != 64 && d != 65)) {
        continue;  // the variance of one number is 0, so the result is rounding error times 1 / sqrt(eps)
      }
      auto x = suite.matrix(rows, d);
      auto gamma = suite.dense(1, d);
      auto beta = suite.dense(1, d);
      auto normalised = suite.matrix(rows, d);
      auto rstd = suite.dense(1, rows);
      auto y = suite.matrix(rows, d);
      suite.run([&](auto& lane, auto on) {
        layer_norm(lane, x(on), gamma(on), beta(on), scalar_of(lane, 1e-12), normalised(on), rstd(on), y(on));
      });
      // Two numbers close to each other lose digits in the difference, whatever the implementation.
      const double factor = d < 8 ? 50 : 1;
      normalised.check(factor);
      rstd.check(factor);
      y.check(factor);

      auto dy = suite.matrix(rows, d);
      auto dx = suite.matrix(rows, d);
      auto dgamma = suite.dense(1, d);
      auto dbeta = suite.dense(1, d);
      suite.run([&](auto& lane, auto on) {
        layer_norm_backward(lane, normalised(on), rstd(on), gamma(on), dy(on), dx(on), dgamma(on), dbeta(on));
        layer_norm_backward(lane, normalised(on), rstd(on), gamma(on), dy(on), dy(on), dgamma(on), dbeta(on));
      });
      dx.check(factor);
      dy.check(factor);
      dgamma.check(factor);
      dbeta.check(factor);
    }
  }
}

TEST_CASE_TEMPLATE("layer norm of a row without variance gives the bias, and passes no gradient back", B,
                   EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index d : {8, 13, 64, 300}) {
    Both<B> x(suite.backend, 3, d, std::vector<double>(static_cast<std::size_t>(3 * d), 0.0));
    auto gamma = suite.dense(1, d);
    auto beta = suite.dense(1, d);
    auto normalised = suite.dense(3, d);
    auto rstd = suite.dense(1, 3);
    auto y = suite.dense(3, d);
    auto dy = suite.dense(3, d);
    auto dx = suite.dense(3, d);
    auto dgamma = suite.dense(1, d);
    auto dbeta = suite.dense(1, d);
    suite.run([&](auto& lane, auto on) {
      layer_norm(lane, x(on), gamma(on), beta(on), scalar_of(lane, 1e-12), normalised(on), rstd(on), y(on));
      layer_norm_backward(lane, normalised(on), rstd(on), gamma(on), dy(on), dx(on), dgamma(on), dbeta(on));
    });
    for (auto* result : {&normalised, &rstd, &y, &dx, &dgamma, &dbeta}) {
      result->check();
    }
    for (const double element : to_host(el::Reference(), dx(OnReference{}))) {
      CHECK(element == 0);
    }
  }
}

TEST_CASE_TEMPLATE("residual, dropout and layer norm", B, EVERY_BACKEND) {
  Suite<B> suite;
  const el::DropoutMask half({.seed = 3, .step = 4, .tensor = 5}, 0.5);
  const el::DropoutMask some({.seed = 0xFFFFFFFFFFULL, .step = 4, .tensor = 5}, 0.3);
  const auto check = [&](const el::TokenBatch& batch, const el::DropoutMask& mask, Index rows, Index d, bool biased) {
    auto x = suite.matrix(rows, d);
    auto bias = suite.dense(1, d);
    auto residual = suite.matrix(rows, d);
    auto gamma = suite.dense(1, d);
    auto beta = suite.dense(1, d);
    auto normalised = suite.matrix(rows, d);
    auto rstd = suite.dense(1, rows);
    auto y = suite.matrix(rows, d);
    const auto or_none = [biased](auto view) { return biased ? view : decltype(view)(); };
    suite.run([&](auto& lane, auto on) {
      add_norm(lane, suite.tokens(batch, on), mask, x(on), or_none(bias(on)), residual(on), gamma(on), beta(on),
               scalar_of(lane, 1e-12), normalised(on), rstd(on), y(on));
    });
    const double factor = d < 8 ? 50 : 1;
    normalised.check(factor);
    rstd.check(factor);
    y.check(factor);

    auto dy = suite.matrix(rows, d);
    auto ds = suite.matrix(rows, d);
    auto dx = suite.matrix(rows, d);
    auto dgamma = suite.dense(1, d);
    auto dbeta = suite.dense(1, d);
    auto db = suite.dense(1, d);
    suite.run([&](auto& lane, auto on) {
      for (const auto& into : {ds(on), dy(on)}) {
        add_norm_backward(lane, suite.tokens(batch, on), mask, normalised(on), rstd(on), gamma(on), dy(on), into,
                          dx(on), dgamma(on), dbeta(on), or_none(db(on)));
      }
    });
    ds.check(factor);
    dy.check(factor);
    dx.check(factor);
    dgamma.check(factor);
    dbeta.check(factor);
    db.check(factor);
  };
  for (const auto& batch : batches()) {
    for (const Index d : {5, 33, 64, 65, 200}) {
      for (const bool biased : {false, true}) {
        for (const auto& mask : {half, some}) {
          check(batch, mask, batch.tokens(), d, biased);
        }
        // Without dropout the rows need not be the batch's tokens.
        check(batch, el::DropoutMask(), batch.view().sequences(), d, biased);
      }
    }
  }
  check(many_sequences(), some, many_sequences().tokens(), 64, true);
  check(many_sequences(), el::DropoutMask(), 1200, 64, true);
}

TEST_CASE_TEMPLATE("bias and gelu", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 13}) {
    for (const Index d : sizes) {
      for (const double deviation : {0.02, 1.0, 30.0}) {
        auto x = suite.matrix(rows, d, deviation);
        auto bias = suite.matrix(1, d, deviation);
        auto y = suite.matrix(rows, d);
        auto dy = suite.matrix(rows, d);
        auto dx = suite.matrix(rows, d);
        suite.run([&](auto& lane, auto on) { bias_gelu(lane, x(on), bias(on), y(on)); });
        y.check();
        suite.run([&](auto& lane, auto on) {
          bias_gelu_backward(lane, x(on), bias(on), dy(on), y(on), dx(on));
          bias_gelu_backward(lane, x(on), bias(on), dy(on), y(on), dy(on));
        });
        y.check();
        dx.check();
        dy.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("dropout", B, EVERY_BACKEND) {
  Suite<B> suite;
  const el::DropoutMask half({.seed = 3, .step = 4, .tensor = 5}, 0.5);
  const el::DropoutMask most({.seed = 0xFFFFFFFFFFULL, .step = 4, .tensor = 5}, 0.9);
  for (const auto& batch : batches()) {
    for (const Index d : sizes) {
      for (const auto& mask : {half, most, el::DropoutMask()}) {
        auto x = suite.matrix(batch.tokens(), d);
        suite.run([&](auto& lane, auto on) { dropout(lane, suite.tokens(batch, on), mask, x(on)); });
        x.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("attention", B, EVERY_BACKEND) {
  Suite<B> suite;
  const el::DropoutMask some({.seed = 3, .step = 4, .tensor = 5}, 0.4);
  struct Shape {
    Index heads;
    Index hidden;
    double deviation;
  };
  for (const auto& batch : batches()) {
    const Index t = batch.tokens();
    const Index longest = batch.view().longest;
    const Index keys = std::max(B::Lane::key_columns(longest), Index{3} + longest);
    for (const Shape& shape : {Shape{1, 1, 1}, {2, 8, 1}, {2, 64, 1}, {3, 39, 1}, {4, 32, 5}}) {
      const Index heads = shape.heads;
      const Index d = shape.hidden;
      for (const auto visible : both_masks) {
        for (const auto& mask : {some, el::DropoutMask()}) {
          CAPTURE(t);
          CAPTURE(heads);
          auto qkv = suite.matrix(t, 3 * d, shape.deviation);
          auto p = suite.matrix(t, heads * keys);
          auto context = suite.matrix(t, d);
          // Columns behind a shorter sequence are nobody's.
          suite.run([&](auto& lane, auto on) {
            lane.fill(p(on), scalar_of(lane, 0));
            attention(lane, suite.tokens(batch, on), heads, visible, mask, qkv(on), p(on), context(on));
          });
          const double factor =
              shape.deviation > 1 ? 10 : 1;  // scores up to 100, whose error the exponential multiplies
          p.check(factor);
          context.check(factor);
          auto dcontext = suite.matrix(t, d);
          auto dqkv = suite.matrix(t, 3 * d);
          suite.run([&](auto& lane, auto on) {
            attention_backward(lane, suite.tokens(batch, on), heads, visible, mask, qkv(on), p(on), dcontext(on),
                               dqkv(on));
          });
          dqkv.check(factor);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("attention of long sequences and wide heads", B, EVERY_BACKEND) {
  Suite<B> suite;
  const el::DropoutMask half({.seed = 7, .step = 1, .tensor = 2}, 0.5);
  const auto batch =
      random_batch(77, {.lengths = {150, 3, 129, 0, 17}, .max_length = 200, .masked = 0.1}, Padding::masked);
  const Index t = batch.tokens();
  const Index keys = B::Lane::key_columns(batch.view().longest);
  for (const Index d : {64, 128}) {
    for (const auto visible : both_masks) {
      auto qkv = suite.dense(t, 3 * d);
      auto p = suite.dense(t, keys);
      auto context = suite.dense(t, d);
      suite.run([&](auto& lane, auto on) {
        lane.fill(p(on), scalar_of(lane, 0));
        attention(lane, suite.tokens(batch, on), 1, visible, half, qkv(on), p(on), context(on));
      });
      p.check(10);
      context.check(10);
      auto dcontext = suite.dense(t, d);
      auto dqkv = suite.dense(t, 3 * d);
      suite.run([&](auto& lane, auto on) {
        attention_backward(lane, suite.tokens(batch, on), 1, visible, half, qkv(on), p(on), dcontext(on), dqkv(on));
      });
      dqkv.check(10);
    }
  }
}

TEST_CASE_TEMPLATE("attention is not disturbed by a hidden key with an enormous score", B, EVERY_BACKEND) {
  Suite<B> suite;
  el::TokenBatch batch;
  batch.start(3, Padding::paper);
  batch.add(std::vector<ItemId>{4, 0, 5});
  // One head of width 1: query 1 everywhere; keys 0, 1000 (item 0, hidden), 1.
  Both<B> qkv(suite.backend, 3, 3, {1, 0, 1, 1, 1000, 2, 1, 1, 3});
  auto p = suite.dense(3, B::Lane::key_columns(3));
  auto context = suite.dense(3, 1);
  suite.run([&](auto& lane, auto on) {
    lane.fill(p(on), scalar_of(lane, 0));
    attention(lane, suite.tokens(batch, on), 1, AttentionMask::bidirectional, {}, qkv(on), p(on), context(on));
  });
  p.check();
  context.check();
  CHECK(context.expected.view()(0, 0) == doctest::Approx((1 + 3 * std::exp(1)) / (1 + std::exp(1))));
}

// ---- pooling and rows ---------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("pooling", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const auto& batch : batches()) {
    const Index s = batch.sequences();
    for (const Index d : {1, 8, 33}) {
      const Index wide = batch.view().max_length * d;
      auto x = suite.matrix(batch.tokens(), d);
      auto mean = suite.matrix(s, d);
      auto last = suite.matrix(s, d);
      auto concat = suite.matrix(s, wide);
      suite.run([&](auto& lane, auto on) {
        const auto tokens = suite.tokens(batch, on);
        mean_pool(lane, tokens, x(on), mean(on));
        last_pool(lane, tokens, x(on), last(on));
        concat_pool(lane, tokens, x(on), concat(on));
      });
      mean.check();
      last.check(0);
      concat.check(0);
      suite.run([&](auto& lane, auto on) {
        const auto tokens = suite.tokens(batch, on);
        mean_pool_backward(lane, tokens, mean(on), x(on));
        last_pool_backward(lane, tokens, last(on), x(on));
        concat_pool_backward(lane, tokens, concat(on), x(on));
      });
      x.check();
    }
  }
}

TEST_CASE_TEMPLATE("projection of sequences", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const auto& batch : batches()) {
    for (const Index d : {1, 8, 33}) {
      for (const Index r : {1, 5, 8, 19}) {
        auto basis = suite.matrix(batch.view().max_length, r);
        auto x = suite.matrix(batch.tokens(), d);
        auto y = suite.matrix(batch.tokens(), d);
        suite.run(
            [&](auto& lane, auto on) { project_sequences(lane, suite.tokens(batch, on), basis(on), x(on), y(on)); });
        y.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("normalised rows", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index d : sizes) {
    auto x = suite.matrix(6, d);
    suite.run([&](auto& lane, auto on) { lane.fill(x(on).slice_rows(2, 3), scalar_of(lane, 0)); });
    auto norms = suite.dense(1, 6);
    auto y = suite.matrix(6, d);
    suite.run([&](auto& lane, auto on) { normalize_rows(lane, x(on), norms(on), y(on)); });
    y.check();
    norms.check();
    // A row of zeros has the norm 1e-12, and so derivatives that would hide the others.
    suite.run([&](auto& lane, auto on) {
      normalize_rows(lane, x(on), norms(on), x(on));
      lane.fill(norms(on).slice_cols(2, 3), scalar_of(lane, 1));
    });
    x.check();
    auto dy = suite.matrix(6, d);
    auto dx = suite.matrix(6, d);
    suite.run([&](auto& lane, auto on) {
      normalize_rows_backward(lane, y(on), norms(on), dy(on), dx(on));
      normalize_rows_backward(lane, y(on), norms(on), dy(on), dy(on));
    });
    dx.check(d == 1 ? 1e6 : 10);  // of one column the derivative is 0, here rounding
    dy.check(d == 1 ? 1e6 : 10);
  }
}

TEST_CASE_TEMPLATE("nearest center", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index rows : {0, 1, 3, 63, 64, 65, 130}) {
    for (const Index k : {1, 2, 7, 64, 65, 300, 512, 1030}) {
      for (const Index d : {1, 2, 64}) {  // with few columns there are many ties: the lowest id wins
        auto x = suite.grid(rows, d);
        auto centers = suite.grid(k, d);
        auto ids = suite.ids(rows, 5);
        suite.run([&](auto& lane, auto on) { nearest_rows(lane, x(on), centers(on), ids(on)); });
        ids.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("selected rows", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index d : sizes) {
    auto table = suite.matrix(11, d);
    auto y = suite.matrix(30, d);
    auto ids = suite.ids(30, 11);
    for (const auto write : both_writes) {
      suite.run([&](auto& lane, auto on) { lane.gather_rows(table(on), ids(on), y(on), write); });
      y.check();
    }
    suite.run([&](auto& lane, auto on) { lane.scatter_add_rows(y(on), ids(on), table(on)); });
    table.check();
  }
  auto values = suite.ids(11, 1000);
  auto ids = suite.ids(30, 11);
  auto out = suite.ids(30, 2);
  suite.run([&](auto& lane, auto on) { lane.gather_ids(values(on), ids(on), out(on)); });
  out.check();
  for (const auto& batch : batches()) {
    auto samples = suite.ids(batch.sequences(), 9);
    auto rows = suite.ids(batch.tokens(), 1);
    for (const Index each : {Index{1}, batch.max_length()}) {
      suite.run([&](auto& lane, auto on) { expand_ids(lane, suite.tokens(batch, on), samples(on), each, rows(on)); });
      rows.check();
    }
  }
}

// ---- columns ------------------------------------------------------------------------------------------------------

/// An author's own columns.
struct Gaps {
  using Value = float;
  static constexpr std::string_view name = "gaps";
  static constexpr el::Per per = el::Per::token;
  static constexpr std::string_view source = "this test";
};
struct Profile {
  using Value = float;
  static constexpr std::string_view name = "profile";
  static constexpr el::Per per = el::Per::sequence;
  static constexpr std::string_view source = "this test";
};

TEST_CASE_TEMPLATE("a batch reaches the backend with all its columns, whatever they are", B, EVERY_BACKEND) {
  const B backend;
  typename B::Staging staging(backend);
  const auto check = [](const el::TokenView& there, const el::TokenView& host, auto read) {
    const auto equal = [&](auto a, auto b) {
      using Value = std::remove_const_t<typename decltype(b)::element_type>;
      std::vector<Value> copy(a.size());
      read(a, std::span(copy));
      CHECK(copy == std::vector<Value>(b.begin(), b.end()));
    };
    equal(there.offsets, host.offsets);
    equal(there.items, host.items);
    equal(there.positions, host.positions);
    CHECK(there.host_offsets.data() == host.host_offsets.data());
    const auto column = [&]<class C>(C) {
      REQUIRE(there.has<C>() == host.has<C>());
      if (host.has<C>()) {
        equal(there.column<C>(), host.column<C>());
        CHECK(there.width<C>() == host.width<C>());
      }
    };
    column(el::Targets{});
    column(el::TargetTokens{});
    column(el::Negatives{});
    column(el::Users{});
    column(el::Labels{});
    column(Gaps{});
    column(Profile{});
    column(el::detail::PositionBegins{});
    column(el::detail::PositionSamples{});
    column(el::detail::PositionTokens{});
  };
  for (auto& batch : batches()) {
    batch.add(std::vector<ItemId>{4, 5, 6},
              {el::with<Gaps>(std::vector<float>{.5F, 1e-30F, -3.F}), el::with<el::Users>(7),
               el::with<Profile>(std::vector<float>{1.F, -2.F, 1e30F}, 3)});
    batch.append(el::with<el::Labels>(5));
    const auto host = batch.view();
    const auto copy = [&]<class T>(std::span<const T> from, std::span<T> to) { backend.template copy<T>(from, to); };
    staging.upload(host);
    check(staging.view(), host, copy);
    const Index n = host.sequences();
    check(staging.view().subrange(n / 2, n), host.subrange(n / 2, n), copy);
    staging.finished();
    auto lane = backend.make_lane();
    check(lane.stage(host), host, [&]<class T>(std::span<const T> from, std::span<T> to) { lane.read(from, to); });
  }
}

// ---- losses -------------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("pairwise next-item loss", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const auto& batch : batches()) {
    if (!batch.view().has<el::Targets>()) {
      continue;
    }
    const Index t = batch.tokens();
    for (const Index d : {1, 8, 64}) {
      for (const auto kind : {el::PairwiseLoss::bce, el::PairwiseLoss::bpr, el::PairwiseLoss::bpr_capped}) {
        for (const double deviation : {0.1, 6.0}) {  // scores up to some hundreds: neither overflow nor log 0
          auto x = suite.matrix(t, d, deviation);
          auto table = suite.matrix(21, d, deviation);
          auto loss = suite.dense(1, t);
          auto positive = suite.dense(1, t);
          auto negative = suite.dense(1, t);
          auto dx = suite.matrix(t, d);
          suite.run([&](auto& lane, auto on) {
            const auto tokens = suite.tokens(batch, on);
            pairwise_next_item(lane, kind, tokens.template column<el::Targets>(),
                               tokens.template column<el::Negatives>(), x(on), table(on), scalar_of(lane, 0.5),
                               loss(on), positive(on), negative(on), dx(on));
          });
          const double factor = deviation > 1 ? 10 : 1;  // the rounding of a large score counts in full
          loss.check(factor);
          positive.check(factor);
          negative.check(factor);
          dx.check(factor);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("exponentials of logits", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index classes : sizes) {
    for (const double deviation : {0.1, 3.0, 30.0}) {
      auto logits = suite.matrix(9, classes, deviation);
      auto largest = suite.dense(1, 9);
      auto sums = suite.dense(1, 9);
      suite.run([&](auto& lane, auto on) { exponentials(lane, logits(on), largest(on), sums(on)); });
      logits.check();
      largest.check();
      sums.check();
    }
  }
}

TEST_CASE_TEMPLATE("softmax from blocks of exponentials", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index blocks : {1, 2, 48}) {
    for (const Index rows : {1, 13, 320}) {
      for (const double deviation : {0.1, 20.0}) {
        auto largest = suite.matrix(blocks, rows, deviation);
        auto positive = el::test::random_values(++suite.seed, blocks * rows);
        for (double& v : positive) {
          v = 1 + std::abs(v);  // a sum holds the 1 of the largest
        }
        Both<B> sums(suite.backend, blocks, rows, positive, 2);
        auto at_target = suite.dense(1, rows);
        auto factors = suite.matrix(blocks, rows);
        auto loss = suite.dense(1, rows);
        suite.run([&](auto& lane, auto on) {
          softmax_factors(lane, largest(on), sums(on), at_target(on), scalar_of(lane, 0.25), factors(on), loss(on));
        });
        factors.check();
        loss.check();
      }
    }
  }
}

TEST_CASE_TEMPLATE("gram matrices", B, EVERY_BACKEND) {
  Suite<B> suite;
  const auto check = [&](const el::TokenBatch* batch, Index n, Index t, Index d, Index block) {
    const auto index = [&](auto on) {
      return batch != nullptr ? el::position_index(suite.tokens(*batch, on)) : el::GramIndex::rows(n);
    };
    CAPTURE(n);
    CAPTURE(block);
    auto z = suite.dense(t, d);
    auto s = suite.matrix(n, n);
    suite.run([&](auto& lane, auto on) {
      for (Index i = 0; i < n; i += block) {
        for (Index j = 0; j <= i; j += block) {
          gram(lane, index(on), z(on), i, std::min(n, i + block), j, std::min(n, j + block), s(on));
        }
      }
    });
    s.check();
    for (const auto write : both_writes) {
      auto dz = suite.dense(t, d);
      suite.run([&](auto& lane, auto on) {
        const Index positions = index(on).positions;
        for (Index i = 0; i < n; i += block) {
          for (Index p = 0; p < positions; p += 2) {
            gram_backward(lane, index(on), s(on), z(on), i, std::min(n, i + block), p, std::min(positions, p + 2),
                          write, dz(on));
          }
        }
      });
      dz.check();
    }
  };
  for (const Index block : {1, 3, 64}) {
    for (const Index n : {1, 2, 10, 65, 130}) {
      check(nullptr, n, n, 8, block);
    }
    for (const auto& batch : batches()) {
      check(&batch, batch.sequences(), batch.tokens(), 5, block);
    }
    const auto many = many_sequences();
    check(&many, 70, many.tokens(), 16, block);
  }
}

TEST_CASE_TEMPLATE("info_nce rows", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const Index n : {2, 4, 10, 66, 130}) {
    for (const double deviation : {0.5, 30.0}) {
      for (const bool with_labels : {false, true}) {
        for (const double temperature : {1.0, 0.5}) {
          auto s = suite.matrix(n, n, deviation);
          auto loss = suite.dense(1, n);
          auto labels = with_labels ? suite.ids(n / 2, 3) : suite.ids(0, 1);
          suite.run([&](auto& lane, auto on) {
            for (Index i = 0; i < n; i += 7) {
              info_nce_rows(lane, labels(on), scalar_of(lane, temperature), scalar_of(lane, 0.1), i, std::min(n, i + 7),
                            s(on), loss(on));
            }
          });
          s.check();
          loss.check();
          auto g = suite.matrix(n / 2, n);
          suite.run([&](auto& lane, auto on) { add_transposed(lane, s(on), n / 2, n, g(on)); });
          g.check();
        }
      }
    }
  }
}

// ---- optimizer ----------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("adam", B, EVERY_BACKEND) {
  Suite<B> suite;
  const std::vector<Index> few{0, 1, 7, 1023, 0, 1024, 1025, 3000, 0};
  const std::vector<Index> aligned{64, 4096, 1024, 0, 20000};
  const std::vector<Index> many(150, 24);
  for (const auto& sizes_of_slots : {few, aligned, many, {}, {0}}) {
    const Index n = std::accumulate(sizes_of_slots.begin(), sizes_of_slots.end(), Index{0});
    auto p = suite.dense(1, n);
    auto g = suite.dense(1, n);
    auto m = suite.dense(1, n);
    auto v = suite.dense(1, n);
    const auto square = [](auto view) {
      for (auto& e : view.flat()) {
        e = e * e;
      }
    };
    square(v(OnReference{}));
    auto squares = to_host<double>(el::Reference(), std::span<const double>(v.expected.view().flat()));
    v = Both<B>(suite.backend, 1, n, squares);
    for (int t = 1; t <= 3; ++t) {
      const el::AdamStep step{.rate = 0.01,
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .epsilon = 1e-8,
                              .correction1 = 1 - std::pow(0.9, t),
                              .correction2 = 1 - std::pow(0.999, t),
                              .keep = 0.8};
      suite.run([&](auto& lane, auto on) {
        using T = typename std::remove_reference_t<decltype(lane)>::Scalar;
        std::vector<el::AdamSlot<T>> slots;
        Index begin = 0;
        for (const Index size : sizes_of_slots) {
          const el::AdamSlot<T> all{p(on).flat(), g(on).flat(), m(on).flat(), v(on).flat()};
          slots.push_back(all.part(begin, begin + size));
          slots.back().decays = slots.size() % 2 == 0;
          begin += size;
        }
        adam(lane, step, slots, 0, n / t);  // the second and the third step leave the last elements
      });
    }
    p.check();
    m.check();
    v.check();
  }
}

TEST_CASE_TEMPLATE("clear", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const std::size_t count : {0UL, 1UL, 5UL, 200UL}) {
    std::vector<Both<B>> list;
    for (std::size_t i = 0; i < count; ++i) {
      list.push_back(suite.matrix(static_cast<Index>(i % 7), static_cast<Index>(1 + i * 13 % 90)));
    }
    suite.run([&](auto& lane, auto on) {
      std::vector<el::MatrixView<typename std::remove_reference_t<decltype(lane)>::Scalar>> views;
      for (auto& x : list) {
        views.push_back(x(on));
      }
      lane.clear(views);
    });
    for (auto& x : list) {
      x.check(0);
    }
  }
}

TEST_CASE_TEMPLATE("adam of some rows leaves the others", B, EVERY_BACKEND) {
  Suite<B> suite;
  const el::AdamStep step{.rate = 0.01,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .correction1 = 0.1,
                          .correction2 = 0.001,
                          .keep = 0.8};
  for (const Index d : {1, 7, 64}) {
    auto p = suite.matrix(9, d);
    auto g = suite.matrix(9, d);
    auto m = suite.matrix(9, d);
    auto v = suite.matrix(9, d, 0.0);
    auto ids = suite.array(std::vector<std::int32_t>{3, 8, 0});
    const double before = p.expected.view()(4, 0);
    const double moved = p.expected.view()(8, 0);
    suite.run([&](auto& lane, auto on) { adam_rows(lane, step, ids(on), p(on), g(on), m(on), v(on)); });
    p.check();
    m.check();
    v.check();
    CHECK(p.expected.view()(4, 0) == before);
    CHECK(p.expected.view()(8, 0) != moved);
  }
}

// ---- ranking ------------------------------------------------------------------------------------------------------

namespace {

/// Ascending ids in [0, bound), about `share` of them, some of them twice, as in histories that repeat items.
std::vector<ItemId> seen_items(el::RandomEngine& random, Index bound, double share) {
  std::vector<ItemId> seen;
  for (ItemId v = 0; v < bound; ++v) {
    if (random.uniform() < share) {
      seen.insert(seen.end(), 1 + random.below(2), v);
    }
  }
  return seen;
}

constexpr el::RankingRule::Seen seen_rules[] = {el::RankingRule::Seen::keep, el::RankingRule::Seen::zero,
                                                el::RankingRule::Seen::exclude};

}  // namespace

TEST_CASE_TEMPLATE("ranks of targets", B, EVERY_BACKEND) {
  Suite<B> suite;
  el::RandomEngine random({.seed = 4});
  for (const Index rows : {5, 513, 1300}) {
    for (const Index users : {0, 1, 9, 70}) {
      for (const auto seen_rule : seen_rules) {
        for (const ItemId first : {0, 1}) {
          CAPTURE(rows);
          CAPTURE(users);
          const el::RankingRule rule{.seen = seen_rule, .first = first, .last = static_cast<ItemId>(rows - first)};
          auto queries = suite.grid(users, 6);
          auto table = suite.grid(rows, 6);
          std::vector<ItemId> seen;
          std::vector<std::int32_t> offsets{0};
          std::vector<ItemId> targets;
          for (Index u = 0; u < users; ++u) {
            const auto mine = seen_items(random, rows, u % 3 == 0 ? 0.0 : 0.1);
            seen.insert(seen.end(), mine.begin(), mine.end());
            offsets.push_back(static_cast<std::int32_t>(seen.size()));
            const auto any = static_cast<ItemId>(1 + random.below(static_cast<std::uint32_t>(rows - 1)));
            targets.push_back(u % 2 == 0 && !mine.empty() ? mine[mine.size() / 2] : any);  // also among the seen
          }
          auto target = suite.array(targets);
          auto offset = suite.array(offsets);
          auto items = suite.array(seen);
          auto ranks = suite.template array<Index>(std::vector<Index>(static_cast<std::size_t>(users), -1));
          suite.run([&](auto& lane, auto on) {
            rank_targets(lane, rule, queries(on), table(on), target(on), offset(on), items(on), ranks(on));
          });
          ranks.check();
        }
      }
    }
  }
}

namespace {

/// Items and scores of top_k against the reference's; what is not found must be left alone.
template <class B>
void check_top_k(Suite<B>& suite, const el::RankingRule& rule, Both<B>& queries, Both<B>& table,
                 const std::vector<std::int32_t>& all_offsets, const std::vector<ItemId>& all_seen, Index k) {
  const auto users = ssize(all_offsets) - 1;
  auto seen = suite.array(all_seen);
  auto offsets = suite.array(all_offsets);
  auto items = suite.array(std::vector<ItemId>(static_cast<std::size_t>(users * k), -1));
  auto found = suite.array(std::vector<Index>(static_cast<std::size_t>(users), -1));
  auto scores = suite.dense(users, k);
  suite.run([&](auto& lane, auto on) {
    using Scalar = typename std::decay_t<decltype(lane)>::Scalar;
    top_k(lane, rule, queries(on), el::MatrixView<const Scalar>(table(on)), offsets(on), seen(on), scores(on),
          items(on), found(on));
  });
  found.check();
  items.check();
  scores.check();
}

}  // namespace

TEST_CASE_TEMPLATE("top k", B, EVERY_BACKEND) {
  Suite<B> suite;
  el::RandomEngine random({.seed = 4});
  for (const Index rows : {2, 13, 256, 700}) {
    for (const Index k : {0, 1, 5, 20, 1000}) {  // also more than there are candidates
      for (const Index users : {1, 3, 9}) {
        for (const auto seen_rule : seen_rules) {
          for (const double share : {0.0, 0.3, 1.0}) {
            CAPTURE(rows);
            CAPTURE(k);
            CAPTURE(users);
            const el::RankingRule rule{.seen = seen_rule, .first = 1, .last = static_cast<ItemId>(rows)};
            const Index d = users == 3 ? 35 : 64;
            auto queries = suite.grid(users, d);
            auto table = suite.grid(rows, d);
            std::vector<ItemId> all_seen;
            std::vector<std::int32_t> all_offsets{0};
            for (Index u = 0; u < users; ++u) {
              const auto mine = seen_items(random, rows + 5, share);  // some are no candidates anyway
              all_seen.insert(all_seen.end(), mine.begin(), mine.end());
              all_offsets.push_back(static_cast<std::int32_t>(all_seen.size()));
            }
            check_top_k(suite, rule, queries, table, all_offsets, all_seen, k);
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("top k of many items", B, EVERY_BACKEND) {
  Suite<B> suite;
  el::RandomEngine random({.seed = 5});
  constexpr Index rows = 5000;
  constexpr Index users = 9;
  for (const Index k : {20, 33, 700}) {
    const el::RankingRule rule{.first = 1, .last = rows};
    auto queries = suite.grid(users, 6);
    auto table = suite.grid(rows, 6);
    std::vector<ItemId> all_seen;
    std::vector<std::int32_t> all_offsets{0};
    for (Index u = 0; u < users; ++u) {
      const auto mine = seen_items(random, rows, 0.1 * static_cast<double>(u));
      all_seen.insert(all_seen.end(), mine.begin(), mine.end());
      all_offsets.push_back(static_cast<std::int32_t>(all_seen.size()));
    }
    check_top_k(suite, rule, queries, table, all_offsets, all_seen, k);
  }
}

TEST_CASE_TEMPLATE("top k of a table in bfloat16", B, EVERY_BACKEND) {
  Suite<B> suite;
  constexpr Index rows = 700;
  constexpr Index k = 20;
  for (const Index users : {1, 9}) {
    for (const Index d : {64, 35}) {
      auto queries = suite.grid(users, d);
      el::RandomEngine random({.seed = 8});
      std::vector<el::BFloat16> halves;
      for (Index i = 0; i < rows * d; ++i) {
        halves.emplace_back(static_cast<float>(random.below(17)) / 4 - 2);  // exact: 8 bits are enough
      }
      auto table = suite.array(halves);
      auto offsets = suite.array(std::vector<std::int32_t>(static_cast<std::size_t>(users + 1), 0));
      auto seen = suite.array(std::vector<ItemId>());
      auto items = suite.array(std::vector<ItemId>(static_cast<std::size_t>(users * k), -1));
      auto found = suite.array(std::vector<Index>(static_cast<std::size_t>(users), -1));
      auto scores = suite.dense(users, k);
      const el::RankingRule rule{.first = 1, .last = rows};
      suite.run([&](auto& lane, auto on) {
        top_k(lane, rule, queries(on), el::MatrixView<const el::BFloat16>(table(on).data(), rows, d), offsets(on),
              seen(on), scores(on), items(on), found(on));
      });
      items.check();
      scores.check();
    }
  }
}

TEST_CASE_TEMPLATE("top k by an index gives what the table gives", T, float, double) {
  using Lane = el::CpuLane<T>;
  Lane lane;
  el::RandomEngine random({.seed = 14});
  const auto values = [&](Index n, auto draw) {
    std::vector<T> list(static_cast<std::size_t>(n));
    std::generate(list.begin(), list.end(), [&] { return static_cast<T>(draw()); });
    return list;
  };
  const auto normal = [&] { return random.normal(); };
  const auto grid = [&] { return static_cast<double>(random.below(5)) - 2; };  // many equal scores
  const auto rare = [&] { return random.below(50) == 0 ? 30 * random.normal() : 0.01 * random.normal(); };
  const auto equal = [] { return 0.25; };  // nothing can be ruled out
  const auto zero = [] { return 0.0; };
  const auto broken = [] { return std::numeric_limits<double>::quiet_NaN(); };  // no item is a candidate
  const auto compare = [&](Index rows, Index d, Index users, Index k, auto draw_item, auto draw_query) {
    const auto table = values(rows * d, draw_item);
    const auto queries = values(users * d, draw_query);
    const el::MatrixView<const T> items(table.data(), rows, d);
    const el::MatrixView<const T> q(queries.data(), users, d);
    const el::ItemIndex<T> index(items);
    for (const auto seen_rule : seen_rules) {
      for (const ItemId first : {ItemId{0}, ItemId{1}, static_cast<ItemId>(rows / 2)}) {
        const el::RankingRule rule{.seen = seen_rule, .first = first, .last = static_cast<ItemId>(rows - rows / 9)};
        std::vector<ItemId> seen;
        std::vector<std::int32_t> offsets{0};
        for (Index u = 0; u < users; ++u) {
          const auto mine = seen_items(random, rows, 0.2);
          seen.insert(seen.end(), mine.begin(), mine.end());
          offsets.push_back(static_cast<std::int32_t>(seen.size()));
        }
        CAPTURE(rows);
        CAPTURE(d);
        CAPTURE(k);
        for (Index u = 0; u < users; ++u) {
          // One query at a time by the table, so that its scores are made by the same sequence of operations.
          const auto n = static_cast<std::size_t>(k);
          std::vector<T> scores(n);
          std::vector<ItemId> best(n, -1);
          Index count = 0;
          top_k(lane, rule, q.slice_rows(u, u + 1), items, std::span(offsets).subspan(static_cast<std::size_t>(u), 2),
                seen, {scores.data(), 1, k}, best, {&count, 1});
          std::vector<T> all_scores(n * static_cast<std::size_t>(users));
          std::vector<ItemId> all_best(all_scores.size(), -1);
          std::vector<Index> counts(static_cast<std::size_t>(users));
          top_k(lane, rule, q, items, index, offsets, seen, {all_scores.data(), users, k}, all_best, counts);
          CHECK(counts[static_cast<std::size_t>(u)] == count);
          for (Index i = 0; i < count; ++i) {
            const auto at = static_cast<std::size_t>(u * k + i);
            CHECK(all_best[at] == best[static_cast<std::size_t>(i)]);
            CHECK(all_scores[at] ==
                  doctest::Approx(scores[static_cast<std::size_t>(i)]).epsilon(tolerance<T>).scale(10));
          }
        }
      }
    }
  };
  for (const Index rows : {1, 15, 16, 300, 1500}) {
    for (const Index users : {1, 5}) {
      compare(rows, 64, users, 20, normal, normal);
      compare(rows, 35, users, 3, grid, grid);
      compare(rows, 1, users, 1, normal, normal);
      compare(rows, 200, users, 7, normal, rare);
      compare(rows, 64, users, 10, rare, normal);
      compare(rows, 8, users, 400, grid, normal);
    }
  }
  compare(40000, 16, 2, 10, normal, normal);  // more than are seen at a time
  compare(5000, 16, 2, 10, equal, normal);
  compare(600, 16, 2, 10, zero, normal);
  compare(600, 16, 2, 10, normal, zero);
  compare(600, 16, 2, 10, normal, broken);
  compare(600, 16, 1, 0, normal, normal);
  // More candidates than there is room for, the best of them last.
  const auto rising = [n = 0]() mutable { return 0.25 + 1e-7 * (n++ / 16); };
  compare(5000, 16, 2, 10, rising, equal);
  // Items at right angles to the query but for a little: their integer scores err by as much as the bound allows.
  const auto slope = [n = 0]() mutable { return n++ % 2 == 0 ? 1.0 : 0.5; };
  const auto across = [&random, first = 0.0, n = 0]() mutable {
    first = n % 2 == 0 ? 2 * random.uniform() - 1 : first;
    return n++ % 2 == 0 ? first : 1e-3 * random.normal() - 2 * first;
  };
  for (int time = 0; time < 5; ++time) {
    compare(1500, 2, 1, 3, across, slope);
  }
}

TEST_CASE_TEMPLATE("attention of the last query", B, EVERY_BACKEND) {
  Suite<B> suite;
  for (const auto& batch : batches()) {
    for (const Index heads : {1, 2, 3}) {
      const Index d = heads == 3 ? 39 : 64;
      auto queries = suite.matrix(batch.sequences(), heads * d);
      auto x = suite.matrix(batch.tokens(), d);
      auto sums = suite.matrix(batch.sequences(), heads * d);
      suite.run([&](auto& lane, auto on) {
        using Scalar = typename std::remove_cvref_t<decltype(lane)>::Scalar;
        last_attention(lane, suite.tokens(batch, on), Scalar(0.3), queries(on), x(on), sums(on));
      });
      sums.check();
    }
  }
}

// ---- what a backend does besides lanes ----------------------------------------------------------------------------

TEST_CASE_TEMPLATE("row scatter", B, EVERY_BACKEND) {
  using T = typename B::Scalar;
  for (const Index d : {1, 8, 33}) {
    Suite<B> suite;
    const B backend = suite.backend;  // on one stream with the matrices
    auto table = suite.matrix(300, d);
    typename B::RowScatter scatter(backend, 300, el::padding_item);
    for (const Index rows : {0, 5, 1000}) {
      auto x = suite.matrix(rows, d);
      auto y = suite.matrix(rows, d);
      auto a = suite.ids(rows, 40);
      auto b = suite.ids(rows, 300);
      auto weights = suite.dense(1, rows);
      std::vector<ItemId> order;
      const auto expected = table(OnReference{});
      const auto add = [&](Index r, ItemId id, double factor, el::MatrixView<double> from) {
        if (id != el::padding_item) {
          for (Index c = 0; c < d; ++c) {
            expected(id, c) += factor * from(r, c);
          }
          if (std::find(order.begin(), order.end(), id) == order.end()) {
            order.push_back(id);
          }
        }
      };
      for (Index r = 0; r < rows; ++r) {
        add(r, a.expected[static_cast<std::size_t>(r)], 1.0, x(OnReference{}));
      }
      for (Index r = 0; r < rows; ++r) {
        add(r, b.expected[static_cast<std::size_t>(r)], weights(OnReference{})(0, r), y(OnReference{}));
      }
      const OnBackend on;
      const std::array<el::RowContribution<T>, 2> parts{
          el::RowContribution<T>{a(on), {}, x(on)},
          el::RowContribution<T>{b(on), std::span<const T>(weights(on).flat()), y(on)}};
      scatter(backend, std::span(parts).first(1), table(on));
      scatter(backend, std::span(parts).last(1), table(on));
      table.check();
      CHECK(to_host<ItemId>(backend, scatter.touched()) == order);
      scatter.clear();
      CHECK(scatter.touched().empty());
    }
    const auto x = suite.ids(3, 2);
    auto zero = suite.array(std::vector<std::int32_t>{0, 0, 0});
    auto rows = suite.matrix(3, d);
    const el::RowContribution<T> part{zero(OnBackend{}), {}, rows(OnBackend{})};
    typename B::RowScatter everything(backend, 300, -1);
    everything(backend, std::span(&part, 1), table(OnBackend{}));
    CHECK(to_host<ItemId>(backend, everything.touched()) == std::vector<ItemId>{0});
  }
}

TEST_CASE_TEMPLATE("row scatter of many lists into a large table", B, EVERY_BACKEND) {
  using T = typename B::Scalar;
  Suite<B> suite;
  constexpr Index rows = 70000;
  constexpr Index d = 5;
  const el::Reference reference;
  auto table = suite.matrix(rows, d);
  std::vector<Both<B>> lists;
  std::vector<BothArray<B, std::int32_t>> ids;
  for (int i = 0; i < 11; ++i) {
    lists.push_back(suite.matrix(300, d));
    ids.push_back(suite.ids(300, i % 2 == 0 ? rows : 3));
  }
  std::vector<el::RowContribution<T>> parts;
  std::vector<el::RowContribution<double>> expected_parts;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    parts.push_back({ids[i](OnBackend{}), {}, lists[i](OnBackend{})});
    expected_parts.push_back({ids[i](OnReference{}), {}, lists[i](OnReference{})});
  }
  typename B::RowScatter scatter(suite.backend, rows, el::padding_item);
  el::Reference::RowScatter expected(reference, rows, el::padding_item);
  scatter(suite.backend, std::span<const el::RowContribution<T>>(parts), table(OnBackend{}));
  expected(reference, std::span<const el::RowContribution<double>>(expected_parts), table(OnReference{}));
  table.check();
  CHECK(to_host<ItemId>(suite.backend, scatter.touched()) == to_host<ItemId>(reference, expected.touched()));
  scatter.clear_rows(suite.backend, table(OnBackend{}));
  expected.clear_rows(reference, table(OnReference{}));
  table.check(0);
  CHECK(scatter.touched().empty());
}

TEST_CASE_TEMPLATE("copies and fresh memory", B, EVERY_BACKEND) {
  const B backend;
  const auto zeros = backend.template allocate<float>(37);
  CHECK(to_host<float>(backend, std::span<const float>(zeros.data(), 37)) == std::vector<float>(37, 0.0F));
  const std::vector<std::int32_t> values{3, 1, 2};
  const auto buffer = to_device(backend, values);
  CHECK(to_host<std::int32_t>(backend, std::span<const std::int32_t>(buffer.data(), 3)) == values);
  volatile Index negative = -2;  // the compiler may not see it and warn
  CHECK_THROWS_WITH_AS(static_cast<void>(el::Matrix<B, 3>(backend, 2, 5)),
                       "matrix: found shape (2, 5), expected the fixed extents (3, -1)", el::ArgumentError);
  CHECK_THROWS_WITH_AS(static_cast<void>(el::Matrix<B>(backend, negative, 5)),
                       "matrix: found shape (-2, 5), expected no negative extent", el::ArgumentError);
}

namespace {

template <class B>
void check_parallel(const B& backend) {
  for (const Index count : {0, 1, 2, 5, 1000}) {
    std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
    backend.parallel_for(count, [&](auto&, Index i) { ++visits[static_cast<std::size_t>(i)]; });
    CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& n) { return n == 1; }));
    for (const Index grain : {1, 7, 1000, 5000}) {
      backend.parallel_blocks(count, grain, [&](auto&, Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          ++visits[static_cast<std::size_t>(i)];
        }
      });
    }
    CHECK(std::all_of(visits.begin(), visits.end(), [](const auto& n) { return n == 5; }));
  }
  const auto fail = [&] {
    backend.parallel_for(100, [](auto&, Index i) {
      if (i == 37) {
        throw std::runtime_error("task 37");
      }
    });
  };
  CHECK_THROWS_WITH_AS(fail(), "task 37", std::runtime_error);
  std::atomic<int> after{0};
  backend.parallel_for(10, [&](auto&, Index) { ++after; });
  CHECK(after == 10);
}

}  // namespace

TEST_CASE_TEMPLATE("parallel loops visit every index once and pass exceptions on", B, EVERY_BACKEND) {
  check_parallel(B());
}

#ifndef ELCREC_TEST_CUDA  // what is the CPU backend's alone

TEST_CASE("a view as an Eigen matrix shares its memory, and products are Eigen's") {
  const el::BasicCpu<double> backend;
  const auto x = el::test::random_matrix(backend, 1, 37, 70);
  const auto w = el::test::random_matrix(backend, 2, 45, 70);
  auto y = el::test::random_matrix(backend, 3, 37, 50);
  const auto part = y.view().slice_cols(2, 47);
  backend.parallel_for(1, [&](auto& lane, Index) { lane.multiply_nt(x.view(), w.view(), part, Write::replace); });
  CHECK((el::as_eigen(part) - el::as_eigen(x.view()) * el::as_eigen(w.view()).transpose()).cwiseAbs().maxCoeff() <
        1e-12);
  el::as_eigen(part)(3, 4) = 7;
  CHECK(y.view()(3, 6) == 7);
  const el::MatrixView<double, el::Dynamic, 1> column(y.view().data() + 1, 37, 1, 50);
  CHECK(el::as_eigen(column)(2) == y.view()(2, 1));
  const el::MatrixView<const double, 2, 3> fixed(y.view().data(), 2, 3, 50);
  static_assert(decltype(el::as_eigen(fixed))::RowsAtCompileTime == 2);
  CHECK(el::as_eigen(fixed)(1, 2) == y.view()(1, 2));
}

TEST_CASE("a pool's loops hold with more threads than processors, and while its workers sleep") {
  for (const Index threads : {2, 3, 9}) {
    const el::Cpu cpu({.threads = threads});
    for (int round = 0; round < 200; ++round) {
      if (round % 50 == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      }
      std::atomic<Index> sum{0};
      cpu.parallel_for(round % 7, [&](auto&, Index i) { sum += i + 1; });
      CHECK(sum == (round % 7) * (round % 7 + 1) / 2);
    }
  }
}

TEST_CASE("any number of threads visits every index once") {
  for (const Index threads : {1, 2, 3, 5}) {
    const el::Cpu backend({.threads = threads});
    CHECK(backend.threads() == threads);
    check_parallel(backend);
  }
  CHECK(el::Cpu().threads() >= 1);
  CHECK_THROWS_WITH_AS(el::Cpu({.threads = -1}), "threads: found -1, expected 0 (all) to 4096", el::ArgumentError);
  CHECK_THROWS_WITH_AS(el::Cpu({.slices = 0}), "slices: found 0, expected at least 1", el::ArgumentError);
}

// ---- vector functions ---------------------------------------------------------------------------------------------

TEST_CASE("tasks take denormal numbers for zero and leave the caller's arithmetic alone") {
  const el::Cpu cpu({.threads = 2});
  const volatile float tiny = 1e-30F;
  std::vector<float> products(8, 1.0F);
  cpu.parallel_for(ssize(products), [&](auto&, Index i) { products[static_cast<std::size_t>(i)] = tiny * 1e-10F; });
  CHECK(products == std::vector<float>(8, 0.0F));
  const float outside = tiny * 1e-10F;
  CHECK(outside > 0.0F);
}

TEST_CASE("simd::exp is within 2 units in the last place") {
  constexpr Index w = el::simd::width<float>;
  const auto exp_of = [](const float* x, float* y) { el::simd::store<float>(y, el::simd::exp(el::simd::load(x))); };
  float x[w];
  float y[w];
  double worst = 0;
  float worst_at = 0;
  float at = -87.3F;
  while (at < 88.3F) {
    for (Index i = 0; i < w; ++i) {
      x[i] = at;
      at += 1.7e-5F * (1 + std::abs(at) / 8);  // 4 million points or so
    }
    exp_of(x, y);
    for (Index i = 0; i < w; ++i) {
      if (x[i] <= 88.3F) {
        const double exact = std::exp(static_cast<double>(x[i]));
        const auto rounded = static_cast<float>(exact);
        const double unit = static_cast<double>(std::nextafter(rounded, INFINITY) - rounded);
        const double error = std::abs(static_cast<double>(y[i]) - exact) / unit;
        if (!(error <= worst)) {
          worst = error;
          worst_at = x[i];
        }
      }
    }
  }
  INFO(worst << " units at " << worst_at);
  CHECK(worst <= 2.0);
  const float extremes[] = {0.0F, -0.0F, -INFINITY, -1e30F, -87.3F, 88.3F, 1e30F, INFINITY};
  for (const float v : extremes) {
    std::fill_n(x, w, v);
    exp_of(x, y);
    const double clamped = std::exp(static_cast<double>(std::clamp(v, -87.3F, 88.3F)));
    CHECK(static_cast<double>(y[0]) == doctest::Approx(clamped).epsilon(3e-7));
  }
  for (const char* payload : {"", "1", "511", "4194303"}) {
    std::fill_n(x, w, std::nanf(payload));
    exp_of(x, y);
    CHECK(std::isnan(y[w - 1]));
  }
}

TEST_CASE("simd::tanh is within 3e-7 of it, relatively") {
  constexpr Index w = el::simd::width<float>;
  double worst = 0;
  for (double at = 1e-6; at < 12; at *= 1.0003) {
    float x[w];
    float y[w];
    for (Index i = 0; i < w; ++i) {
      x[i] = static_cast<float>((i % 2 == 0 ? at : -at) * (1 + static_cast<double>(i) * 1e-5));
    }
    el::simd::store<float>(y, el::simd::tanh(el::simd::load(x)));
    for (Index i = 0; i < w; ++i) {
      const double exact = std::tanh(static_cast<double>(x[i]));
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / std::abs(exact));
    }
  }
  CHECK(worst < 3e-7);
}

TEST_CASE("simd::normal_cdf is within 3e-7") {
  constexpr Index w = el::simd::width<float>;
  float x[w];
  double worst_cdf = 0;
  double worst_bell = 0;
  double squares = 0;
  Index points = 0;
  for (float at = -14.0F; at < 14.0F;) {
    for (Index i = 0; i < w; ++i) {
      x[i] = at;
      at += 1e-5F;
    }
    el::simd::Pack<float> cdf;
    el::simd::Pack<float> bell;
    el::simd::normal_cdf(el::simd::load(x), cdf, bell);
    for (Index i = 0; i < w; ++i) {
      const auto v = static_cast<double>(x[i]);
      const double cdf_error = std::abs(static_cast<double>(cdf[i]) - 0.5 * std::erfc(-v / std::sqrt(2.0)));
      const double bell_error = std::abs(static_cast<double>(bell[i]) - std::exp(-0.5 * v * v));
      worst_cdf = std::max(worst_cdf, cdf_error);
      squares += cdf_error * cdf_error;
      ++points;
      worst_bell = std::max(worst_bell, bell_error);
    }
  }
  CAPTURE(worst_cdf);
  CAPTURE(worst_bell);
  CHECK(worst_cdf <= 3e-7);
  CHECK(std::sqrt(squares / static_cast<double>(points)) <= 4e-8);
  CHECK(worst_bell <= 1e-7);
}

#endif

TEST_CASE_TEMPLATE("items equal to the target rank by their ids, whatever block they stand in", B, EVERY_BACKEND) {
  using T = typename B::Scalar;
  constexpr Index users = 5;
  constexpr Index items = 1500;
  constexpr Index d = 64;
  const B backend;
  const auto queries = el::test::random_matrix(backend, 3, users, d);
  const auto row = el::test::random_values(4, d);
  std::vector<T> values;
  for (Index v = 0; v < items; ++v) {
    values.insert(values.end(), row.begin(), row.end());
  }
  const auto table = to_device(backend, values);
  const auto targets = to_device(backend, std::vector<el::ItemId>{1, 500, 512, 1023, 1499});
  const auto offsets = to_device(backend, std::vector<std::int32_t>(users + 1, 0));
  auto ranks = to_device(backend, std::vector<Index>(users, -1));
  backend.parallel_for(1, [&](auto& lane, Index) {
    rank_targets(lane, {.first = 1, .last = items}, queries.view(), {table.data(), items, d}, {targets.data(), users},
                 {offsets.data(), users + 1}, {}, {ranks.data(), users});
  });
  CHECK(to_host<Index>(backend, std::span<const Index>(ranks.data(), users)) ==
        std::vector<Index>{0, 499, 511, 1022, 1498});
}
