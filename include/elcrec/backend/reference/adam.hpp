#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace reference {

/// f(row), row(table) being the elements of one of the rows.
template <class F>
void for_each_row_of(std::span<const std::int32_t> ids, F f) {
  for (const auto id : ids) {
    f([id](auto table) { return table.slice_rows(id, id + 1).flat(); });
  }
}

/// Adam on every element of a slot.
template <class T>
void adam_update(const AdamStep& step, const AdamSlot<T>& slot) {
  const auto [b1, b2, rate, root, eps, kept] = AdamFactors<T>(step);
  const T keep = slot.decays ? kept : T(1);
  for (std::size_t i = 0; i < slot.p.size(); ++i) {
    slot.m[i] = b1 * slot.m[i] + (T(1) - b1) * slot.g[i];
    slot.v[i] = b2 * slot.v[i] + (T(1) - b2) * slot.g[i] * slot.g[i];
    slot.p[i] = keep * slot.p[i] - rate * slot.m[i] / (std::sqrt(slot.v[i]) * root + eps);
  }
}

}  // namespace reference

/// Adam on elements [first, last) of the slots laid end to end: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g², then
/// AdamStep's update.
template <class T>
void adam(ReferenceLane<T>&, const AdamStep& step, std::span<const AdamSlot<std::type_identity_t<T>>> slots,
          Index first, Index last) {
  for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { reference::adam_update(step, part); });
}

/// adam on the given rows of tables (V, D): values, which decay, gradient, moments.
template <class T>
void adam_rows(ReferenceLane<T>&, const AdamStep& step, std::span<const std::int32_t> ids, Output<T> p, Input<T> g,
               Output<T> m, Output<T> v) {
  reference::for_each_row_of(ids, [&](auto row) {
    reference::adam_update<T>(step, {row(p), row(g), row(m), row(v), true});
  });
}

}  // namespace elcrec::inline ELCREC_TARGET
