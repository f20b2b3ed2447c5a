#pragma once

// Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009) as RecBole has it: a user table in
// the place of an encoder, written outside the library.
#include <cstdint>
#include <string_view>
#include <vector>

#include <elcrec/elcrec.hpp>

namespace compose {

namespace el = elcrec;

struct UserTableOptions {
  el::Index users = 1, hidden = 64, max_length = 50;

  static void visit_options(auto& self, auto&& visitor) {
    visitor("users", self.users);
    visitor("hidden", self.hidden);
    visitor("max_length", self.max_length);
  }
};

/// y_t = U[user of the sequence], whatever the items: a table whose gradient is rows.
template <el::Backend B>
class UserTable : public el::EmbeddingTable<B> {
 public:
  static constexpr std::string_view name = "user_table";
  using Options = UserTableOptions;
  using Backend = B;
  using T = typename B::Scalar;
  using In = el::MatrixView<const T>;
  using Out = el::MatrixView<T>;
  struct Cache {};

  /// Row 0 is of nobody in particular; user u of the data is row u + 1, as in the column Users.
  UserTable(const B& backend, const UserTableOptions& o, std::uint64_t seed = 0)
      : el::EmbeddingTable<B>(backend, "user_embedding.weight", o.users + 1, o.hidden), max_length_(o.max_length) {
    el::initialise_normal(backend, seed, 1, 0.1, this->view());
  }

  [[nodiscard]] UserTableOptions options() const { return {this->rows() - 1, this->cols(), max_length_}; }
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

  static void visit_shapes(const UserTableOptions& o, auto&& visitor) {
    el::require(o.users >= 1 && o.users < (el::Index{1} << 31), "users: found ", o.users, ", expected 1 to 2^31 - 1");
    visitor("user_embedding.weight", std::vector<el::Index>{o.users + 1, o.hidden});
  }
  template <class To>
  [[nodiscard]] UserTable<To> remake(const To& backend) const {
    return {backend, options()};
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

  static void visit_options(auto& self, auto&& visitor) { visitor("weight", self.weight); }

  void evaluate(el::TrainingStep auto& step) const {
    auto& users = step.template encoding<el::InputView>();
    el::pairwise_loss(step, users, el::PairwiseLoss::bpr_capped, weight, step.loss(*this));
  }
};

template <el::Backend B>
using BprMf = el::SequentialModel<UserTable<B>, BprLoss>;

}  // namespace compose
