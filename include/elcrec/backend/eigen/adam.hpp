#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/eigen/lane.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/reference/adam.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace eigen {

template <class T>
void adam_update(const AdamStep& step, const AdamSlot<T>& slot) {
  const AdamFactors<T> f(step);
  const T keep = slot.decays ? f.keep : T(1);
  each<T>(ssize(slot.p), [&, p = slot.p.data(), g = slot.g.data(), m = slot.m.data(), v = slot.v.data()](auto at) {
    at(m) = f.b1 * at(m) + (T(1) - f.b1) * at(g);
    at(v) = f.b2 * at(v) + (T(1) - f.b2) * at(g).square();
    at(p) = keep * at(p) - f.rate * at(m) / (at(v).sqrt() * f.root + f.eps);
  });
}

}  // namespace eigen

template <class T>
void adam(EigenLane<T>&, const AdamStep& step, std::span<const AdamSlot<std::type_identity_t<T>>> slots, Index first,
          Index last) {
  for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { eigen::adam_update(step, part); });
}

template <class T>
void adam_rows(EigenLane<T>&, const AdamStep& step, std::span<const std::int32_t> ids, Output<T> p, Input<T> g,
               Output<T> m, Output<T> v) {
  reference::for_each_row_of(ids, [&](auto row) {
    eigen::adam_update<T>(step, {row(p), row(g), row(m), row(v), true});
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
