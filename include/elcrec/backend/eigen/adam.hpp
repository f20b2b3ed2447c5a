#pragma once

#include <cstdint>
#include <span>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

template <class Base>
class Adam : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void adam(const AdamStep& step, std::span<const AdamSlot<T>> slots, Index first, Index last) const {
    for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { update(step, part); });
  }

  void adam_rows(const AdamStep& step, std::span<const std::int32_t> ids, Out p, In g, Out m, Out v) const {
    Base::for_each_row_of(ids, [&](auto row) { update(step, {row(p), row(g), row(m), row(v), true}); });
  }

 private:
  static void update(const AdamStep& step, const AdamSlot<T>& slot) {
    const AdamFactors<T> f(step);
    const T keep = slot.decays ? f.keep : T(1);
    each<T>(ssize(slot.p), [&, p = slot.p.data(), g = slot.g.data(), m = slot.m.data(), v = slot.v.data()](auto at) {
      at(m) = f.b1 * at(m) + (T(1) - f.b1) * at(g);
      at(v) = f.b2 * at(v) + (T(1) - f.b2) * at(g).square();
      at(p) = keep * at(p) - f.rate * at(m) / (at(v).sqrt() * f.root + f.eps);
    });
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
