#pragma once

#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/finite.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/optim/optimizer.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <Backend B>
class AdamState;

/// Adam as PyTorch defines it (no AMSGrad): rows without a gradient still move by their momentum. With `weight_decay`
/// it is AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019).
struct Adam {
  static constexpr std::string_view name = "adam";
  template <class B>
  using State = AdamState<B>;

  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  /// Lazy Adam: item rows without a gradient in a step keep their values and moments, so that a step with a sampled
  /// loss costs the same for any number of items. Not the same training: use it where the catalogue is large.
  bool lazy = false;
  /// Matrices (not biases, nor layer norms) shrink by this times the learning rate in every step; lazy rows in those
  /// that have a gradient for them.
  double weight_decay = 0;
};

/// Moments and step count of Adam for one list of parameters.
template <Backend B>
class AdamState {
  static_assert(operation::Adam<typename B::Lane>, "Adam: the lane lacks operations of operation::Adam");

 public:
  using T = typename B::Scalar;

  AdamState(const Adam& options, const B& backend, std::span<const Parameter<T>> parameters) : options_(options) {
    require(options.learning_rate > 0 && is_finite(options.learning_rate), "learning rate: found ",
            options.learning_rate, ", expected a positive number");
    for (const double beta : {options.beta1, options.beta2}) {
      require(beta >= 0 && beta < 1, "Adam beta: found ", beta, ", expected a value in [0, 1)");
    }
    require(options.epsilon > 0, "Adam epsilon: found ", options.epsilon, ", expected a positive number");
    require(options.weight_decay >= 0 && options.weight_decay * options.learning_rate < 1, "weight decay: found ",
            options.weight_decay, ", expected 0 or more, and less than 1 / learning rate");
    for (const auto& p : parameters) {
      moments_.push_back({p.name, Matrix<B>(backend, 1, p.values.size()), Matrix<B>(backend, 1, p.values.size())});
    }
  }

  /// One update at learning rate `rate_factor` · learning_rate.
  void step(const B& backend, std::span<const Parameter<T>> parameters, std::span<const Parameter<T>> gradients,
            double rate_factor) {
    ++steps_;
    const auto t = static_cast<double>(steps_);
    const double rate = rate_factor * options_.learning_rate;
    const AdamStep update{.rate = rate,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .epsilon = options_.epsilon,
                          .correction1 = 1 - std::pow(options_.beta1, t),
                          .correction2 = 1 - std::pow(options_.beta2, t),
                          .keep = 1 - rate * options_.weight_decay};
    dense_.clear();
    Index elements = 0;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      auto& moments = moments_[i];
      if (options_.lazy && gradients[i].rows) {
        step_rows(backend, update, parameters[i], gradients[i], moments);
        continue;
      }
      dense_.push_back({parameters[i].values.flat(), gradients[i].values.flat(), moments.mean.view().flat(),
                        moments.square.view().flat(), parameters[i].rank == 2});
      elements += parameters[i].values.size();
    }
    constexpr Index block = Index{1} << 14;
    backend.parallel_blocks(elements, block,
                            [&](auto& lane, Index first, Index last) { adam(lane, update, dense_, first, last); });
  }

  [[nodiscard]] long steps() const { return steps_; }
  void set_steps(long n) { steps_ = n; }

  /// Of what visit names: squares.
  [[nodiscard]] static bool never_negative(std::string_view name) { return name.starts_with("square."); }

  template <class Visitor>
  void visit(Visitor&& visitor) {
    for (auto& moments : moments_) {
      visitor("mean." + moments.name, MatrixView<T>(moments.mean.view()));
      visitor("square." + moments.name, MatrixView<T>(moments.square.view()));
    }
  }

 private:
  struct Moments {
    std::string name;
    Matrix<B> mean;    // m, flat
    Matrix<B> square;  // v, flat
  };

  void step_rows(const B& backend, const AdamStep& update, const Parameter<T>& parameter, const Parameter<T>& gradient,
                 Moments& moments) {
    const auto table = [&](auto view) {
      return MatrixView<T>(view.data(), parameter.values.rows(), parameter.values.cols());
    };
    constexpr Index block = 256;
    backend.parallel_blocks(ssize(*gradient.rows), block, [&](auto& lane, Index first, Index last) {
      adam_rows(lane, update, slice(*gradient.rows, first, last), parameter.values,
                MatrixView<const T>(gradient.values), table(moments.mean.view()), table(moments.square.view()));
    });
  }

  Adam options_;
  long steps_ = 0;
  std::vector<Moments> moments_;
  std::vector<AdamSlot<T>> dense_;  // of the current step
};

}  // namespace elcrec::inline ELCREC_TARGET
