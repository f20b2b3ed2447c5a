#pragma once

// GRU4Rec (Hidasi et al., ICLR 2016) as RecBole has it: a recurrent encoder, written outside the library.
#include <cmath>
#include <cstdint>
#include <string_view>
#include <vector>

#include <elcrec/elcrec.hpp>

namespace compose {

namespace el = elcrec;

struct GruOptions {
  el::Index hidden = 64, state = 128, max_length = 50;

  static void visit_options(auto& self, auto&& visitor) {
    visitor("hidden", self.hidden);
    visitor("state", self.state);
    visitor("max_length", self.max_length);
  }
};

/// With x_t = E[item_t] and h_0 = 0:
///   r = σ(W_r x + U_r h),  z = σ(W_z x + U_z h),  n = tanh(W_n x + r ∘ (U_n h)),  h' = n + z ∘ (h - n),  y = V h' + b
/// Sequences pass token by token; what does not depend on the state is one product for all tokens.
template <el::Backend B>
class GruEncoder {
 public:
  static constexpr std::string_view name = "gru";
  using Options = GruOptions;
  using Backend = B;
  using T = typename B::Scalar;
  using In = el::MatrixView<const T>;
  using Out = el::MatrixView<T>;

  struct Cache {
    Out x, wx, previous, uh, gates, h;  // (T, D); W x (T, 3H); h before the token (T, H); U h (T, 3H); r, z, n; h'
  };

  GruEncoder(const B& backend, const GruOptions& o, std::uint64_t seed = 0)
      : max_length_(o.max_length),
        w_(backend, el::checked_product("gates", 3, o.state), o.hidden),
        u_(backend, el::checked_product("gates", 3, o.state), o.state),
        v_(backend, o.state, o.hidden) {
    std::uint32_t which = 1;  // 0 draws the item table
    for (auto& p : el::parameters(*this)) {
      if (p.rank == 2) {
        el::initialise_normal(backend, seed, which++, 1 / std::sqrt(static_cast<double>(p.values.cols())), p.values);
      }
    }
  }

  [[nodiscard]] GruOptions options() const { return {hidden(), u_.cols(), max_length_}; }
  [[nodiscard]] el::Index hidden() const { return v_.weight.rows(); }
  [[nodiscard]] el::Index max_length() const { return max_length_; }
  [[nodiscard]] bool causal() const { return true; }

  void forward(const el::Pass<B>& pass, const el::TokenView& tokens, In table, Cache& c, Out y) const {
    auto& lane = pass.lane;
    const el::Index t = tokens.tokens();
    const el::Index h = u_.cols();
    c = {pass.keep(t, hidden()), pass.keep(t, 3 * h), pass.keep(t, h),
         pass.keep(t, 3 * h),    pass.keep(t, 3 * h), pass.keep(t, h)};
    lane.gather_rows(table, tokens.items, c.x, el::Write::replace);
    lane.multiply_nt(c.x, w_.view(), c.wx, el::Write::replace);
    for (el::Index s = 0; s < tokens.sequences(); ++s) {
      for (el::Index i = tokens.host_begin(s); i < tokens.host_begin(s + 1); ++i) {
        const auto rz = gates(c.gates, i, 0, 2);
        const auto n = gates(c.gates, i, 2, 3);
        const auto previous = row(c.previous, i);
        const auto next = row(c.h, i);
        i == tokens.host_begin(s) ? lane.fill(previous, T(0)) : lane.copy(row(c.h, i - 1), previous);
        lane.multiply_nt(previous, u_.view(), row(c.uh, i), el::Write::replace);
        lane.copy(gates(c.wx, i, 0, 2), rz);
        lane.add_scaled(T(1), gates(c.uh, i, 0, 2), rz);
        sigmoid(lane, rz, rz);
        lane.multiply_elementwise(gates(c.gates, i, 0, 1), gates(c.uh, i, 2, 3), n, el::Write::replace);
        lane.add_scaled(T(1), gates(c.wx, i, 2, 3), n);
        tanh(lane, n, n);
        lane.copy(previous, next);
        lane.add_scaled(T(-1), n, next);
        lane.multiply_elementwise(gates(c.gates, i, 1, 2), next, next, el::Write::replace);
        lane.add_scaled(T(1), n, next);
      }
    }
    v_.forward(lane, c.h, y);
  }

