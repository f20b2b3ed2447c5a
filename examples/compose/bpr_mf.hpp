#pragma once

// Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009) as RecBole has it: a user table in
// the place of an encoder, written outside the library.
#include <cstdint>

#include <elcrec/elcrec.hpp>

namespace compose {

namespace el = elcrec;

/// y_t = U[user of the sequence], whatever the items: a table whose gradient is rows.
template <el::Backend B>
class UserTable : public el::EmbeddingTable<B> {
 public:
  using Backend = B;
  using T = typename B::Scalar;
  using In = el::MatrixView<const T>;
  using Out = el::MatrixView<T>;
  struct Cache {};

  /// Row 0 is of nobody in particular; user u of the data is row u + 1, as in the column Users.
  UserTable(const B& backend, el::Index users, el::Index hidden, el::Index max_length, std::uint64_t seed)
      : el::EmbeddingTable<B>(backend, "user_embedding.weight", users + 1, hidden), max_length_(max_length) {
    el::initialise_normal(backend, seed, 1, 0.1, this->view());
  }

  [[nodiscard]] el::Index hidden() const { return this->cols(); }
  [[nodiscard]] el::Index max_length() const { return max_length_; }
  [[nodiscard]] bool causal() const { return true; }

  void forward(const el::Pass<B>& pass, const el::TokenView& tokens, In, Cache&, Out y) const {
    const auto frame = pass.lane.workspace().frame();
    pass.lane.gather_rows(this->view(), user_rows(pass.lane, pass.lane.workspace(), tokens), y, el::Write::replace);
  }

  void backward(const el::Pass<B>& pass, const el::TokenView& tokens, const Cache&, Out dy,
                typename el::TableGradient<B>::Slice& gradient, Out dembedded) const {
    gradient.add({user_rows(pass.lane, pass.memory, tokens), {}, dy});
    pass.lane.fill(dembedded, T(0));
  }

  void forward_last(const el::Pass<B>& pass, const el::TokenView& tokens, In, Out y) const {
    pass.lane.gather_rows(this->view(), tokens.template column<el::Users>(), y, el::Write::replace);
  }

  template <class To>
  [[nodiscard]] UserTable<To> remake(const To& backend) const {
    return {backend, this->rows() - 1, hidden(), max_length_, 0};
  }

 private:
  /// (T) the row of each token's user.
  std::span<const std::int32_t> user_rows(typename B::Lane& lane, auto& memory, const el::TokenView& tokens) const {
    tokens.template require_rows<el::Users>(this->rows());
    const auto ids = memory.template array<std::int32_t>(tokens.tokens());
    expand_ids(lane, tokens, tokens.template column<el::Users>(), 1, ids);
    return ids;
  }

  el::Index max_length_;
};

/// -log(1e-10 + σ(y·E[positive] - y·E[negative])), averaged over the interactions.
struct BprLoss {
  using Views = el::TypeList<el::InputView>;
  static constexpr std::string_view name = "bpr";
  static constexpr bool sums_over_samples = true;
  double weight = 1.0;

  void evaluate(el::TrainingStep auto& step) const {
    auto& users = step.template encoding<el::InputView>();
    el::pairwise_loss(step, users, el::PairwiseLoss::bpr_capped, weight, step.loss(*this));
  }
};

template <el::Backend B>
using BprMf = el::SequentialModel<UserTable<B>, BprLoss>;

}  // namespace compose
