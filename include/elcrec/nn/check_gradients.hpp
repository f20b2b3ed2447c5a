#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

struct GradientCheckOptions {
  double step = 1e-5;      ///< a parameter is moved by this much to either side
  Index samples = 50;      ///< elements of each parameter, drawn at random; all where there are no more
  std::uint64_t seed = 0;  ///< of that draw
};

/// The gradient that agrees worst with its central difference. Print it: it says which one.
struct GradientCheck {
  /// |analytic - numeric| beyond the rounding of the loss, relative to the larger of the two, but at least to a
  /// thousandth of the largest gradient compared. Infinite if a value is not finite. A correct gradient stays below
  /// 1e-6.
  double error = 0;
  std::string parameter;
  Index row = 0;
  Index col = 0;
  double analytic = 0;
  double numeric = 0;
  Index compared = 0;  ///< elements that were compared

  friend std::ostream& operator<<(std::ostream& out, const GradientCheck& check) {
    return out << "worst of " << check.compared << " gradients: '" << check.parameter << "' (" << check.row << ", "
               << check.col << "), analytic " << check.analytic << ", numeric " << check.numeric << ", relative error "
               << check.error;
  }
};

/// A copyable component in double that names its parameters as nn/parameter.hpp asks.
template <class C>
concept GradientCheckable = std::copy_constructible<C> && std::same_as<typename C::Backend::Scalar, double> &&
    requires(C& component) {
  C::visit_parameters(component, AnyFunction{});
};

/// f(component, gradient): the loss of the component and, unless `gradient` is null, its derivatives added to the
/// parameters of *gradient, a component of the same type whose parameters are 0. Must be a pure function of the
/// parameters: dropout from fixed bits, no choice that a tiny move changes.
template <class F, class C>
concept GradientFunction = requires(F& f, C& component, C* gradient) {
  { f(component, gradient) } -> std::convertible_to<double>;
};

/// Compares the gradient of every parameter of `component` with (L(p + step) - L(p - step)) / (2 step). The component
/// is as before afterwards. Calls f twice an element and once more.
///
///   elcrec::Linear<elcrec::Reference> linear(backend, 3, 2);
///   const auto check = elcrec::check_gradients(linear, [&](auto& at, auto* gradient) { ...; return loss; });
///   require(check.error < 1e-6, check);
template <GradientCheckable C, GradientFunction<C> F>
[[nodiscard]] GradientCheck check_gradients(C& component, F&& f, const GradientCheckOptions& options = {},
                                            const typename C::Backend& backend = typename C::Backend()) {
  require(options.step > 0, "gradient check: found step ", options.step, ", expected a positive number");
  C gradient = component;
  for (auto& p : parameters(gradient)) {
    for (Index r = 0; r < p.values.rows(); ++r) {
      initialise_constant(backend, 0.0, p.values.slice_rows(r, r + 1));
    }
  }
  const double loss = f(component, &gradient);
  const double rounding = 64 * std::numeric_limits<double>::epsilon() * std::abs(loss) / options.step;

  const auto read = [&](const double* at) {
    double value = 0;
    backend.template copy<double>(std::span(at, 1), std::span(&value, 1));
    return value;
  };
  const auto write = [&](double value, double* at) {
    backend.template copy<double>(std::span(&value, 1), std::span(at, 1));
  };
  std::vector<GradientCheck> compared;
  const auto analytic = parameters(gradient);
  const auto moved = parameters(component);
  for (std::size_t i = 0; i < moved.size(); ++i) {
    const auto values = moved[i].values;
    std::vector<Index> elements(static_cast<std::size_t>(values.size()));
    std::iota(elements.begin(), elements.end(), Index{0});
    RandomEngine random({.seed = options.seed}, static_cast<std::uint32_t>(i));
    random.shuffle(std::span(elements));
    elements.resize(static_cast<std::size_t>(std::clamp<Index>(options.samples, 0, values.size())));
    for (const Index element : elements) {
      const Index r = element / values.cols();
      const Index c = element % values.cols();
      double* at = values.row(r) + c;
      const double original = read(at);
      const auto loss_at = [&](double value) {
        write(value, at);
        return static_cast<double>(f(component, static_cast<C*>(nullptr)));
      };
      const double numeric = (loss_at(original + options.step) - loss_at(original - options.step)) / (2 * options.step);
      write(original, at);
      compared.push_back({.parameter = moved[i].name,
                          .row = r,
                          .col = c,
                          .analytic = read(analytic[i].values.row(r) + c),
                          .numeric = numeric});
    }
  }

  double largest = 0;
  for (const auto& g : compared) {
    largest = (std::max)({largest, std::abs(g.analytic), std::abs(g.numeric)});
  }
  GradientCheck worst;
  for (auto& g : compared) {
    const double scale = (std::max)({std::abs(g.analytic), std::abs(g.numeric), 1e-3 * largest});
    const double excess = std::abs(g.analytic - g.numeric) - rounding;
    g.error = !is_finite(excess) ? std::numeric_limits<double>::infinity() : excess > 0 ? excess / scale : 0.0;
    if (worst.parameter.empty() || g.error > worst.error) {
      worst = g;
    }
  }
  worst.compared = static_cast<Index>(compared.size());
  return worst;
}

/// A component and a matrix that it is applied to, which counts as the parameter "input": so the gradient with respect
/// to the input is checked as well.
template <class C>
struct WithInput {
  using Backend = typename C::Backend;

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("input", self.input.view(), 2);
    C::visit_parameters(self.component, visitor);
  }

  C component;
  Matrix<Backend> input;
};

}  // namespace elcrec::inline ELCREC_TARGET