  void backward(const el::Pass<B>& pass, const el::TokenView& tokens, const Cache& c, Out dy, GruEncoder& gradient,
                Out dembedded) const {
    auto& lane = pass.lane;
    const auto frame = lane.workspace().frame();
    const el::Index h = u_.cols();
    const Out dh = pass.scratch(tokens.tokens(), h);
    const Out dwx = pass.scratch(tokens.tokens(), 3 * h);
    const Out duh = pass.scratch(tokens.tokens(), 3 * h);
    v_.accumulate(lane, c.h, dy, gradient.v_);
    v_.input_gradient(lane, dy, dh, el::Write::replace);
    for (el::Index s = 0; s < tokens.sequences(); ++s) {
      for (el::Index i = tokens.host_begin(s + 1); i-- > tokens.host_begin(s);) {
        const auto z = gates(c.gates, i, 1, 2);
        const auto dr = gates(dwx, i, 0, 1);
        const auto dz = gates(dwx, i, 1, 2);
        const auto dn = gates(dwx, i, 2, 3);
        const auto kept = gates(duh, i, 0, 1);  // dh ∘ z, before r's gradient takes its place
        lane.copy(row(c.previous, i), dz);
        lane.add_scaled(T(-1), gates(c.gates, i, 2, 3), dz);
        lane.multiply_elementwise(row(dh, i), dz, dz, el::Write::replace);
        sigmoid_backward(lane, z, dz, dz);
        lane.multiply_elementwise(row(dh, i), z, kept, el::Write::replace);
        lane.copy(row(dh, i), dn);
        lane.add_scaled(T(-1), kept, dn);
        tanh_backward(lane, gates(c.gates, i, 2, 3), dn, dn);
        lane.multiply_elementwise(dn, gates(c.uh, i, 2, 3), dr, el::Write::replace);
        sigmoid_backward(lane, gates(c.gates, i, 0, 1), dr, dr);
        if (i > tokens.host_begin(s)) {
          lane.add_scaled(T(1), kept, row(dh, i - 1));
        }
        lane.copy(gates(dwx, i, 0, 2), gates(duh, i, 0, 2));
        lane.multiply_elementwise(dn, gates(c.gates, i, 0, 1), gates(duh, i, 2, 3), el::Write::replace);
        if (i > tokens.host_begin(s)) {
          lane.multiply_nn(row(duh, i), u_.view(), row(dh, i - 1), el::Write::add);
        }
      }
    }
    lane.multiply_tn(dwx, c.x, gradient.w_.view(), el::Write::add);
    lane.multiply_tn(duh, c.previous, gradient.u_.view(), el::Write::add);
    lane.multiply_nn(dwx, w_.view(), dembedded, el::Write::replace);
  }

  static void visit_parameters(auto& self, auto&& visitor) {
    visitor("gru_layers.weight_ih_l0", el::MatrixView(self.w_.view()), 2);
    visitor("gru_layers.weight_hh_l0", el::MatrixView(self.u_.view()), 2);
    el::Linear<B>::visit_parameters(self.v_, el::scoped("dense.", visitor));
  }
  static void visit_shapes(const GruOptions& o, auto&& visitor) {
    const el::Index gates = el::checked_product("gates", 3, o.state);
    visitor("gru_layers.weight_ih_l0", std::vector<el::Index>{gates, o.hidden});
    visitor("gru_layers.weight_hh_l0", std::vector<el::Index>{gates, o.state});
    el::Linear<B>::visit_shapes(o.state, o.hidden, el::scoped("dense.", visitor));
  }

 private:
  static Out row(Out m, el::Index i) { return m.slice_rows(i, i + 1); }
  /// Gates [first, last) of r, z, n at token i.
  static Out gates(Out m, el::Index i, el::Index first, el::Index last) {
    return row(m, i).slice_cols(first * m.cols() / 3, last * m.cols() / 3);
  }

  el::Index max_length_;
  el::Matrix<B> w_, u_;  // (3H, D), (3H, H)
  el::Linear<B> v_;      // (D, H)
};

template <el::Backend B>
using Gru4Rec = el::SequentialModel<GruEncoder<B>, el::NextItemSoftmax>;

}  // namespace compose
