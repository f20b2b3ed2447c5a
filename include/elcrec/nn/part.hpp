#pragma once

#include <concepts>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "elcrec/core/concepts.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// What a model consists of: an object whose parameters have names (see nn/parameter.hpp). A copy is deep, so that one
/// part may hold the gradient of another.
///
/// To be saved and loaded with a model it is a DescribedPart as well.
template <class P>
concept Part = std::copy_constructible<P> && requires(const P& part) {
  typename P::Backend;
  P::visit_parameters(part, AnyFunction{});
};

/// A part that a file can bring back (see model/model_file.hpp):
///
/// - `name`, `Options` with a static visit_options (core/options.hpp), and `options()`;
/// - construction from (backend, options), which checks them: they may come from a file that nobody vouches for;
/// - `static void visit_shapes(const Options&, auto&& visitor)`: visitor(name, shape) for the parameters that such a
///   part has, so that a file's tensors are compared before anything is allocated. Throws ArgumentError for sizes whose
///   products are no Index;
/// - `static void check_unsaved(const Options&, Index saved)` if it allocates what does not shrink with its parameters:
///   throws ArgumentError where that is out of proportion to a file of `saved` numbers.
template <class P>
concept DescribedPart = Part<P> && Named<P> && HasOptions<typename P::Options> &&
    std::constructible_from<P, const typename P::Backend&, const typename P::Options&> &&
    requires(const P& part, const typename P::Options& options) {
  { part.options() } -> std::convertible_to<typename P::Options>;
  P::visit_shapes(options, AnyFunction{});
};

/// The gradient of a part whose objectives and passes run slice by slice: one copy of the part for each of
/// Backend::slices(), summed in their order, so that the sum does not depend on the number of threads.
template <Part P>
class SlicedGradient {
 public:
  using Backend = typename P::Backend;
  using Scalar = typename Backend::Scalar;

  SlicedGradient(const Backend& backend, const P& part) : slices_(static_cast<std::size_t>(backend.slices()), part) {
    for (auto& slice : slices_) {
      parameters_.push_back(parameters(slice));
      auto& views = views_.emplace_back();
      for (const auto& p : parameters_.back()) {
        views.push_back(p.values);
      }
    }
  }

  SlicedGradient(SlicedGradient&&) noexcept = default;
  SlicedGradient& operator=(SlicedGradient&&) = delete;

  /// Where slice s adds; no other slice does.
  [[nodiscard]] P& of(Index s) { return slices_[static_cast<std::size_t>(s)]; }

  void start(const Backend&) {}
  /// What the task of slice s sets to 0 at the beginning of a step.
  [[nodiscard]] std::span<const MatrixView<Scalar>> cleared_by(Index s) const {
    return views_[static_cast<std::size_t>(s)];
  }
  /// Takes in what refers to memory of the step under way.
  void flush(const Backend&) {}
  /// Adds the slices up, into the first.
  void sum(const Backend& backend) {
    const auto& total = parameters_.front();
    backend.parallel_for(ssize(std::span(total)), [&](typename Backend::Lane& lane, Index i) {
      const auto p = static_cast<std::size_t>(i);
      for (std::size_t s = 1; s < parameters_.size(); ++s) {
        lane.add_scaled(Scalar(1), parameters_[s][p].values, total[p].values);
      }
    });
  }
  /// After sum: the gradients, in the order in which the part names its parameters.
  void append_to(std::vector<Parameter<Scalar>>& list) const {
    list.insert(list.end(), parameters_.front().begin(), parameters_.front().end());
  }

 private:
  std::vector<P> slices_;
  std::vector<std::vector<Parameter<Scalar>>> parameters_;  // of each slice
  std::vector<std::vector<MatrixView<Scalar>>> views_;      // their values
};

/// What holds the gradient of part P: P::Gradient, a class with the members of SlicedGradient, or that.
template <Part P>
struct GradientOf {
  using Type = SlicedGradient<P>;
};
template <Part P>
  requires requires { typename P::Gradient; }
struct GradientOf<P> {
  using Type = typename P::Gradient;
};

}  // namespace elcrec::inline ELCREC_TARGET
